"""What `semievol preview` prints. That its tokens are those of the run is in tests/unit/test_one_prompt.py."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("transformers")

from semievol import config as configuration
from semievol.cli import main
from semievol.data import storage
from semievol.data.tables import LABELED
from semievol.preview import rows
from semievol.retrieval.search import build_index
from tests.support.tokenizer import byte_level

CHAT = (
    "<|begin|>{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
EVIL = "\x1b[31mred [bold]"  # would steer a terminal, and rich


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A config with a small model, without weights, and rows of which some are long, bad, equal or in the test set."""
    model = tmp_path / "model"
    byte_level(CHAT, ["<|begin|>", "<|start|>", "<|end|>"], eos="<|end|>").save_pretrained(model)
    (model / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 700}')
    options = json.dumps(["up", "down"])
    rows = [{"question": f"{EVIL} moves {n}?", "options": options, "answer": "AB"[n % 2]} for n in range(15)]
    rows += [{"question": "long " * 200, "options": options, "answer": "A"}, {"question": "bad", "answer": "A"}]
    for name, some in (("labeled", rows[:9] + rows[15:]), ("unlabeled", [*rows[8:15], rows[9]]), ("test", rows[:2])):
        with (tmp_path / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in some)
    (tmp_path / "c.yaml").write_text(
        f"""
        name: x
        model: {{base: {model}}}
        data: {{labeled: {tmp_path}/labeled.jsonl, unlabeled: {tmp_path}/unlabeled.jsonl, test: {tmp_path}/test.jsonl}}
        retrieve: {{by: bm25}}
        """
    )
    return tmp_path


def seen(project: Path, capsys: pytest.CaptureFixture[str], *more: str, width: int = 80) -> tuple[str, dict[str, Any]]:
    """What the command prints, and its JSON."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("COLUMNS", str(width))
        main(["preview", f"{project}/c.yaml", *more, "--json"])
    *lines, last = capsys.readouterr().out.splitlines()
    return "\n".join(lines), json.loads(last)


def test_it_shows_each_stage_once_and_starts_nothing(project: Path) -> None:
    # In a process of its own: beside tests that use Ray, this one has it imported already.
    code = f"import sys; from semievol.cli import main; main(['preview', '{project}/c.yaml', '-n', '1', '--json'])"
    code += "; assert not {'ray', 'vllm', 'sentence_transformers'} & set(sys.modules)"
    before = sorted(project.rglob("*"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(project.rglob("*")) == before
    *lines, last = done.stdout.splitlines()
    text, found = "\n".join(lines), json.loads(last)
    # The prompt stands there as the model gets it: control tokens, line breaks, and what it is trained on.
    head = text.split("labeling, careful")[0]
    assert "    <|begin|><|start|>user\n    ␛[31mred [bold] moves 2?\n" in head
    assert "    <|start|>assistant⏎\n  trained on:\n    Answer: A<|end|>\n" in head
    assert re.search(r"^labeling, plain: \d+ tokens; as in warm-up$", head, re.MULTILINE)
    for stage in ("labeling, examples", "self-justification", "fine-tuning", "evaluation", "/v1/answer"):
        assert re.search(rf"^{stage}: \d+ tokens", text, re.MULTILINE)
    assert text.count("Here are solved examples.") == 2 and text.count("These answers were proposed:") == 1
    assert "unlabeled row, unlabeled.jsonl:2" in text and "test row, test.jsonl:1" in text
    first = found["prompts"][0]
    assert first["text"].endswith("assistant\nAnswer: A<|end|>") and first["trained"] == "Answer: A<|end|>"
    assert first["control"] == ["<|begin|>", "<|start|>", "<|end|>", "<|start|>", "<|end|>"]
    assert len(first["ids"]) == first["tokens"]
    assert found["prompts"][1] | {"request": "", "ids": []} == {
        **{"row": "labeled row, labeled.jsonl:3", "request": "", "ids": [], "tokens": first["tokens"] - 10},
        **{"exact": True, "same_as": "warm-up", "lost": []},
    }


def test_rows_are_those_that_the_run_would_use(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, found = seen(project, capsys)
    assert found["rows"]["labeled"]["fates"] == {"kept": 8, "quarantined": 1, "leak": 2}
    assert found["rows"]["unlabeled"]["fates"] == {"kept": 6, "duplicate": 2}
    assert found["labels"] == {"A": 5, "B": 3}
    assert "labeled: 1 quarantined: 0 options; multiple choice takes 2 to 10" in text
    assert "Answers of the labeled rows (2): 'A' 5, 'B' 3" in text
    with pytest.raises(SystemExit) as stop:
        main(["preview", f"{project}/c.yaml", "task.kind=numeric"])
    assert stop.value.code == 2 and "data.test: no usable row: 2 column 'answer'" in capsys.readouterr().err


def test_lengths_stand_against_what_fits(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["so", "so so", "long", "so " * 90, "so " * 500]  # a long labeled row is near to one
    (project / "unlabeled.jsonl").write_text(
        "".join(json.dumps({"question": text, "options": ["x", "y"]}) + "\n" for text in texts)
    )
    short, long = ["warmup.max_length=500"], ["warmup.max_length=1500"]
    for width in (80, 120):
        text, found = seen(project, capsys, *short, "label.max_tokens=30", width=width)
        assert max(map(len, text.split("Tokens of a row")[1].split("\n\n")[0].splitlines())) <= width
    tokens = found["tokens"]
    assert tokens["warm-up"]["limit"] == 500 and tokens["labeling, plain"]["limit"] == 670
    assert tokens["evaluation"]["limit"] == 684
    assert tokens["warm-up"]["cut"] == {"the question's beginning": 1} and tokens["warm-up"]["too_long"] == 0
    assert tokens["labeling, examples"]["cut"] == {"solved examples": 1, "the question's beginning": 1}
    assert tokens["labeling, plain"]["max"] > 1500 > tokens["labeling, plain"]["p50"]
    assert "warm-up: 1 of 8 rows lose the question's beginning" in text
    _, found = seen(project, capsys, *long)
    assert found["tokens"]["warm-up"]["cut"] == {}
    text, found = seen(project, capsys, "warmup.max_length=90")
    assert found["tokens"]["warm-up"]["too_long"] == 8 and "8 of 8 rows do not fit, and are quarantined" in text
    assert "warm-up: no part that makes sense fits" in text


def test_labeling_has_a_price(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "unlabeled.jsonl").write_text('{"question": "new one?", "options": ["x", "y"]}\n')
    prices = ["engine.price_per_million.input=100000", "engine.price_per_million.output=1000000"]
    text, found = seen(project, capsys, *prices)
    plain, *_, judge = found["labeling"]
    assert plain["rows"] == 1 and plain["prompt"] == found["tokens"]["labeling, plain"]["p50"]
    assert plain["output_per_row"] == 16 and plain["price"] == 0  # an engine of the run's own
    assert judge["request"] == "self-justification" and "price <=" in text

    endpoint = ["engine.kind=openai", "trainer.kind=openai", "model.base=gpt", *prices]
    collaborators = "label.collaborators=[{name: a, k: 0, samples: 3}]"
    text, found = seen(project, capsys, *endpoint, collaborators, "label.max_tokens=10", "-n", "1")
    plain, judge = found["labeling"]
    characters = len("new one?\n\nA. x\nB. y\n\nAnswer with the letter of the correct option.")
    assert plain["prompt"] == -(-characters // 4) and plain["output"] == 30
    assert plain["price"] == pytest.approx(plain["prompt"] * 0.1 + 30 * 1.0)
    assert "4 characters are one" in text and "labeling, a: about" in text and "[user]" in text
    assert found["tokens"]["warm-up"]["limit"] is None and not found["tokens"]["warm-up"]["exact"]
    assert seen(project, capsys, "label.mode=score")[1]["labeling"][0]["output_per_row"] == 1


@pytest.mark.parametrize("form", ["csv", "jsonl", "jsonl.gz", "parquet"])
def test_of_a_large_split_the_first_rows_of_files_are_read(
    project: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_WHOLE_BYTES", 5_000)
    folder = project / "many"
    folder.mkdir()
    for part in range(3):
        records = [
            {"question": f"how is {part} {n}?\nNow?", "options": '["x", "y"]', "note": "-" * 300} for n in range(500)
        ]
        file = folder / f"{part}.{form}"
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(records), file)
        elif form == "csv":
            lines = [f'"{r["question"]}","[""x"", ""y""]",{r["note"]}\n' for r in records]
            file.write_text("question,options,note\n" + "".join(lines))
        else:
            with gzip.open(file, "wt") if form.endswith("gz") else file.open("w") as out:
                out.writelines(json.dumps(r) + "\n" for r in records)
    config = configuration.load(f"{project}/c.yaml", [f"data.unlabeled={folder}"])
    split = rows.read(config, 30)["unlabeled"]
    assert len(split.records) == split.read == 30 and not split.whole
    assert {record["source"][-len(form) - 2 :] for record in split.records} == {f"{n}.{form}" for n in range(3)}
    assert split.total == pytest.approx(1500, rel=0 if form == "parquet" else 0.1)
    assert split.counted == ("counted in Parquet footers" if form == "parquet" else "estimated from file sizes")


def test_two_answers_stand_for_those_of_collaborators(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("labeled", "unlabeled", "test"):
        texts = [f"Tell {split} {n}" for n in range(5)]
        rows = [json.dumps({"question": text, "answer": text[-1] * 9}) + "\n" for text in texts]
        (project / f"{split}.jsonl").write_text("".join(rows))
    text, _ = seen(project, capsys, "task.kind=free_text", "data.columns.options=null", "-n", "1")
    proposed = re.findall(r"^    - Answer: (.*)$", text, re.MULTILINE)
    assert len(set(proposed)) == 2
    assert "trained on:\n    Answer: 000000000<|end|>" in text


def test_parts_are_carved_and_headers_shared_as_in_a_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = project / "shards"
    folder.mkdir()
    lines = [f'question {n},"[""x"", ""y""]",{"AB"[n % 2]}' for n in range(40)]
    (folder / "0.csv").write_text("\n".join(["question,options,answer", *lines[:20]]))
    (folder / "1.csv").write_text("\n".join(lines[20:]))
    _, found = seen(project, capsys, f"data.labeled={folder}", "data.test=0.25", "-n", "1")
    assert (found["rows"]["labeled"]["usable"], found["rows"]["test"]["usable"]) == (30, 10)
    assert found["rows"]["labeled"]["rows"] == 40 and found["labels"] == {"A": 15, "B": 15}

    (folder / "1.csv").unlink()
    sets = [f"question {n},a{n % 10};b{n % 10}" for n in range(20)]
    (folder / "0.csv").write_text("\n".join(["question,answer", *sets]))
    several = ["task.kind=classification", "task.multiple=true", "data.columns.options=null"]
    (project / "unlabeled.jsonl").write_text('{"question": "new?"}\n')
    _, found = seen(project, capsys, f"data.labeled={folder}", "data.test=0.5", *several, "-n", "1")
    assert set(found["labels"].values()) == {1} and len(found["labels"]) == 20  # half of each label is held back


def test_prompts_list_the_labels_that_the_run_would_find(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"question": f"what of topic{n}?", "answer": f"label{n}"}) + "\n" for n in range(12)]
    for split, some in (("labeled", [*lines[:10], *lines[:10]]), ("unlabeled", lines[3:5]), ("test", lines[7:8])):
        texts = [line.replace("what", f"{split}{n}") for n, line in enumerate(some)]
        (project / f"{split}.jsonl").write_text("".join(texts))
    shown = ["task.kind=classification", "data.columns.options=null", "task.show=likeliest", "task.show_tokens=8"]
    _, found = seen(project, capsys, *shown, "-n", "1")
    [asked] = [prompt["text"] for prompt in found["prompts"] if prompt["row"].startswith("unlabeled")]
    assert "Answer with one of these labels alone.\nLabels:\n- label3\n" in asked
    [tested] = [prompt["text"] for prompt in found["prompts"] if prompt["row"].startswith("test")]
    assert "Labels:\n- label7\n" in tested and "label1" not in tested  # as many as show_tokens says
    config = configuration.load(f"{project}/c.yaml", shown)
    splits = rows.read(config, 100)
    labeled = pa.Table.from_pylist([{n: r.get(n) for n in LABELED.names} for r in splits["labeled"].records], LABELED)
    storage.write_table(f"{project}/in/0.parquet", labeled)
    task = config.task.learned({record["answer"]: 1 for record in splits["labeled"].records})
    build_index(f"{project}/in", f"{project}/out", config.embedding, config.retrieve, task)
    [trained] = [prompt["text"] for prompt in found["prompts"] if prompt["request"] == "warm-up"]
    first = next(r for r in storage.read_table(f"{project}/out/rows").to_pylist() if r["question"] in trained)
    assert "Labels:\n" + "".join(f"- {label}\n" for label in first["candidates"])[:-1] + "<|end|>" in trained


def test_a_set_of_labels_may_be_longer_than_max_tokens(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a long name of a label " * 4
    for split in ("labeled", "unlabeled", "test"):
        texts = [json.dumps({"question": f"{split} {n}", "answer": [f"{name}{n % 3}"]}) + "\n" for n in range(6)]
        (project / f"{split}.jsonl").write_text("".join(texts))
    several = ["task.kind=classification", "task.multiple=true", "data.columns.options=null"]
    _, found = seen(project, capsys, *several, "-n", "1")
    assert found["labeling"][0]["output_per_row"] > 100  # as `label` asks for them


def test_no_control_character_of_a_row_reaches_the_terminal(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"question": "red \x9b31m \x1b[1m", "options": ["x", "y"], "answer": "A"}
    (project / "unlabeled.jsonl").write_text(json.dumps(row) + "\n")
    text, _ = seen(project, capsys, "-n", "1")
    assert "red \ufffd31m" in text and not {"\x9b", "\x1b"} & set(text)
