"""A committee of three through the whole driver, from files to labels: who was trained on what, and who answered what."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from semievol.config import Collaborator, RunConfig
from semievol.data import storage
from semievol.data.tables import CROSSFITTED, PSEUDO_LABELED
from semievol.inference.pool import EnginePool
from semievol.reports import summary
from semievol.runs import pipeline, promotion, verify
from tests.support.engines import WitnessEngine
from tests.support.tokenizer import byte_level
from tests.support.training import MemberTrainer

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]
LABELED, UNLABELED, TEST = range(1000, 1012), range(20), range(2000, 2006)


@pytest.fixture
def settings(run_config: RunConfig, tmp_path: Path) -> RunConfig:
    byte_level("{% for m in messages %}{{ m.content }} {% endfor %}", ["<|end|>"]).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "unlabeled").mkdir()
    for name, numbers in (("labeled", LABELED), ("unlabeled/0", UNLABELED), ("test", TEST)):
        rows = [
            {"question": f"say={'ABC'[i % 3]} row={i}", "options": ["x", "y", "z"], "answer": "ABC"[i % 3]}
            for i in numbers
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run_config.data.labeled, run_config.data.columns.oracle = f"{tmp_path}/labeled.jsonl", None
    run_config.retrieve.by = "bm25"  # an embedding model takes seconds to start
    run_config.engine.extra = {"log": f"{tmp_path}/log"}
    run_config.label.mode = run_config.evaluate.mode = "score"
    run_config.warmup.members, run_config.warmup.context, run_config.warmup.max_length = 3, "knn", 10_000
    run_config.prompt.styles = {"plain": "", "careful": "Be careful.", "quick": "Be quick."}
    run_config.label.collaborators = [Collaborator(name="all", k=2), Collaborator(name="base", model="base", k=2)]
    return run_config


def run(settings: RunConfig) -> None:
    driver = pipeline.Pipeline(settings, lambda _: None, engines=EnginePool(WitnessEngine), load_trainer=MemberTrainer)
    driver.run(summary.write, until="label")


def table(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = storage.read_table(str(folder)).to_pylist()
    return rows


def number(row: dict[str, Any]) -> int:
    return int(row["question"].rpartition("=")[2])


def test_each_member_learns_and_answers_what_it_should(settings: RunConfig, tmp_path: Path) -> None:
    round_0 = tmp_path / "runs" / "run" / "round-0"
    with pytest.raises(RuntimeError, match="the trainer died"):
        run(settings)
    run(settings)
    trainings = (tmp_path / "trainings").read_text().splitlines()
    assert trainings == ["0 8 4", "1 8 4", "2 8 4", "2 8 4", "4 8 4"]  # no finished member again; 1 with another seed

    warmup = json.loads((round_0 / "warmup" / "manifest.json").read_text())
    metrics = warmup["metrics"]
    assert (metrics["held_out_loss"], metrics["best"], metrics["trained_again"]) == ([0.5, 0.45, 0.4], 2, [1])
    assert warmup["rows"]["came_in"] == warmup["rows"]["out"] == 24
    folds = {row["row_id"]: row["fold"] for row in table(round_0 / "warmup" / "folds")}
    folders = json.loads((round_0 / "warmup" / "members.json").read_text())["folders"]
    assert folders == ["member-0", "member-1-again", "member-2"]
    for m, folder in enumerate(folders):
        learned, held_out = (table(round_0 / "warmup" / folder / part) for part in ("rows", "held_out/rows"))
        assert {folds[row["row_id"]] for row in held_out} == {m} and len(held_out) == 4
        assert {folds[row["row_id"]] for row in learned} == {0, 1, 2} - {m}
        assert {row["prompt"][0]["content"][:8] for row in learned} == {["Here are", "Be caref", "Be quick"][m]}

    folder, _ = promotion.open_run(f"{tmp_path}/runs/run")
    assert promotion.model_of(folder, settings, "warm")[0] == f"{round_0}/warmup/member-2/model"
    assert not (round_0 / "warmup" / "member-1" / "model").exists()
    evaluated = json.loads((round_0 / "evaluate" / "warm" / "manifest.json").read_text())["metrics"]
    assert evaluated["accuracy"] == 1.0 and evaluated["members"] == {f"warm-{m}": 1.0 for m in range(3)}
    assert evaluated["nll"] == pytest.approx(0.2231, abs=1e-4)

    _check_answers(round_0, folds, folders, tmp_path / "log")
    verified = verify.verify(folder, settings, lambda _: None)
    assert not verified.problems


def _check_answers(round_0: Path, folds: dict[int, int], folders: list[str], log: Path) -> None:
    voters = [f"all@warm-{m}" for m in range(3)]
    labels, crossfit = storage.read_table(f"{round_0}/label/rows"), storage.read_table(f"{round_0}/label/crossfit")
    assert labels.schema.equals(PSEUDO_LABELED) and crossfit.schema.equals(CROSSFITTED)
    for row in labels.to_pylist():
        assert [r["collaborator"] for r in row["responses"]] == [*voters, "base"]
        assert row["answer"] == "ABC"[number(row) % 3] and not row["justified"]
    answered = crossfit.to_pylist()
    assert {row["row_id"]: row["fold"] for row in answered} == folds
    for row in answered:
        assert [r["collaborator"] for r in row["responses"]] == [voters[row["fold"]], "base"]
        assert row["gold"] == row["answer"] == "ABC"[number(row) % 3] and row["likelihood"] is not None

    fold_of = {number(row): row["fold"] for row in answered}
    noted = [json.loads(line) for line in log.read_text().splitlines()]
    starts, base = [line["start"] for line in noted if "start" in line], log.parent.name
    # All answer test rows, and then label. The engine that was asked last is asked first again.
    assert starts == [base, *reversed(folders), *folders[1:], base]
    asked = [line for line in noted if line.get("row") in fold_of]
    assert Counter(line["row"] for line in asked) == dict.fromkeys(LABELED, 2)
    for line in asked:
        assert all(fold_of[example] != fold_of[line["row"]] for example in line["examples"])
        assert len(line["examples"]) == 2
    of_members = [line for line in noted if line.get("model") in folders]
    for line in of_members:
        m = folders.index(line["model"])
        assert fold_of.get(line["row"], m) == m
        assert line["system"].startswith(["", "Be careful.", "Be quick."][m])
