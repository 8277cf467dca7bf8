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


def write(folder: RunFolder, stage: str, number: int, accuracy: float | None, rows: int = 3, **more: str) -> None:
    """As if a stage had run: a model's evaluation, or with None its training."""
    metrics = {} if accuracy is None else {"accuracy": accuracy}
    manifest = Manifest(stage, more.pop("fingerprint", f"print{number}"), Rows(3, 3), metrics, **more)
    here = folder.stage(stage, number)
    storage.write_table(f"{here}/rows/a.parquet", pa.table({"row_id": list(range(rows))}))
    storage.write_text(f"{here}/manifest.json", json.dumps(asdict(manifest)))


@pytest.fixture
def run(tmp_path: Path) -> str:
    """On the validation rows, rounds 0, 1, 2 have 0.7, 0.8, 0.795; round 3 is much worse; round 4 was evaluated on other rows."""
    folder = RunFolder(str(tmp_path), "r")
    data = "{labeled: l, unlabeled: u, test: t, validation: 0.2}"
    text = f"{{name: r, storage: {tmp_path}, model: {{base: m}}, data: {data}}}"
    storage.write_text(storage.join(folder.uri, "config.yaml"), config.to_yaml(config.loads(text, [], "x")))
    write(folder, "validate/base", 0, 0.6)
    write(folder, "validate/warm", 0, 0.65)
    for number, (accuracy, rows) in enumerate([(0.7, 3), (0.8, 3), (0.795, 3), (0.4, 3), (0.9, 4)]):
        write(folder, "finetune", number, None)
        write(folder, "evaluate/evolved", number, 1 - accuracy)  # test rows say the opposite, and decide nothing
        write(folder, "validate/evolved", number, accuracy, rows)
    return folder.uri


def test_promotions_follow_the_validation_rows_and_are_all_recorded(run: str) -> None:
    folder, settings = promotion.open_run(run)
    assert promotion.finished_rounds(folder) == [0, 1, 2, 3, 4] and promotion.promoted(folder) == []
    first = promotion.promote(folder, settings, 0)
    assert (first.accuracy, first.against) == (0.7, 0.6)  # the base model, where nothing was promoted
    assert promotion.told(first) == "accuracy 0.700 on the validation rows, before 0.600"
    promotion.promote(folder, settings, 1)
    promotion.promote(folder, settings, 2)  # worse, within the tolerance
    for number, message in ((3, "worse by more than serving.tolerance = 0.01"), (4, "different validation rows")):
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


def test_a_round_that_is_worse_than_warm_is_refused_with_the_command_that_serves_warm(run: str) -> None:
    folder, settings = promotion.open_run(run)
    write(folder, "validate/warm", 0, 0.72)
    with pytest.raises(promotion.WarmIsBetter) as refused:
        promotion.promote(folder, settings, 0)  # better than the base model
    assert "round-0 has accuracy 0.700 on the validation rows, warm 0.720: worse" in str(refused.value)
    assert f"`semievol serve {run} --models base,warm`" in str(refused.value)
    assert promotion.promote(folder, promotion.open_run(run, ["serving.tolerance=0.02"])[1], 0).against == 0.6
    assert promotion.promote(folder, settings, 1).accuracy == 0.8
    write(folder, "warmup", 0, None)
    for stage, more in (("validate/warm", {"members": {"warm-0": 0.79, "warm-1": 0.9}}), ("warmup", {"best": 0})):
        file = Path(folder.stage(stage)) / "manifest.json"  # a committee: its best member is what can be served
        manifest = json.loads(file.read_text())
        file.write_text(json.dumps(manifest | {"metrics": manifest["metrics"] | more}))
    assert promotion.promote(folder, settings, 2).accuracy == 0.795
    write(folder, "validate/warm", 0, 0.72, rows=2)
    with pytest.raises(UserError, match="round-1 and warm were evaluated on different validation rows"):
        promotion.promote(folder, settings, 1)
    (Path(folder.stage("validate/warm")) / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"warm is not evaluated yet in .*`semievol run` evaluates it"):
        promotion.promote(folder, settings, 1)


def test_without_validation_rows_any_finished_round_is_promoted_and_says_that_nothing_decided(run: str) -> None:
    folder, settings = promotion.open_run(run, ["data.validation=null"])
    for number in (1, 0):
        entry = promotion.promote(folder, settings, number)
        assert (entry.accuracy, entry.against) == (None, None)
        assert promotion.told(entry).startswith("no rows decided: the run has no data.validation")
    with pytest.raises(UserError, match="round 9 is not evaluated yet"):
        promotion.promote(folder, settings, 9)
    decided = promotion.open_run(run)[1]  # rows were held back later: what is served was never compared
    assert promotion.promote(folder, decided, 2).against == 0.7
    assert promotion.rollback(folder).accuracy is None


def test_the_endpoint_serves_warm_in_place_of_a_worse_evolved_model(run: str) -> None:
    start = pytest.importorskip("semievol.serving.start")
    folder, settings = promotion.open_run(run)
    said: list[str] = []
    (
        Path(folder.stage("evaluate/evolved", 4)) / "manifest.json"
    ).unlink()  # so that the newest is round 3, which is worse
    assert start._first_promotion(folder, settings, said.append) == ["serving.models=[base,warm]"]
    assert "`warm` is served in place of `evolved`" in said[-1] and promotion.promoted(folder) == []
    asked = promotion.open_run(run, ["serving.models=[evolved]"])[1]
    with pytest.raises(promotion.WarmIsBetter):
        start._first_promotion(folder, asked, said.append)
    (Path(folder.stage("evaluate/evolved", 3)) / "manifest.json").unlink()
    assert start._first_promotion(folder, settings, said.append) == []
    assert said[-1] == "promoted round 2: accuracy 0.795 on the validation rows, before 0.600"


def test_where_the_weights_of_a_name_are(run: str) -> None:
    folder, settings = promotion.open_run(run)
    assert promotion.model_of(folder, settings, "base")[0] == "m"
    assert promotion.model_of(folder, settings, "round-1") == (f"{run}/round-1/finetune/model", "print1")
    with pytest.raises(UserError, match="no model 'warm'"):
        promotion.model_of(folder, settings, "warm")
    with pytest.raises(UserError, match=r"no config\.yaml"):
        promotion.open_run(f"{run}/round-0")


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
    trained = {"fingerprint": "another", "finished_at": "2026-11-20T12:00:00Z"}
    write(folder, "finetune", 1, None, **trained)
    with pytest.raises(UserError, match="trained again after its evaluation"):  # which says nothing about the new model
        promotion.promote(folder, settings, 1)
    write(folder, "validate/evolved", 1, 0.75, **trained)
    with pytest.raises(UserError, match=r"0\.750 .* 0\.800: worse"):
        promotion.promote(folder, settings, 1)
    assert promotion.promote(folder, settings, 1, force=True).model == "another"
    assert [entry.model for entry in promotion.promoted(folder)] == ["print1", "another"]
