"""Studies: several methods at several seeds on one data set, where every stage that is equal is run once.

<storage>/<study>/
    results.csv  results.md  results.json  plot.png  risk_coverage.png
    runs/<method>-<seed>/              config, summary and README of each run
    stages/<stage>/<fingerprint>/      what the runs share: as round-0/<stage>/ of an ordinary run

A study may share the stages of another one, and then lies beside it.
"""

from __future__ import annotations

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
from semievol.stages import evaluating, registry
from semievol.stages.compare import scores_by_row


class Method(Section):
    """One way to make a model: what it changes in the study's config, and which of its models it is judged by."""

    overrides: list[str] = []
    until: str | None = None
    """The stage it ends with, which runs with all that it depends on. Default: the last stage."""
    report: Literal["base", "warm", "evolved"] = "evolved"


class StudyConfig(Section):
    """A study. All methods that are named for the figures may be left out."""

    name: FolderName
    storage: str = "runs/studies"
    """A folder or URI, as that of a run."""
    shares: FolderName | None = None
    """The name of another study in the same storage, whose stages it finds and adds to."""
    config: str
    """The config of a run, as a path from the study's file."""
    overrides: list[str] = []
    """Overrides of all methods. A method's own win over them."""
    seeds: list[int] = [0, 1, 2]
    methods: dict[FolderName, Method] = {}
    compare_to: str | None = None
    """The method against which the others are tested, pair by pair."""
    sft: str | None = None
    """(semievol - sft) / (ceiling - sft) is the share of the gap that is closed."""
    semievol: str | None = None
    ceiling: str | None = None

    @model_validator(mode="after")
    def _check(self) -> StudyConfig:
        if not self.methods:
            raise ValueError("methods: name at least one")
        if not len(set(self.seeds)) == len(self.seeds) > 0:
            raise ValueError(f"seeds: at least one, and none twice, got {self.seeds}")
        for role in ("compare_to", "sft", "semievol", "ceiling"):
            name = getattr(self, role)
            if name is not None and name not in self.methods:
                raise ValueError(f"{role}: no method '{name}' among {', '.join(self.methods)}")
        return self


class StudyFolder(RunFolder):
    """The folder of one run of a study: its stages lie at their fingerprints, where equal runs find them done.

    Args:
        stages: URI of the folder of the stages.
    """

    def __init__(self, study: str, run: str, stages: str) -> None:
        super().__init__(storage.join(study, "runs"), run)
        self._stages = stages

    def stage(self, stage: str, round_number: int = 0) -> str:
        return storage.join(self._stages, stage, self.fingerprints[stage, round_number])


@dataclass(frozen=True)
class PlannedRun:
    """One run of the study."""

    method: str
    seed: int
    config: RunConfig
    until: str | None
    report: str


def load(path: str, overrides: list[str] | None = None) -> StudyConfig:
    """Read a study's YAML file.

    Args:
        overrides: `key=value`; those of keys of the study are its own, all others those of its runs.

    Raises:
        UserError: as `config.load`, or the methods that it names do not fit together.
    """
    if not Path(path).is_file():
        raise UserError(f"study file not found: {path}")
    given = overrides or []
    own = [text for text in given if re.split(r"[.\[=]", text)[0] in StudyConfig.model_fields]
    if seeds := [text for text in given if text.startswith("seed=")]:
        raise UserError(f"{seeds[0]}: a study runs at several seeds; write seeds=[{seeds[0].removeprefix('seed=')}]")
    study = configuration.structured(StudyConfig, Path(path).read_text("utf-8"), own, path)
    study.config = str(Path(path).parent / study.config)
    study.overrides += [text for text in given if text not in own]
    return study


def plan(study: StudyConfig) -> list[PlannedRun]:
    """All runs, seed by seed, with their configs checked.

    Raises:
        UserError: names the method whose overrides are wrong, or that never evaluates the model it reports.
    """
    planned = []
    for seed in study.seeds:
        for name, method in study.methods.items():
            run = [f"name={name}-{seed}", f"storage={study.storage}", f"seed={seed}"]
            try:
                config = configuration.load(study.config, [*study.overrides, *method.overrides, *run])
                rounds.check_until(method.until)
                one_round = rounds.steps([Round(0, (FileEntry("", 0, 0),))], config)
                stages = [step.stage.name for step in rounds.needed(rounds.until(one_round, method.until))]
            except UserError as error:
                raise UserError(f"methods.{name}: {error}") from None
            if evaluating(method.report).name not in stages:
                raise UserError(
                    f"methods.{name}: report is {method.report}, which is not evaluated until {method.until}"
                )
            planned.append(PlannedRun(name, seed, config, method.until, method.report))
    return planned


def run(study: StudyConfig, echo: Callable[[str], None], variables: Sequence[str] = ()) -> dict[str, Any]:
    """Run what is not done yet, write the study's files, and return its figures.

    Raises:
        UserError: something the user can mend; nothing has started when it is in the configs.
    """
    where = storage.absolute(study.storage)
    uri, owner = storage.join(where, study.name), storage.join(where, study.shares or study.name)
    stages = storage.join(owner, "stages")
    runs = [(one, Pipeline(one.config, echo, StudyFolder(uri, one.config.name, stages))) for one in plan(study)]
    results = []
    with lease.held(owner, echo):  # of the stages: no two studies write the same one
        for number, (one, driver) in enumerate(runs, start=1):
            echo(f"{one.method}, seed {one.seed}: run {number} of {len(runs)}")
            figures = driver.run(summary.write, one.until, variables, only_needed=True)
            results.append(_result(one, driver, figures))
        headline = Headline(study.compare_to, study.sft, study.semievol, study.ceiling)
        figures = study_report.figures(study.name, results, headline)
        study_report.write(uri, figures, results)
    return figures


def _result(one: PlannedRun, driver: Pipeline, figures: dict[str, Any]) -> Result:
    """Args: figures: the summary of the run."""
    last = {step["stage"]: step["round"] for step in figures["stages"]}
    evaluated = evaluating(one.report).name
    trained = next((s.name for s in registry() if s.makes == one.report), None)
    training = driver.folder.manifest(trained, last[trained]) if trained else None
    return Result(
        method=one.method,
        seed=one.seed,
        accuracy=figures["models"][one.report]["accuracy"],
        interval=tuple(figures["models"][one.report]["interval"]),
        scores=scores_by_row(storage.join(driver.folder.stage(evaluated, last[evaluated]), "rows"), driver.config.task),
        trained_rows=training.rows.out if training else None,
        steps=training.metrics["steps"] if training else None,
        selected=figures["selected"],
        pseudo_labels=figures["pseudo_labels"],
    )
