"""The last line of `make bench-quality`."""

import json

from benchmarks import quality
from semievol.reports import study as study_report
from semievol.reports.study import Headline, Result
from semievol.studies import study


def test_the_last_line_has_means_and_each_seed() -> None:
    loaded = study.load(str(quality.STUDY))
    right = {"base": 2, "sft": 4, "sft-long": 5, "semievol": 7, "oracle": 8}
    assert set(loaded.methods) == set(right) == set(quality.SHOWN)
    results = [
        Result(method, seed, n / 10, (0.0, 1.0), {row: float(row < n) for row in range(10)})
        for method, n in right.items()
        for seed in loaded.seeds
    ]
    roles = Headline(loaded.compare_to, loaded.sft, loaded.semievol, loaded.ceiling)
    line = json.loads(json.dumps(quality.summary(study_report.figures("fpb", results, roles))))
    assert list(line) == ["dataset", *quality.SHOWN, "gap_closed", "seeds", "p_value", "by_seed"]
    assert (line["sft"], line["semievol"], line["gap_closed"], line["seeds"]) == (0.4, 0.7, 0.75, 3)
    assert line["p_value"] == 0.00391  # 9 rows gained, none lost
    assert line["by_seed"]["semievol"] == [0.7] * 3 and line["by_seed"]["gap_closed"] == [0.75] * 3
