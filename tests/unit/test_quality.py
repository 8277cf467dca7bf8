"""The last line of `make bench-quality`, and the rows that it is about."""

import json
from pathlib import Path

import pytest

from benchmarks import quality, texts
from semievol.reports import study as study_report
from semievol.reports.study import Headline, Result
from semievol.studies import study


def test_the_last_line_has_means_and_each_split() -> None:
    loaded = study.load(str(quality.STUDY))
    right = {"sft": 4, "sft_long": 4, "single_hard": 5, "committee": 6, "semievol": 7, "oracle": 8}
    assert list(loaded.methods) == list(right)
    results = [
        Result(method, seed, n / 10, (0.0, 1.0), {row: float(row < n) for row in range(10)})
        for method, n in right.items()
        for seed in loaded.seeds
    ]
    roles = Headline(loaded.compare_to, loaded.sft, loaded.semievol, loaded.ceiling)
    line = json.loads(json.dumps(quality.summary(study_report.figures("trec-64", results, roles))))
    assert list(line) == [*right, "p_value", "gap_closed", "by_split"]
    assert (line["sft_long"], line["semievol"], line["gap_closed"]) == (0.4, 0.7, 0.75)
    assert line["p_value"] == 0.00391  # 9 rows gained, none lost
    assert line["by_split"]["semievol"] == [0.7] * 3


def test_the_methods_share_their_stages_and_the_control_is_that_of_the_student() -> None:
    planned = {run.name: run.config for run in study.plan(study.load(str(quality.STUDY))) if run.seed == 1}
    assert planned["sft_long"] == planned["semievol"].model_copy(update={"name": "sft_long-1"})
    assert planned["semievol"].warmup.members == 4 and planned["semievol"].evaluate.control
    assert planned["single_hard"].warmup.members == 1 and planned["single_hard"].data.labeled.endswith("/1/labeled.csv")


@pytest.mark.skipif(not texts.DATA.exists(), reason="needs ../shared")
@pytest.mark.parametrize("name", texts.SETS)
def test_rows_of_a_split(name: str, tmp_path: Path) -> None:
    few, more = (texts.split(name, 0, budget) for budget in (64, 128))
    assert few["test"] == more["test"] and more["labeled"][:64] == few["labeled"]
    assert few["test"] != texts.split(name, 1, 64)["test"]
    everything = [text for rows in few.values() for text, _ in rows]
    assert len(set(everything)) == len(everything) and len(few["test"]) == texts.TEST[name]
    texts.write(tmp_path, few)
    before = (tmp_path / "labeled.csv").stat().st_mtime_ns
    texts.write(tmp_path, more)
    assert (tmp_path / "labeled.csv").stat().st_mtime_ns == before
