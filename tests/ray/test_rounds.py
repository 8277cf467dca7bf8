"""Rounds through the whole driver: the real stages, an engine that follows rules, and a training that trains nothing."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from semievol import config
from semievol.cli import main
from semievol.config import Collaborator, RunConfig
from semievol.data import storage
from semievol.data.tables import row_id
from semievol.errors import UserError
from semievol.inference.pool import EnginePool
from semievol.reports import summary
from semievol.runs import pipeline, promotion, verify
from semievol.tasks import Row
from tests.support.engines import RuleEngine, requests
from tests.support.training import CopyTrainer

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(1200)]
OPTIONS = ["x", "y", "z"]
_TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"


def rows(numbers: range) -> list[dict[str, Any]]:
    """Answered A, B, C in turn by the engine, and truly so."""
    letters = {i: "ABC"[i % 3] for i in numbers}
    return [{"question": f"say={a} row={i}", "options": OPTIONS, "answer": a, "truth": a} for i, a in letters.items()]


def ids(numbers: range) -> set[int]:
    return {row_id(Row(row["question"], OPTIONS, None, None)) for row in rows(numbers)}


def put(file: Path, content: list[dict[str, Any]]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(map(json.dumps, content)))


@pytest.fixture
def settings(run_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunConfig]:
    """60 unlabeled rows, 12 labeled and 12 test rows, and a base model that is only a tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    for name, numbers in (("labeled", range(1000, 1012)), ("test", range(2000, 2012)), ("unlabeled/0", range(60))):
        put(tmp_path / f"{name}.jsonl", rows(numbers))
    run_config.data.labeled = f"{tmp_path}/labeled.jsonl"
    run_config.rounds = 3
    run_config.retrieve.by = "bm25"  # an embedding model takes seconds to start, each time
    run_config.engine.extra = {"log": f"{tmp_path}/requests"}
    run_config.label.collaborators = [
        Collaborator(name="plain", k=0),
        Collaborator(name="first", k=0, model="round-0"),
    ]
    yield run_config


def run(settings: RunConfig) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    return pipeline.Pipeline(settings, said.append, engines=EnginePool(RuleEngine), load_trainer=CopyTrainer).run(
        summary.write
    ), said


def written(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def lineage(folder: Path) -> list[str]:
    return (folder / "finetune" / "model" / "trained").read_text().split()


def test_rounds_over_the_same_rows_and_over_rows_that_arrive(settings: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "run"
    first, said = run(settings)
    # The engine says the same in every round, so nothing is gained, and round 2 does not pay.
    assert sum("no round 2 over these rows: the gain of round 1 is within noise" in line for line in said) == 1
    assert [one["round"] for one in first["rounds"]] == [0, 1]
    assert lineage(folder / "round-0") == ["finetune"]  # from the base
    assert lineage(folder / "round-1") == ["finetune", "finetune"]  # from the evolved model
    assert sorted(os.listdir(folder / "round-1")) == ["evaluate", "finetune", "label", "select"]
    for number in (0, 1):
        assert set(storage.read_table(f"{folder}/round-{number}/label/rows")["row_id"].to_pylist()) == ids(range(60))
    responses = storage.read_table(f"{folder}/round-1/label/rows")["responses"].to_pylist()
    assert {response["collaborator"] for row in responses for response in row} == {"plain", "first"}
    paired = json.loads((folder / "round-1/evaluate/compare/manifest.json").read_text())["metrics"]["paired"]
    assert paired["evolved_vs_previous"] == {"gained": 0, "lost": 0, "p_value": 1.0}

    before, asked = written(folder / "round-0") | written(folder / "round-1"), len(requests(f"{tmp_path}/requests"))
    again, said = run(settings)
    assert written(folder / "round-0") | written(folder / "round-1") == before
    assert sum("done before" in line for line in said) == 11 + 5
    assert len(requests(f"{tmp_path}/requests")) == asked and again["rounds"] == first["rounds"]

    # 50 new rows arrive in two files, among rows that are known; the first file is gone.
    put(tmp_path / "unlabeled" / "1.jsonl", rows(range(40, 90)))
    put(tmp_path / "unlabeled" / "2.jsonl", [*rows(range(80, 110)), *rows(range(1000, 1003)), *rows(range(2000, 2002))])
    (tmp_path / "unlabeled" / "0.jsonl").unlink()
    third, said = run(settings)
    ingested = json.loads((folder / "round-2/ingest/manifest.json").read_text())["rows"]
    assert ingested == {"came_in": 85, "out": 50, "quarantined": 0, "duplicates": 33, "leaks": 2}
    for stage in ("retrieve", "label"):
        found = storage.read_table(f"{folder}/round-2/{stage}/rows")["row_id"].to_pylist()
        assert len(found) == 50 and set(found) == ids(range(60, 110))
    unlabeled = {number for number in requests(f"{tmp_path}/requests")[asked:] if number < 1000}
    assert unlabeled == set(range(60, 110))  # nothing else was asked
    assert lineage(folder / "round-2") == ["finetune"] * 3
    assert third["pseudo_labels"]["accuracy"] > 0.5  # the oracle is that of the new rows
    after = written(folder / "round-0") | written(folder / "round-1")
    assert after == before
    assert any("no round 3 over these rows" in line for line in said)

    # Files without any new row are looked at once.
    put(tmp_path / "unlabeled" / "3.jsonl", rows(range(60, 70)))
    whole = written(folder)
    for looked in (1, 0):
        _, said = run(settings)
        assert any("1 unlabeled file(s) that have arrived since" in line and "no new row" in line for line in said)
        assert sum(line.startswith("ingest") and "10 duplicates" in line for line in said) == looked
        assert not (folder / "round-3").exists()
    assert {file: at for file, at in written(folder).items() if "round-" in str(file)} == {
        file: at for file, at in whole.items() if "round-" in str(file)
    }

    # What has to be read again must be there: nothing is removed before that is known.
    put(tmp_path / "labeled.jsonl", rows(range(1000, 1011)))
    with pytest.raises(UserError, match=r"round 0 would have to be read again.* 1 of its unlabeled files.*0\.jsonl"):
        run(settings)
    assert written(folder / "round-0") | written(folder / "round-1") == before


def test_select_again(settings: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "run"
    settings.rounds = 1
    with pytest.raises(UserError, match=r"no pseudo-labels in .* yet"):
        pipeline.Pipeline(settings, lambda _: None).select()
    run(settings)
    before, asked = written(folder / "round-0"), len(requests(f"{tmp_path}/requests"))
    capsys.readouterr()
    time.sleep(0.01)
    main(["select", str(folder), "select.theta=0.2", "--json"])
    printed = capsys.readouterr().out
    figures = json.loads(printed.strip().splitlines()[-1])
    selected = storage.read_table(f"{folder}/round-0/select/rows")["selected"].to_pylist()
    assert (figures["selected"], sum(selected), len(selected)) == (12, 12, 60)
    assert figures["pseudo_labels"]["coverage"] == 0.2 and figures["entropy_threshold"] > 0
    assert "round 0: 12 selected (" in printed and f"semievol run {folder}/config.yaml" in printed
    changed = {
        str(file.relative_to(folder / "round-0"))
        for file, at in written(folder / "round-0").items()
        if before.get(file) != at
    }
    assert {name.split("/")[0] for name in changed} == {"select"}
    assert len(requests(f"{tmp_path}/requests")) == asked

    resolved = config.load(f"{folder}/config.yaml")
    assert resolved.select.theta == 0.2
    states = {step.stage: step.state for step in pipeline.Pipeline(resolved, lambda _: None).plan()}
    assert states["select"] == states["label"] == states["evaluate/warm"] == "done"
    assert states["finetune"] == states["evaluate/evolved"] == states["evaluate/compare"] == "to do"


def test_validation_rows_are_carved_answered_and_decide(settings: RunConfig, tmp_path: Path) -> None:
    settings.rounds, settings.stop_early = 2, False
    settings.data.validation = 0.25
    settings.label.collaborators = settings.label.collaborators[:1]
    figures, said = run(settings)
    folder = tmp_path / "runs" / "run"
    assert any("9 labeled, 60 unlabeled, 12 test, 3 validation" in line for line in said)
    held_out = set(storage.read_table(f"{folder}/round-0/ingest/validation")["row_id"].to_pylist())
    assert len(held_out) == 3 and held_out < ids(range(1000, 1012))
    for stage in ("round-0/validate/base", "round-0/validate/evolved", "round-1/validate/evolved"):
        assert set(storage.read_table(f"{folder}/{stage}/rows")["row_id"].to_pylist()) == held_out
    metrics = json.loads((folder / "round-1/evaluate/compare/manifest.json").read_text())["metrics"]
    assert metrics["validation"]["paired"] == {"evolved_vs_previous": {"gained": 0, "lost": 0, "p_value": 1.0}}
    assert "validation" not in json.loads((folder / "round-0/evaluate/compare/manifest.json").read_text())["metrics"]
    assert {step["stage"] for step in figures["stages"]} >= {"validate/base", "validate/evolved"}
    opened = promotion.open_run(str(folder))
    assert verify.verify(*opened, said.append).problems == []
    assert promotion.promote(*opened, 1).accuracy == metrics["validation"]["accuracy"]["evolved"]
