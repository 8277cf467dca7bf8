import csv
from pathlib import Path

import pytest

from semievol.method.metrics import mcnemar
from semievol.reports import study as study_report
from semievol.reports.study import Headline, Result

ROWS = 10
LABELS = {"accuracy": 0.7, "selected_accuracy": 0.9, "coverage": 0.5}
MEASURED = {
    "nll": {"auroc": 0.8, "risk": [0.1, 0.3]},
    "token_entropy": None,
    "vote_entropy": {"auroc": None, "risk": [0.2, 0.4]},
}


def result(method: str, seed: int, right: str, **more: object) -> Result:
    scores = {row: float(mark == "+") for row, mark in enumerate(right)}
    accuracy = sum(scores.values()) / len(scores)
    return Result(method, seed, accuracy, (accuracy - 0.1, accuracy + 0.1), scores, **more)  # type: ignore[arg-type]


RESULTS = [
    result("sft", 0, "++++++----", trained_rows=4, steps=2),
    result("sft", 1, "+++++-----", trained_rows=4, steps=2),
    result("ours", 0, "+++++-+++-", steps=8, selected=5, pseudo_labels=LABELS | {"measures": MEASURED}),
    result(
        "ours", 1, "+++++++---", steps=9, selected=6, pseudo_labels=LABELS | {"coverage": 0.7, "measures": MEASURED}
    ),
    result("oracle", 0, "++++++++++"),
    result("oracle", 1, "+++++++++-"),
]
ROLES = Headline(compare_to="sft", sft="sft", semievol="ours", ceiling="oracle")


def test_means_spread_pooled_tests_and_the_gap() -> None:
    found = study_report.figures("s", RESULTS, ROLES)
    ours, sft = found["methods"]["ours"], found["methods"]["sft"]
    assert (ours["mean"], ours["by_seed"], ours["sd"]) == (0.75, [0.8, 0.7], 0.0707)
    assert (sft["paired"], sft["gap_closed"]) == (None, 0.0)
    assert study_report.paired(RESULTS[2], RESULTS[0]) == (3, 1)
    assert [(seed["gained"], seed["lost"]) for seed in ours["paired"]["by_seed"]] == [(3, 1), (2, 0)]
    assert (ours["paired"]["gained"], ours["paired"]["lost"]) == (5, 1)
    assert ours["paired"]["p_value"] == pytest.approx(mcnemar(5, 1), rel=1e-2)
    assert ours["gap_closed"] == found["gap_closed"] == 0.5  # (0.75 - 0.55) / (0.95 - 0.55)
    assert ours["gap_closed_by_seed"] == [0.5, 0.5]
    assert (ours["steps"], ours["selected"], ours["trained_rows"]) == (8.5, 5.5, None)
    assert ours["pseudo_labels"]["coverage"] == 0.6
    assert ours["pseudo_labels"]["measures"] == {
        "nll": {"auroc": 0.8, "risk": [0.1, 0.3]},
        "vote_entropy": {"auroc": None, "risk": [0.2, 0.4]},
    }


def test_one_seed_has_no_spread_and_a_ceiling_below_sft_no_gap() -> None:
    found = study_report.figures("s", [RESULTS[0], RESULTS[3]], Headline())
    assert found["methods"]["ours"]["sd"] is None and found["gap_closed"] is None
    assert found["methods"]["ours"]["paired"] is None
    assert study_report.gap_closed(0.7, 0.8, 0.8) is None
    with pytest.raises(AssertionError, match="different rows"):
        study_report.paired(result("a", 0, "++"), result("b", 0, "+"))


def test_the_files_say_what_the_figures_say(tmp_path: Path) -> None:
    found = study_report.figures("s", RESULTS, ROLES)
    study_report.write(str(tmp_path), found, RESULTS)
    lines = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(line["method"], line["seed"]) for line in lines[:3]] == [("sft", "0"), ("sft", "1"), ("ours", "0")]
    assert (lines[2]["accuracy"], lines[2]["gained"], lines[2]["lost"], lines[2]["steps"]) == ("0.8", "3", "1", "8")
    assert (lines[2]["pseudo_selected_accuracy"], lines[2]["auroc_nll"], lines[2]["auroc_token_entropy"]) == (
        "0.9",
        "0.8",
        "",
    )
    assert (lines[0]["p_value"], lines[0]["selected"]) == ("", "")
    text = (tmp_path / "results.md").read_text()
    assert "| ours | 0.750 | 0.071 | 0.800 0.700 | +5 -1 | 0.22 | 50% |  | 8 |" in text
    assert "| ours | 0.700 | 6 (60%) | 0.900 | 0.800 |  |  |" in text
    for plot in ("plot.png", "risk_coverage.png"):
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")


def test_a_study_without_pseudo_labels_has_no_table_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = study_report.figures("s", RESULTS[:2], Headline())
    study_report.write(str(tmp_path), found, RESULTS[:2])
    assert not (tmp_path / "risk_coverage.png").exists()
    assert "AUROC" not in (tmp_path / "results.md").read_text()
    study_report.print_figures(found)
    assert "0.550" in capsys.readouterr().out
