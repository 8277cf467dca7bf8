"""`init`: what it decides about the files that people have, and the config that it writes."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from semievol import config
from semievol.cli.init import as_yaml
from semievol.cli.main import main
from semievol.tasks import KINDS
from tests.support.layouts import CASES, LABELS, Make, Row, save, text


def init(
    folder: Path, make: Make, rows: int = 60, hidden: tuple[str, ...] = (), form: str = "jsonl", *flags: str
) -> str:
    """Run `init` over files of made rows, of which the unlabeled ones lack some columns, and return the config."""
    made = [make(i) for i in range(rows)]
    bare = [{name: value for name, value in make(i).items() if name not in hidden} for i in range(rows, rows + 90)]
    labeled, unlabeled = save(folder / f"tickets.{form}", made), save(folder / f"new.{form}", bare)
    call("init", labeled, unlabeled, "-o", f"{folder}/c.yaml", "--force", *flags)
    return (folder / "c.yaml").read_text()


def call(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def read(written: str) -> Any:
    return OmegaConf.to_container(OmegaConf.create(written.replace("???", "m")), resolve=True)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_what_it_decides(name: str, form: str, tmp_path: Path) -> None:
    make, hidden, expected = CASES[name]
    if form == "csv" and any(isinstance(value, (list, dict)) for value in make(0).values()):
        listed = make

        def make(i: int) -> Row:
            return {k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in listed(i).items()}

    written = init(tmp_path, make, hidden=hidden, form=form)
    given = read(written)
    columns = given["data"].get("columns") or {}
    said = {**given["task"], **columns, **given.get("prompt", {})}
    for key in expected.keys() - {"labels", "template", "oracle"}:
        assert said[key] == expected[key], f"{key}\n{written}"
    assert said["kind"] != "chat" or set(columns) == expected.keys() & {"messages"}
    if "labels" in expected:
        assert sorted(said["labels"]) == expected["labels"]
    assert "template" not in said or said["template"].split("\n\n") == [*expected["template"], "{{ instruction }}\n"]
    assert ("template" in said) == ("template" in expected) and ("context" in said) == ("context" in expected)
    assert (f"# oracle: {expected.get('oracle')}" in written) == ("oracle" in expected)
    if given["task"]["kind"] in KINDS:
        loaded = config.load(f"{tmp_path}/c.yaml", ["model.base=m"])
        assert loaded.data.carved == {"test": 0.2}
        for key in ("question", "answer", "context"):
            assert (
                getattr(loaded.data.columns, key) == said.get(key, {"question": "question"}.get(key)) or key == "answer"
            )


@pytest.mark.parametrize(
    ("make", "hidden", "flags", "message"),
    [
        (lambda i: {"a": text(i), "b": text(i + 1)}, (), (), "cannot tell which column holds the answers: .* has a, b. Name it: --answer"),
        (lambda i: {"text": text(i)}, (), (), "which column holds the answers: .* has text. The first file is that of rows with answers, the sec"),
        (lambda i: {"text": text(i), "label": "same"}, ("label",), (), r"answers: .* \(label: the same in all rows\). Name it: --answer"),
        (lambda i: {"text": text(i), "id": i, "day": f"2024-01-{i % 28:02}"}, (), (), "which column holds the answers"),
        (lambda i: {"id": i, "label": "xy"[i % 2]}, ("label",), (), "which column holds the texts: .* has id, label. Name it: --question"),
        (lambda i: {"text": text(i), "label": "xy"[i % 2]}, (), ("--answer", "lable"), "--answer: .* has no column 'lable'; it has text, label"),
        (lambda i: {"text": text(i), "label": "xy"[i % 2]}, (), ("--kind", "clasification"), "--kind: must be one of .*, is 'clasification'"),
        (lambda i: {"text": text(i), "label": "xy"[i % 2]}, (), ("--kind", "multiple_choice"), "no column of .* is a list of options"),
        (lambda i: {"question": text(i), "A": "x", "B": "y", "C": "z", "answer": "A"}, (), (), r"columns of their own \(A, B, C\)"),
        (lambda i: {"question": text(i), "options": ["x", "y"], "answer": i % 2}, (), (), r"'answer' \(0, 1, ...\) holds neither letters"),
        (lambda i: {"question": text(i), "answers": {"text": ["x"]}}, ("answers",), (), r"\(answers: mappings, not texts\)"),
        (lambda i: {"card has not come": text(i), "card": LABELS[i % 3]}, ("card",), (), "its first line, card has not come, card, looks"),
        (lambda i: {"question": text(i), "choices": {"first": "x"}, "answer": "A"}, (), (), "column 'choices' holds mappings"),
    ],
)  # fmt: skip
def test_where_it_cannot_tell_it_names_the_columns_and_the_flag(
    make: Make,
    hidden: tuple[str, ...],
    flags: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    with pytest.raises(FileNotFoundError):
        init(tmp_path, make, 60, hidden, "jsonl", *flags)
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert "Traceback" not in said


def test_it_says_what_it_saw_and_writes_over_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labeled = save(tmp_path / "l.csv", [{"text": text(i), "label": LABELS[i % 3]} for i in range(40)])
    unlabeled = save(tmp_path / "u.csv", [{"text": text(i), "label": "card"} for i in range(40, 90)])
    test = save(tmp_path / "t.csv", [{"text": text(i), "label": LABELS[i % 3]} for i in range(90, 99)])
    out = tmp_path / "made" / "c.yaml"
    assert call("init", labeled, unlabeled, test, "-o", str(out), "--model", "Qwen/Qwen2.5-0.5B") == 0
    said = capsys.readouterr().out
    for part in (
        "40 rows: text, label",
        "50 rows",
        "9 rows",
        "column label: by its name (--answer)",
        "labels     3: card 14",
    ):
        assert part in said
    assert f"Read it, then:\n  semievol plan {out}\n" in said and "--kind" in said
    given = read(out.read_text())
    assert given["data"]["test"] == test and given["model"]["base"] == "Qwen/Qwen2.5-0.5B"
    assert call("init", labeled, unlabeled, "-o", str(out)) == 2
    assert f"{out} exists already" in capsys.readouterr().err and read(out.read_text()) == given
    assert call("init", labeled, unlabeled, "-o", str(out), "--force") == 0
    assert read(out.read_text())["data"]["test"] == 0.2 and "???" in out.read_text()
    assert f"set model.base in it, then:\n  semievol plan {out}\n" in capsys.readouterr().out
    assert call("plan", str(out)) == 2
    assert "model.base" in capsys.readouterr().err
    for path in (f"{tmp_path}/none.csv", ""):
        assert call("init", labeled, path, "-o", f"{tmp_path}/d.yaml") == 2
        assert f"UNLABELED: no file at '{path}'" in capsys.readouterr().err
    blind = save(tmp_path / "blind.csv", [{"text": text(i)} for i in range(9)])
    assert call("init", labeled, unlabeled, blind, "-o", f"{tmp_path}/d.yaml") == 2
    assert "blind.csv' has no column 'label' with the answers; it has text" in capsys.readouterr().err
    other = save(tmp_path / "other.csv", [{"sentence": text(i)} for i in range(9)])
    assert call("init", labeled, other, "-o", f"{tmp_path}/d.yaml") == 2
    assert "other.csv' sentence. The texts must be in columns of the same name" in capsys.readouterr().err


def test_it_says_which_rows_will_not_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "15 labeled rows have no tags, and will not be used"
    for tags, more in (("", ": write [] where"), ([], None), (None, ": write"), ("", "\n")):
        cells = [["card", "fee"], ["fee"], tags, ["fee", "loan"]] if more != "\n" else ["card", "fee", tags, "loan"]
        written = init(tmp_path, lambda i, cells=cells: {"": i, "text": text(i), "tags": cells[i % 4]})  # type: ignore[misc]
        assert ("multiple" in read(written)["task"]) == (more != "\n")
        printed = capsys.readouterr().out
        assert "60 rows: (no name), text, tags" in printed
        assert said + more in printed if more else said not in printed


def test_a_config_without_a_path_is_named_by_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my bank").mkdir()
    for name in ("train.csv", "new.csv"):
        save(tmp_path / "my bank" / name, [{"text": text(i), "label": LABELS[i % 3]} for i in range(40)])
    assert call("init", "my bank/train.csv", "my bank/new.csv") == 0
    assert read((tmp_path / "my-bank.yaml").read_text())["name"] == "my-bank"


def test_sizes_follow_the_rows(tmp_path: Path) -> None:
    few = read(init(tmp_path, lambda i: {"text": text(i), "label": LABELS[i % 3]}, 60, ("label",)))
    many = read(init(tmp_path, lambda i: {"text": text(i) * 60, "label": LABELS[i % 3]}, 6000, ("label",)))
    assert few["warmup"]["epochs"] == "auto" and few["warmup"]["batch_size"] < many["warmup"]["batch_size"]
    assert few["warmup"]["max_length"] == 256 and many["warmup"]["max_length"] == 1024 == many["finetune"]["max_length"]
    assert many["engine"]["max_model_len"] > many["warmup"]["max_length"]
    told = read(init(tmp_path, lambda i: {"question": text(i), "answer": text(i) * 20}, 60, ("answer",)))
    assert told["label"]["max_tokens"] == told["evaluate"]["max_tokens"] >= 256


def test_only_so_many_labels_are_written_out(tmp_path: Path) -> None:
    thirty = init(tmp_path, lambda i: {"text": text(i), "label": f"l{i % 30}"}, 90, ("label",))
    more = init(tmp_path, lambda i: {"text": text(i), "label": f"l{i % 31}"}, 93, ("label",))
    assert len(read(thirty)["task"]["labels"]) == 30 and "- l7 # 3\n" in thirty
    assert "labels" not in read(more)["task"] and "there are 31" in more


ODD = [
    "plain",
    "two words",
    "yes",
    "No",
    "null",
    "~",
    "1",
    "1.5",
    "1e5",
    "true",
    "a: b",
    "a #b",
    "- a",
    "???",
    "${x}",
    "a ${b.c} d",
]
ODD += [
    "\\${x}",
    "it's",
    'say "x"',
    "日本語",
    "line\nbreak",
    " blank ",
    "",
    "*a",
    "&a",
    "!a",
    "%",
    "@a",
    "{a}",
    "[a]",
    "2024-01-05",
]
ODD += [
    "/a/b.csv",
    "s3://b/k?x=1",
    "a,b",
    "\u2028",
    "\u0085",
    "C:\\data",
    "x" * 300,
    "0x1F",
    "1_000",
    "on",
    ".inf",
    "=",
    "<<",
]


@pytest.mark.parametrize("value", ODD)
def test_any_label_is_read_back_as_it_is(value: str) -> None:
    written = f"labels:\n  - {as_yaml(value)} # 3\n  - key: {as_yaml(value)} # why\n"
    read_back = OmegaConf.to_container(OmegaConf.create(written), resolve=True)
    assert read_back == {"labels": [value, {"key": value}]}


def test_what_people_call_a_column_ends_no_comment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked, said = "Customer\ncomment", "Final\r\nlabel\u2028name: evil\x1b[31m"

    def make(i: int) -> Row:
        return {asked: text(i), said: LABELS[i % 3]}

    for flags in ((), ("--question", asked, "--answer", said)):
        given = read(init(tmp_path, make, 60, (said,), "jsonl", *flags))
        assert given["name"] == "tickets" and given["task"]["kind"] == "classification"
        assert given["data"]["columns"] == {"question": asked, "answer": said}
    assert not {"\r", "\u2028", "\x1b"} & set(capsys.readouterr().out)
    chat = read(
        init(
            tmp_path,
            lambda i: {"talk\nhere": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        )
    )
    assert chat["task"]["kind"] == "chat" and chat["data"]["columns"] == {"messages": "talk\nhere"}
