"""Studies: run several methods at several seeds on one data set. Equal stages run once.

<storage>/<study>/
    results.csv  results.md  results.json  plot.png  risk_coverage.png
    runs/<method>-<seed>/              config, summary and README of each run
    stages/<stage>/<fingerprint>/      shared by the runs; the content of round-0/<stage>/ of a single run
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from semievol import config as configuration
from semievol.config import FolderName, RunConfig, Section
from semievol.data import storage
from semievol.data.storage import FileEntry
from semievol.errors import UserError
from semievol.reports import study as study_report
from semievol.reports import summary
from semievol.reports.study import Headline, Result
from semievol.runs import lease, rounds
from semievol.runs.folder import RunFolder
from semievol.runs.pipeline import Pipeline
from semievol.runs.rounds import Round
from semievol.stages import evaluating, making
from semievol.stages.compare import scores_by_row


class Method(Section):
    """A method: its changes to the study's config, and the model that is reported."""

    overrides: list[str] = []
    until: str | None = None
    """Run this stage and the stages that it depends on. Default: the last stage."""
    report: Literal["base", "warm", "control", "evolved"] = "evolved"


class StudyConfig(Section):
    """A study. `compare_to`, `sft`, `semievol` and `ceiling` name methods and are optional."""

    name: FolderName
    storage: str = "runs/studies"
    """A folder or URI, like `storage` of a run."""
    shares: FolderName | None = None
    """The name of another study in the same storage. This study reads its stages and adds to them."""
    config: str
    """Path of a run's config, relative to the study's file."""
    overrides: list[str] = []
    """Overrides for all methods. Those of a method take precedence."""
    seeds: list[int] = [0, 1, 2]
    methods: dict[FolderName, Method] = {}
    compare_to: str | None = None
    """The method that the others are compared with in paired tests."""
    sft: str | None = None
    """The report shows the closed share of the gap, (semievol - sft) / (ceiling - sft)."""
    semievol: str | None = None
    ceiling: str | None = None

    @model_validator(mode="after")
    def _check(self) -> StudyConfig:
        if not self.methods:
            raise ValueError("methods: name at least one")
        if not len(set(self.seeds)) == len(self.seeds) > 0:
            raise ValueError(f"seeds: give at least one, and none twice; got {self.seeds}")
        for role in ("compare_to", "sft", "semievol", "ceiling"):
            name = getattr(self, role)
            if name is not None and name not in self.methods:
                raise ValueError(f"{role}: '{name}' must be one of {', '.join(self.methods)}")
        return self


class StudyFolder(RunFolder):
    """The folder of one run of a study. Stages are stored by fingerprint in `stages`, so that equal runs share them."""

    def __init__(self, study: str, run: str, stages: str) -> None:
        super().__init__(storage.join(study, "runs"), run)
        self._stages = stages

    def stage(self, stage: str, round_number: int = 0) -> str:
        return storage.join(self._stages, stage, self.fingerprints[stage, round_number])


@dataclass(frozen=True)
class PlannedRun:
    """A run of the study: a method at a seed."""

    name: str  # of the method
    method: Method
    seed: int
    config: RunConfig


def load(path: str, overrides: list[str] | None = None) -> StudyConfig:
    """Read a study's YAML file. Overrides (`key=value`) of keys of `StudyConfig` change the study, all others its runs."""
    if not Path(path).is_file():
        raise UserError(f"study file not found: {path}")
    given = overrides or []
    own = [text for text in given if re.split(r"[.\[=]", text)[0] in StudyConfig.model_fields]
    if seeds := [text for text in given if text.startswith("seed=")]:
        raise UserError(f"{seeds[0]}: a study has several seeds; write seeds=[{seeds[0].removeprefix('seed=')}]")
    study = configuration.structured(StudyConfig, Path(path).read_text("utf-8"), own, path)
    study.config = str(Path(path).parent / study.config)
    study.overrides += [text for text in given if text not in own]
    return study


def plan(study: StudyConfig) -> list[PlannedRun]:
    """Return all runs, seed by seed, with checked configs."""
    planned = []
    for seed, (name, method) in itertools.product(study.seeds, study.methods.items()):
        run = [f"name={name}-{seed}", f"storage={study.storage}", f"seed={seed}"]
        try:
            config = configuration.load(study.config, [*study.overrides, *method.overrides, *run])
            rounds.check_until(method.until)
            one_round = rounds.steps([Round(0, (FileEntry("", 0, 0),))], config)
            stages = [step.stage.name for step in rounds.needed(rounds.until(one_round, method.until))]
            if evaluating(method.report).name not in stages:
                raise UserError(f"report is {method.report}, which is not evaluated until {method.until}")
        except UserError as error:
            raise UserError(f"methods.{name}: {error}") from None
        planned.append(PlannedRun(name, method, seed, config))
    return planned


def run(study: StudyConfig, echo: Callable[[str], None], variables: Sequence[str] = ()) -> dict[str, Any]:
    """Run the steps that are not done, write the study's reports, and return its figures."""
    where = storage.absolute(study.storage)
    uri, owner = storage.join(where, study.name), storage.join(where, study.shares or study.name)
    stages = storage.join(owner, "stages")
    runs = [(each, Pipeline(each.config, echo, StudyFolder(uri, each.config.name, stages))) for each in plan(study)]
    results = []
    with lease.held(owner, echo):  # of the shared stages, so that two studies do not write them at once
        for number, (planned, driver) in enumerate(runs, start=1):
            echo(f"{planned.name}, seed {planned.seed}: run {number} of {len(runs)}")
            figures = driver.run(summary.write, planned.method.until, variables, only_needed=True)
            results.append(_result(planned, driver, figures))
        headline = Headline(study.compare_to, study.sft, study.semievol, study.ceiling)
        figures = study_report.figures(study.name, results, headline)
        study_report.write(uri, figures, results)
    return figures


def _result(planned: PlannedRun, driver: Pipeline, figures: dict[str, Any]) -> Result:
    """Return the result of a run, from its manifests and its summary (`figures`)."""
    last = {step["stage"]: step["round"] for step in figures["stages"]}
    model = planned.method.report
    evaluated = evaluating(model).name
    trained = making(model).name if model != "base" else None
    training = driver.folder.manifest(trained, last[trained]) if trained else None
    return Result(
        method=planned.name,
        seed=planned.seed,
        accuracy=figures["models"][model]["accuracy"],
        interval=tuple(figures["models"][model]["interval"]),
        scores=scores_by_row(
            storage.join(driver.folder.stage(evaluated, last[evaluated]), "rows"),
            driver.folder.task(driver.config.task),
        ),
        trained_rows=training.rows.out if training else None,
        steps=training.metrics["steps"] if training else None,
        selected=figures["selected"],
        pseudo_labels=figures["pseudo_labels"],
    )
