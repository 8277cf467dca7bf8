from dataclasses import replace
from typing import Any

import pytest

from semievol.config import RunConfig, SelectConfig
from semievol.reports import summary as report
from semievol.runs.folder import Manifest, RunFolder
from semievol.runs.pipeline import Finished
from semievol.stages.base import Key, Rows
from tests.support.configs import run_config

DATA = {
    "splits": {"test": {"kept": 5, "quarantined": 1, "duplicate": 2, "leak": 0}},
    "reasons": {"test: option 4 of 4 is missing or empty": 1},
    "notes": {},
}
INGEST = Manifest("ingest", "f", Rows(8, 5, 1, 2), DATA, headline="5 test", places={"quarantined rows": "quarantine"})
MODEL = {"accuracy": 0.5, "interval": [0.4, 0.6], "correct": 3, "unparsable": 0.01}


def paired(gain: float, low: float, high: float, p_value: float = 0.0000012) -> dict[str, Any]:
    return {"gained": 3, "lost": 1, "gain": gain, "interval": [low, high], "p_value": p_value}


COMPARED = {
    "paired": {"evolved_vs_warm": paired(0.049, 0.021, 0.077)},
    "pseudo_labels": {"accuracy": 0.7, "selected_accuracy": 0.9, "coverage": 0.5},
}
FOLDER = RunFolder("/runs", "x")
TRAINED = replace(INGEST, places={"evolved model": "model", "evolved adapter": "adapter"})
SELECTED = replace(INGEST, places={"pseudo-labels": "rows"})


def summary(manifests: dict[Key, Manifest], config: RunConfig | None = None) -> dict[str, Any]:
    return report.summary(Finished(FOLDER, config or run_config(), manifests, 1.0))


def test_a_run_that_stopped_early_reports_what_there_is() -> None:
    figures = summary({("ingest", 0): INGEST})
    readme = report.run_readme(figures)
    assert "| test | 5 | 1 | 2 | 0 |" in readme
    assert "quarantined, test: option 4 of 4 is missing or empty: 1" in readme
    assert "Held-out" not in readme and "McNemar" not in readme
    assert "ceiling" not in readme
    assert figures["places"] == {"run": "/runs/x", "quarantined rows": "/runs/x/round-0/ingest/quarantine"}


def finished() -> dict[Key, Manifest]:
    stages = {("ingest", 0): INGEST, ("warmup", 0): replace(INGEST, places={}), ("finetune", 0): TRAINED}
    stages |= {(f"evaluate/{name}", 0): replace(INGEST, metrics=MODEL) for name in ("base", "warm", "evolved")}
    stages["select", 0] = replace(SELECTED, metrics={"selected": 7})
    stages["evaluate/compare", 0] = replace(INGEST, metrics=COMPARED)
    return stages


def test_a_finished_run_reports_everything() -> None:
    figures = summary(finished())
    readme = report.run_readme(figures)
    assert "| evolved | 0.500 | 0.400 to 0.600 | 1.0 % |" in readme
    assert "evolved against warm: +4.9 points (2.1 to 7.7); 3 rows gained, 1 lost, p = 1.2e-06" in readme
    assert "The evolved model is better than the warm model: +4.9 points (2.1 to 7.7)." in readme
    assert "0.900 of the selected" in readme
    assert set(figures["places"]) == {"run", "evolved model", "evolved adapter", "pseudo-labels", "quarantined rows"}
    assert figures["places"]["evolved model"] == "/runs/x/round-0/finetune/model"


def test_it_says_what_each_voter_was_worth(capsys: pytest.CaptureFixture[str]) -> None:
    assert "voter" not in report.run_readme(summary(finished()))
    worth = {"accuracy": 0.75, "nll": 0.61, "rows": 64, "weight": 0.8}
    unheard = {"accuracy": None, "nll": None, "rows": 0, "weight": 0.0}
    combined = replace(INGEST, metrics={"voters": {"committee": worth, "probe": unheard}}, places={})
    figures = summary(finished() | {("combine", 0): combined})
    assert figures["voters"]["committee"] == worth
    readme = report.run_readme(figures)
    assert "## What each voter was worth" in readme
    assert "| committee | 64 | 0.750 | 0.610 | 0.80 |" in readme and "| probe | 0 |  |  | 0.00 |" in readme
    report.print_result(figures)
    assert "what each voter was worth" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("over_control", "sentence"),
    [
        (paired(0.049, 0.021, 0.077), "better than SFT of as many steps: +4.9 points (2.1 to 7.7)."),
        (paired(0.003, -0.01, 0.016), "not better than SFT of as many steps beyond noise: +0.3 points (-1.0 to 1.6)."),
        (paired(-0.03, -0.05, -0.01), "worse than SFT of as many steps: -3.0 points (-5.0 to -1.0)."),
    ],
)
def test_with_a_control_the_verdict_is_about_the_gain_that_is_left(
    over_control: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = finished()
    both = {"evolved_vs_warm": paired(0.06, 0.03, 0.09), "evolved_vs_control": over_control}
    stages["evaluate/control", 0] = replace(INGEST, metrics=MODEL | {"accuracy": 0.45})
    stages["evaluate/compare", 0] = replace(INGEST, metrics=COMPARED | {"paired": both})
    figures = summary(stages)
    assert figures["verdict"].startswith(
        f"The evolved model is {sentence} Over the warm model it has +6.0 points (3.0 to 9.0)."
    )
    assert figures["gain"] == {"warm": both["evolved_vs_warm"], "control": over_control}
    assert figures["models"]["control"]["accuracy"] == 0.45
    report.print_result(figures)
    for text in (report.run_readme(figures), capsys.readouterr().out):
        assert sentence in text and "evolved against control: " in text and "evaluate.control" not in text
    assert "| control | 0.450 |" in report.run_readme(figures)


@pytest.mark.parametrize(
    ("warm", "evolved", "serve", "sentence"),
    [
        ({"accuracy": 0.8}, 0.75, "warm", "Serve `warm`: on the validation rows it has 0.800, and `evolved` 0.750."),
        (
            {"accuracy": 0.8},
            0.795,
            "evolved",
            "Serve `evolved`: on the validation rows it has 0.795, and `warm` 0.800.",
        ),
        # Of a committee the best member can be served, and not the whole.
        ({"accuracy": 0.8, "members": {"warm-0": 0.9, "warm-1": 0.7}}, 0.75, "evolved", "has 0.750, and `warm` 0.700."),
    ],
)
def test_validation_rows_say_which_model_to_serve(
    warm: dict[str, Any], evolved: float, serve: str, sentence: str
) -> None:
    stages = finished()
    stages["warmup", 0] = replace(INGEST, metrics={"best": 1}, places={})
    stages["validate/warm", 0] = replace(INGEST, metrics=warm)
    stages["validate/evolved", 0] = replace(INGEST, metrics={"accuracy": 0.1})
    stages["validate/evolved", 1] = replace(INGEST, metrics={"accuracy": evolved})
    figures = summary(stages)
    assert figures["serve"] == serve and sentence in figures["verdict"]
    assert "data.validation" not in figures["verdict"] and sentence in report.run_readme(figures)


def test_without_validation_rows_and_control_the_verdict_says_what_would_tell() -> None:
    figures = summary(finished())
    assert figures["serve"] is None and "`data.validation: 0.2` holds some back" in figures["verdict"]
    assert "`evaluate.control: true` would tell" in figures["verdict"]
    several = summary(finished(), run_config(warmup={"members": 4}))
    assert several["verdict"].startswith("The evolved model is better than the warm committee: ")
    stopped = summary({("ingest", 0): INGEST})
    assert (stopped["verdict"], stopped["gain"], stopped["serve"]) == ("", {}, None)


def test_a_ceiling_says_that_it_is_no_result() -> None:
    config = run_config(select=SelectConfig(ceiling=True))
    figures = summary({("ingest", 0): INGEST}, config)
    assert "A ceiling, not a result" in report.run_readme(figures)


def test_of_several_rounds_the_last_one_stands_for_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    stages = finished()
    better = {
        "paired": {
            "evolved_vs_warm": paired(0.1, 0.05, 0.15),
            "evolved_vs_previous": paired(0.01, -0.02, 0.04, 0.5),
        }
    }
    splits = {"unlabeled": {"kept": 50, "quarantined": 0, "duplicate": 9, "leak": 1}}
    stages["ingest", 1] = replace(INGEST, metrics=DATA | {"splits": splits, "reasons": {"unlabeled: torn": 4}})
    stages["select", 1] = replace(SELECTED, metrics={"selected": 8})
    stages["finetune", 1] = TRAINED
    stages["evaluate/evolved", 1] = replace(INGEST, metrics=MODEL | {"accuracy": 0.75})
    stages["evaluate/compare", 1] = replace(INGEST, metrics=COMPARED | better)
    stages["select", 2] = replace(SELECTED, metrics={"selected": 9})  # and was stopped here
    figures = summary(stages)
    assert figures["models"]["evolved"]["accuracy"] == 0.75 and figures["models"]["base"]["accuracy"] == 0.5
    assert [one["round"] for one in figures["rounds"]] == [0, 1, 2]
    assert [one["selected"] for one in figures["rounds"]] == [7, 8, 9]
    assert (figures["selected"], figures["data"]) == (9, DATA)
    assert figures["places"]["evolved model"] == "/runs/x/round-1/finetune/model"
    assert figures["places"]["pseudo-labels"] == "/runs/x/round-2/select/rows"
    assert {(stage["stage"], stage["round"]) for stage in figures["stages"]} == set(stages)

    readme = report.run_readme(figures)
    for line in (
        "| round-0 | 0.500 |",
        "| round-1 | 0.750 |",
        "| unlabeled, round 1 | 50 | 0 | 9 | 1 |",
        "| select, round 2 |",
    ):
        assert line in readme
    assert (
        "unlabeled: torn, round 1: 4" in readme
        and "evolved against previous: +1.0 points (-2.0 to 4.0); 3 rows" in readme
    )
    assert "| evolved |" not in readme
    report.print_result(figures)
    printed = capsys.readouterr().out
    assert (
        "round-1" in printed
        and "evolved against previous: +1.0 points (-2.0 to 4.0); 3 gained, 1 lost, p = 0.5" in printed
    )
    assert "The evolved model is better than the warm model: +10.0 points (5.0 to 15.0)." in printed


def test_labels_are_reported_one_by_one_the_most_frequent_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"precision": 0.5, "recall": 0.25, "f1": 0.3333}
    labels = {f"label | {i}": figures | {"support": i} for i in range(77)}
    confusions = [{"true": "a\nb", "answered": None, "rows": 4}, {"true": "a", "answered": "b", "rows": 2}]
    stages = finished()
    by_label = {"macro_f1": 0.31, "labels": labels, "confusions": confusions}
    stages["evaluate/evolved", 0] = replace(INGEST, metrics=MODEL | by_label)
    stages["ingest", 0] = replace(INGEST, metrics=DATA | {"labels": {f"label {i}": 9 for i in range(77)}})
    found = summary(stages)
    assert len(found["models"]["evolved"]["labels"]) == 77
    readme = report.run_readme(found)
    assert "## Labels of evolved\n\nMacro-F1 0.310. The 20 most frequent of 77; summary.json has all." in readme
    assert "| label \\| 76 | 0.500 | 0.250 | 0.333 | 76 |" in readme and "label \\| 56 " not in readme
    assert "| a b | (no answer) | 4 |" in readme and "| a | b | 2 |" in readme
    assert "77 labels in the labeled rows: label 0 9, label 1 9" in readme and "label 20" not in readme
    assert "## Labels" not in report.run_readme(summary(finished()))
    report.print_selection(
        {"round": 0, "selected": 3, "selected_by_answer": {"[red]": 3}, "rejected": {}, "confidence": "nll"}
        | {"entropy_threshold": 0.1, "pseudo_labels": None}
    )
    assert "[red]: 3" in capsys.readouterr().out
