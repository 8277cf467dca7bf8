"""Voters are weighed by rows that they have not seen, and selection takes what the weighted ones say; on rows as label writes them."""

from pathlib import Path
from typing import Any

import pytest

from semievol.config import Collaborator, RunConfig
from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.data.tables import PSEUDO_LABELED, SELECTED
from semievol.stages import combine, select
from semievol.stages.base import StageContext, StageResult
from tests.support.voters import Voters

pytestmark = pytest.mark.usefixtures("ray_cluster")

ROWS = 1_500


def combined(
    tmp_path: Path, config: RunConfig, others: dict[str, float | str]
) -> tuple[StageResult, float, dict[int, dict[str, Any]]]:
    """Combine and select; return the result, the share of right selected rows, and the rows of combine."""
    folder, voters = f"{tmp_path}/{'-'.join(others) or 'alone'}", Voters(others)
    voters.write(f"{folder}/label", ROWS)
    members = [Collaborator(name=f"committee@warm-{m}", model=f"warm-{m}", k=0) for m in range(3)]
    config.label.collaborators = [*members, *(Collaborator(name=name, model="base", k=0) for name in others)]
    config.select.confidence, config.select.theta = "vote_entropy", 0.6
    inputs = {name: f"{folder}/{name}" for name in ("ingest", "label", "combine")} | {"crossfit": f"{folder}/label"}
    result = combine.run(StageContext("combine", config, inputs["combine"], inputs, lambda *_: None))
    result.rows.check("combine")
    checks = RowChecks(inputs["combine"], inputs, ROWS, result.rows.out, result.rows.quarantined)
    combine.STAGE.verify(checks)
    assert checks.problems == []
    read = {"label": inputs["combine"]}
    select.run(StageContext("select", config, f"{folder}/select", read, lambda *_: None))
    table = storage.read_table(f"{folder}/select/rows")
    assert table.schema.equals(SELECTED) and len(table) == result.rows.out
    chosen = [row for row in table.to_pylist() if row["selected"]]
    right = sum(row["answer"] == voters.truths[row["row_id"]] for row in chosen)
    rows = storage.read_table(f"{folder}/combine/rows")
    assert rows.schema.equals(PSEUDO_LABELED)
    return result, right / len(chosen), {row["row_id"]: row for row in rows.to_pylist()}


def test_voters_that_are_worth_nothing_change_nothing_and_good_ones_count(
    run_config: RunConfig, tmp_path: Path
) -> None:
    alone, accuracy, before = combined(tmp_path, run_config, {})
    assert 0.93 < accuracy < 1
    assert alone.metrics["voters"]["committee"]["weight"] == 1 and alone.metrics["voters"]["committee"]["rows"] == 64
    assert 0.7 < alone.metrics["voters"]["committee"]["accuracy"] < 0.95
    for kind in ("random", "same", "wrong"):
        result, right, rows = combined(tmp_path, run_config, {kind: kind})
        worth = result.metrics["voters"][kind]
        assert worth["weight"] == 0 and worth["accuracy"] < 0.5 and worth["nll"] > 1.3
        assert right >= accuracy - 0.005
        assert {i: row["answer"] for i, row in rows.items()} == {i: row["answer"] for i, row in before.items()}
        assert rows[0]["vote_entropy"] == pytest.approx(before[0]["vote_entropy"])
        assert rows[0]["agreement"] == before[0]["agreement"]  # who weighs nothing cannot disagree
        assert len(rows[0]["responses"]) == 4  # but is still heard
    _, right, _ = combined(tmp_path, run_config, {"random": "random", "same": "same", "wrong": "wrong"})
    assert right >= accuracy - 0.01
    good, _, rows = combined(tmp_path, run_config, {"good": 0.95})
    assert good.metrics["voters"]["good"]["weight"] > 0.5
    assert good.headline.startswith("weights: committee 0.")
    assert sum(entry["share"] for entry in rows[0]["shares"]) == pytest.approx(1)
