"""What people bring, through the real engine and DeepSpeed: a CSV of text and label, several labels a row, chats."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from semievol import config
from semievol.data import storage
from semievol.reports import summary
from semievol.runs.pipeline import Pipeline
from tests.support import served
from tests.support.command import semievol
from tests.support.conversations import write_chats
from tests.support.served import Served
from tests.support.shared import MODEL, SHARED, needs_model, needs_rows

pytestmark = [needs_rows, needs_model, pytest.mark.timeout(1200)]
SMALL = [
    *("warmup.learning_rate=2e-3", "finetune.learning_rate=2e-3", "finetune.epochs=1"),
    *("resources.train.workers=1", "retrieve.k=1", "label.collaborators=[{name: plain, k: 0}, {name: one, k: 1}]"),
]


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """A local Ray, in this process, for several runs."""
    import ray

    yield  # the first run connects
    ray.shutdown()


def select(file: Path, *overrides: str, only_needed: bool) -> dict[str, Any]:
    """Run a config as far as the selection, in this process, and return the summary."""
    by_words = "retrieve.by=bm25"  # the run of text and label has the embedding model
    settings = config.load(str(file), [*SMALL, by_words, *overrides])
    return Pipeline(settings, print).run(summary.write, "select", only_needed=only_needed)


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two CSV files as people have them: `text,label`, and `text` alone."""
    folder = tmp_path_factory.mktemp("tickets")
    with (SHARED / "data" / "trec" / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "labeled.csv").open("w", newline="") as out:
        csv.writer(out).writerows([["text", "label"], *([row["text"], row["label"]] for row in rows[:60])])
    with (folder / "unlabeled.csv").open("w", newline="") as out:
        csv.writer(out).writerows([["text"], *([row["text"]] for row in rows[60:120])])
    return folder


@pytest.fixture(scope="module")
def endpoint(sheets: Path) -> Iterator[Served]:
    made = semievol(
        "init", str(sheets / "labeled.csv"), str(sheets / "unlabeled.csv"), f"--model={MODEL}", f"-o{sheets}/run.yaml"
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert "classification" in made.stdout
    done = semievol("run", f"{sheets}/run.yaml", *SMALL, f"storage={sheets}/runs", "warmup.epochs=1", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    running = served.start(json.loads(done.stdout.splitlines()[-1])["places"]["run"], "serving.models=[evolved]")
    yield running
    served.stop(running)


def test_text_and_label_from_two_files_to_an_answer(endpoint: Served) -> None:
    figures = json.loads(storage.read_text(f"{endpoint.run}/summary.json"))
    assert all(0 <= model["accuracy"] <= 1 for model in figures["models"].values())
    splits = figures["data"]["splits"]
    assert splits["test"]["kept"] == 12 and splits["labeled"]["kept"] + splits["test"]["kept"] == 60
    for row in storage.read_table(f"{endpoint.run}/round-0/label/rows").to_pylist():
        assert sum(share["share"] for share in row["responses"][0]["distribution"]) == pytest.approx(1, abs=1e-3)
    known = json.loads(storage.read_text(f"{endpoint.run}/round-0/ingest/labels.json"))
    one = endpoint.http.post("/v1/answer", json={"question": "Who wrote Hamlet ?"}).json()
    assert one["answer"] in known and one["text"] == one["answer"]
    assert 1 / len(known) <= one["confidence"] <= 1
    shares = {entry["answer"]: entry["share"] for entry in one["distribution"]}
    assert shares[one["answer"]] == max(shares.values()) and sum(shares.values()) == pytest.approx(1, abs=1e-3)
    card = endpoint.http.get("/v1/task").json()
    assert card["kind"] == "classification" and sorted(card["labels"]) == sorted(known) and card["example"]["question"]
    page = httpx.get(f"{endpoint.url}/", trust_env=False).text
    assert "/v1/task" in page


def test_several_labels_a_row(one_ray: None, tmp_path: Path) -> None:
    topics = {"pay": "the invoice was paid twice", "ship": "the parcel is late", "login": "the password fails"}
    pairs = [["pay"], ["ship"], ["login"], ["pay", "ship"], ["login", "pay"]]
    rows = [(" and ".join(topics[t] for t in pairs[i % 5]) + f", case {i}", ";".join(pairs[i % 5])) for i in range(80)]
    for name, part in (("labeled", rows[:40]), ("unlabeled", rows[40:64]), ("test", rows[64:])):
        with (tmp_path / f"{name}.csv").open("w", newline="") as out:
            csv.writer(out).writerows([["text", "labels"], *part])
    (tmp_path / "c.yaml").write_text(
        f"""
        name: topics
        storage: {tmp_path}/runs
        model: {{base: {MODEL}}}
        task: {{kind: classification, multiple: true, separator: ";"}}
        data:
          labeled: {tmp_path}/labeled.csv
          unlabeled: {tmp_path}/unlabeled.csv
          test: {tmp_path}/test.csv
          columns: {{question: text, answer: labels, oracle: labels}}
        """
    )
    figures = select(tmp_path / "c.yaml", "warmup.epochs=6", only_needed=True)  # no evaluation, so one engine
    assert figures["selected"] > 0
    for row in storage.read_table(f"{figures['places']['run']}/round-0/label/rows").to_pylist():
        assert row["answer"] is None or set(json.loads(row["answer"])) <= set(topics)


def test_chats_of_three_turns(one_ray: None, tmp_path: Path) -> None:
    write_chats(tmp_path, labeled=24, unlabeled=24, test=8)
    (tmp_path / "c.yaml").write_text(
        f"""
        name: chats
        storage: {tmp_path}/runs
        model: {{base: {MODEL}}}
        task: {{kind: chat, loss: all}}
        data: {{labeled: {tmp_path}/labeled.jsonl, unlabeled: {tmp_path}/unlabeled.jsonl, test: {tmp_path}/test.jsonl}}
        """
    )
    short = ("warmup.epochs=1", "label.max_tokens=12", "evaluate.max_tokens=12")
    figures = select(tmp_path / "c.yaml", *short, only_needed=False)
    assert all(0 <= model["accuracy"] <= 1 for model in figures["models"].values())
    folder = figures["places"]["run"]
    row = storage.read_table(f"{folder}/round-0/label/rows").to_pylist()[0]
    assert [turn["role"] for turn in row["history"]][-2:] == ["user", "assistant"]
    trained = storage.read_table(f"{folder}/round-0/warmup/rows").to_pylist()[0]
    assert [turn["role"] for turn in trained["prompt"]][-3:] == ["user", "assistant", "user"]
    taught = [label != -100 for label in trained["labels"]]
    assert sum(1 for here, before in zip(taught, [False, *taught], strict=False) if here and not before) == 2
