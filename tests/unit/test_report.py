from dataclasses import replace

from semievol import report
from semievol.config import RunConfig, SelectConfig
from semievol.runfolder import Manifest, Rows, RunFolder

DATA = {
    "splits": {"test": {"kept": 5, "quarantined": 1, "duplicate": 2, "leak": 0}},
    "reasons": {"test: option 4 of 4 is missing or empty": 1},
    "notes": {},
}
INGEST = Manifest("ingest", "f", Rows(8, 5, 1, 2), DATA, headline="5 test")
MODEL = {"accuracy": 0.5, "interval": [0.4, 0.6], "correct": 3, "unparsable": 0.01}
COMPARED = {
    "paired": {"evolved_vs_warm": {"gained": 3, "lost": 1, "p_value": 0.0000012}},
    "pseudo_labels": {"accuracy": 0.7, "selected_accuracy": 0.9, "coverage": 0.5},
}


def test_a_run_that_stopped_early_reports_what_there_is() -> None:
    figures = report.summary(RunFolder("/runs", "x"), RunConfig(name="x"), {"ingest": INGEST}, 1.0)
    readme = report.run_readme(figures)
    assert "| test | 5 | 1 | 2 | 0 |" in readme
    assert "quarantined, test: option 4 of 4 is missing or empty: 1" in readme
    assert "Held-out" not in readme and "McNemar" not in readme
    assert "ceiling" not in readme
    assert figures["places"] == {"run": "/runs/x", "quarantined rows": "/runs/x/round-0/ingest/quarantine"}


def test_a_finished_run_reports_everything() -> None:
    stages = {name: replace(INGEST, stage=name) for name in ("warmup", "finetune")}
    stages |= {f"evaluate/{name}": replace(INGEST, metrics=MODEL) for name in ("base", "warm", "evolved")}
    stages["select"] = replace(INGEST, metrics={"selected": 7})
    stages["evaluate/compare"] = replace(INGEST, metrics=COMPARED)
    figures = report.summary(RunFolder("/runs", "x"), RunConfig(name="x"), {"ingest": INGEST, **stages}, 1.0)
    readme = report.run_readme(figures)
    assert "| evolved | 0.500 | 0.400 to 0.600 | 1.0 % |" in readme
    assert "evolved against warm: 3 rows gained, 1 lost, p = 1.2e-06" in readme
    assert "0.900 of the selected" in readme
    assert set(figures["places"]) == {"run", "evolved model", "evolved adapter", "pseudo-labels", "quarantined rows"}
    assert figures["places"]["evolved model"] == "/runs/x/round-0/finetune/model"


def test_a_ceiling_says_that_it_is_no_result() -> None:
    config = RunConfig(name="x", select=SelectConfig(ceiling=True))
    assert "A ceiling, no result" in report.run_readme(
        report.summary(RunFolder("/runs", "x"), config, {"ingest": INGEST}, 1.0)
    )
