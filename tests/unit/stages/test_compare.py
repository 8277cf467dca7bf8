"""What is compared with what, and what decides on further rounds."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from semievol.data import storage
from semievol.stages import compare
from semievol.stages.base import Place, StageContext
from tests.support.configs import run_config

ROWS = 10


def compared(folder: Path, right: dict[str, int], number: int = 0, **settings: Any) -> dict[str, Any]:
    """The metrics where the models have so many of ten rows right, the first ones."""
    config = run_config(**settings)
    config.data.validation = 0.2 if any(name.startswith("validate/") for name in right) else None
    for name, n in right.items():
        answers = ["A"] * n + ["B"] * (ROWS - n)
        table = pa.table({"row_id": list(range(ROWS)), "gold": ["A"] * ROWS, "answer": answers})
        storage.write_table(f"{folder}/{name}/rows/p.parquet", table)
    read = compare.STAGE.inputs(Place(config, number, (0,)))
    assert {name for name in read if "/" in name} == set(right)
    ctx = StageContext("evaluate/compare", config, f"{folder}/out", {n: f"{folder}/{n}" for n in read}, lambda *_: None)
    result = compare.run(ctx)
    assert result.rows.out == ROWS
    return result.metrics | {"headline": result.headline}


def test_gains_over_warm_and_the_control(tmp_path: Path) -> None:
    test = {"evaluate/base": 1, "evaluate/warm": 3, "evaluate/control": 8, "evaluate/evolved": 9}
    found = compared(tmp_path, test, evaluate={"control": True})
    assert found["accuracy"] == {"base": 0.1, "warm": 0.3, "control": 0.8, "evolved": 0.9}
    assert set(found["paired"]) == {
        *("warm_vs_base", "control_vs_base", "evolved_vs_base"),
        *("control_vs_warm", "evolved_vs_warm", "evolved_vs_control"),
    }
    over_warm, over_control = found["paired"]["evolved_vs_warm"], found["paired"]["evolved_vs_control"]
    assert (over_warm["gained"], over_warm["lost"], over_warm["gain"]) == (6, 0, 0.6)
    assert compare.better(over_warm) and 0.1 < over_warm["interval"][0] < 0.6 < over_warm["interval"][1] < 1
    assert over_control["gain"] == 0.1 and not compare.better(over_control)
    assert found["headline"].startswith("evolved +0.600 over warm, p = 0.0312; +0.100 over control")
    assert "validation" not in found and compare.gained(found)


@pytest.mark.parametrize(("evolved", "gained"), [(9, True), (5, False), (4, False), (2, False)])
def test_a_later_round_is_compared_with_the_one_before_and_must_be_better_on_validation_rows(
    tmp_path: Path, evolved: int, gained: bool
) -> None:
    test = {"evaluate/base": 1, "evaluate/warm": 3, "evaluate/previous": 2, "evaluate/evolved": 2}
    shown = {"validate/warm": 1, "validate/previous": 4, "validate/evolved": evolved}
    found = compared(tmp_path, test | shown, number=1)
    assert "evolved_vs_previous" in found["paired"] and "base_vs_previous" not in found["paired"]
    assert set(found["validation"]["paired"]) == {"evolved_vs_warm", "evolved_vs_previous"}
    assert found["validation"]["accuracy"] == {"warm": 0.1, "previous": 0.4, "evolved": evolved / 10}
    assert compare.gained(found) == gained


def test_test_rows_alone_stop_no_round(tmp_path: Path) -> None:
    test = {"evaluate/base": 1, "evaluate/warm": 3, "evaluate/previous": 9, "evaluate/evolved": 2}
    found = compared(tmp_path, test, number=1)
    assert found["paired"]["evolved_vs_previous"]["gain"] == -0.7 and compare.gained(found)


def test_a_gain_of_scores_is_their_mean_difference() -> None:
    a, b = np.array([0.5, 0.2, 1.0, 0.0]), np.array([0.5, 0.8, 1.0, 0.4])
    test = compare.paired(a, b, 0.95)
    assert (test["gain"], test["gained"], test["lost"]) == (0.25, 1, 0)
