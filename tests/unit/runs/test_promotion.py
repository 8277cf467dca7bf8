"""What may be served as `evolved`, and the record of it."""

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from semievol import config
from semievol.data import storage
from semievol.errors import UserError
from semievol.runs import promotion
from semievol.runs.folder import Manifest, RunFolder
from semievol.stages.base import Rows


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Rounds 0, 1, 2 with accuracy 0.7, 0.8, 0.795; round 3 much worse; round 4 was evaluated on other rows."""
    folder = RunFolder(str(tmp_path), "r")
    text = f"{{name: r, storage: {tmp_path}, model: {{base: m}}, data: {{labeled: l, unlabeled: u, test: t}}}}"
    storage.write_text(storage.join(folder.uri, "config.yaml"), config.to_yaml(config.loads(text, [], "x")))
    for number, (accuracy, rows) in enumerate([(0.7, 3), (0.8, 3), (0.795, 3), (0.4, 3), (0.9, 4)]):
        base = [("evaluate/base", 0.6)] if number == 0 else []  # once for all rounds
        for stage, value in (*base, ("evaluate/evolved", accuracy), ("finetune", None)):
            here = folder.stage(stage, number)
            manifest = Manifest(stage, f"print{number}", Rows(3, 3), {"accuracy": value} if value else {})
            storage.write_table(f"{here}/rows/a.parquet", pa.table({"row_id": list(range(rows))}))
            storage.write_text(f"{here}/manifest.json", json.dumps(asdict(manifest)))
    return folder.uri


def test_promotions_follow_the_test_rows_and_are_all_recorded(run: str) -> None:
    folder, settings = promotion.open_run(run)
    assert promotion.finished_rounds(folder) == [0, 1, 2, 3, 4] and promotion.promoted(folder) == []
    assert promotion.promote(folder, settings, 0).against == 0.6  # the base model, where nothing was promoted
    promotion.promote(folder, settings, 1)
    promotion.promote(folder, settings, 2)  # worse, within the tolerance
    for number, message in ((3, "worse by more than serving.tolerance = 0.01"), (4, "different test rows")):
        with pytest.raises(UserError, match=message):
            promotion.promote(folder, settings, number)
    with pytest.raises(UserError, match="promoted already"):
        promotion.promote(folder, settings, 2)
    with pytest.raises(UserError, match=r"round 9 is not evaluated yet .* finished rounds: 0, 1, 2, 3, 4"):
        promotion.promote(folder, settings, 9)
    assert promotion.promote(folder, settings, 3, force=True).forced
    assert [entry.round for entry in promotion.promoted(folder)] == [0, 1, 2, 3]
    assert [promotion.rollback(folder).round for _ in range(3)] == [2, 1, 0]
    with pytest.raises(UserError, match="nothing to roll back to"):
        promotion.rollback(folder)
    assert [entry.action for entry in promotion.history(folder)] == ["promote"] * 4 + ["rollback"] * 3


def test_validation_rows_decide_where_there_are_some(run: str) -> None:
    folder, settings = promotion.open_run(run, ["data.validation=0.1"])
    with pytest.raises(UserError, match="round 3 is not evaluated yet"):
        promotion.promote(folder, settings, 3)
    for stage, number, accuracy, rows in (
        ("base", 0, 0.5, 2),
        ("evolved", 3, 0.6, 2),
        ("evolved", 1, 0.4, 2),
        ("evolved", 2, 0.9, 1),
    ):
        here = folder.stage(f"validate/{stage}", number)
        storage.write_table(f"{here}/rows/a.parquet", pa.table({"row_id": list(range(rows))}))
        manifest = Manifest(f"validate/{stage}", "print", Rows(2, 2), {"accuracy": accuracy})
        storage.write_text(f"{here}/manifest.json", json.dumps(asdict(manifest)))
    promoted = promotion.promote(folder, settings, 3)  # the worst on the test rows
    assert (promoted.accuracy, promoted.against) == (0.6, 0.5)
    for number, message in (
        (1, r"0\.400 on the validation rows, round-3 0\.600: worse"),
        (2, "different validation rows"),
    ):
        with pytest.raises(UserError, match=message):
            promotion.promote(folder, settings, number)


def test_where_the_weights_of_a_name_are(run: str) -> None:
    folder, settings = promotion.open_run(run)
    assert promotion.model_of(folder, settings, "base")[0] == "m"
    assert promotion.model_of(folder, settings, "round-1") == (f"{run}/round-1/finetune/model", "print1")
    with pytest.raises(UserError, match="no model 'warm'"):
        promotion.model_of(folder, settings, "warm")
    with pytest.raises(UserError, match=r"no config\.yaml"):
        promotion.open_run(f"{run}/round-0")
    lower = promotion.open_run(run, ["serving.tolerance=0.5"])[1]
    assert promotion.promote(folder, lower, 3).accuracy == 0.4


def test_a_run_of_a_version_before_0_4_opens(run: str) -> None:
    file = f"{run}/config.yaml"
    old = storage.read_text(file).replace("  kind: multiple_choice\n", "  kind: multiple_choice\n  tolerance: 0.01\n")
    old = old.replace("  kind: deepspeed\n", "  kind: deepspeed\n  suffix: semievol\n  poll_s: 30.0\n")
    assert "tolerance" in old and "poll_s" in old
    storage.write_text(file, old)
    _, settings = promotion.open_run(run, ["select.theta=0.2"])
    assert (settings.task.kind, settings.trainer.kind, settings.select.theta) == ("multiple_choice", "deepspeed", 0.2)


def test_a_round_that_was_trained_again_is_promoted_again(run: str) -> None:
    folder, settings = promotion.open_run(run)
    promotion.promote(folder, settings, 1)
    for stage, metrics in (("finetune", {}), ("evaluate/evolved", {"accuracy": 0.75})):
        if metrics:  # the evaluation there is says nothing about the new model
            with pytest.raises(UserError, match="trained again after its evaluation"):
                promotion.promote(folder, settings, 1)
        manifest = Manifest(stage, "another", Rows(3, 3), metrics, finished_at="2026-11-20T12:00:00Z")
        storage.write_text(f"{folder.stage(stage, 1)}/manifest.json", json.dumps(asdict(manifest)))
    with pytest.raises(UserError, match=r"0\.750 .* 0\.800: worse"):
        promotion.promote(folder, settings, 1)
    assert promotion.promote(folder, settings, 1, force=True).model == "another"
    assert [entry.model for entry in promotion.promoted(folder)] == ["print1", "another"]
