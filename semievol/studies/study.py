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
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from semievol import config as configuration
from semievol import tasks
from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.storage import FileEntry
from semievol.errors import UserError
from semievol.reports import study as study_report
from semievol.reports.study import Headline, Result
from semievol.runs import lease, rounds
from semievol.runs.folder import Manifest, RunFolder
from semievol.runs.pipeline import Pipeline
from semievol.runs.rounds import Round
from semievol.stages.evaluate import MODELS, scores_by_row


@dataclass
class Method:
    """One way to make a model: what it changes in the study's config, and which of its models it is judged by."""

    overrides: list[str] = field(default_factory=list)
    until: str | None = None  # the stage it ends with, which runs with all that it depends on; default: the last stage
    report: str = "evolved"  # base | warm | evolved


@dataclass
class StudyConfig:
    """A study. Where methods are named for the figures: all of them may be left out."""

    name: str = "???"
    storage: str = "runs/studies"  # a folder or URI, as that of a run
    shares: str | None = None  # the name of another study in the same storage whose stages it finds and adds to
    config: str = "???"  # of a run, as a path from the study's file
    overrides: list[str] = field(default_factory=list)  # of all methods; a method's own win over them
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    methods: dict[str, Method] = field(default_factory=dict)
    compare_to: str | None = None  # the method against which the others are tested, pair by pair
    # (semievol - sft) / (ceiling - sft) is the share of the gap that is closed.
    sft: str | None = None
    semievol: str | None = None
    ceiling: str | None = None


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
class Planned:
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
    own_keys = {key.name for key in fields(StudyConfig)}
    given = overrides or []
    own = [text for text in given if re.split(r"[.\[=]", text)[0] in own_keys]
    if seeds := [text for text in given if text.startswith("seed=")]:
        raise UserError(f"{seeds[0]}: a study runs at several seeds; write seeds=[{seeds[0].removeprefix('seed=')}]")
    study = configuration.structured(StudyConfig, Path(path).read_text("utf-8"), own, path)
    study.config = str(Path(path).parent / study.config)
    study.overrides += [text for text in given if text not in own]
    _check(study, path)
    return study


def _check(study: StudyConfig, path: str) -> None:
    def require(ok: bool, message: str) -> None:
        if not ok:
            raise UserError(f"{path}: {message}")

    require(len(study.methods) > 0, "methods: name at least one")
    require(len(set(study.seeds)) == len(study.seeds) > 0, f"seeds: at least one, and none twice, got {study.seeds}")
    for name in (study.name, study.shares or study.name, *study.methods):
        ok = re.fullmatch(r"[\w][\w.-]*", name) is not None
        require(ok, f"'{name}' names a folder: letters, digits, . _ -")
    for role in ("compare_to", "sft", "semievol", "ceiling"):
        name = getattr(study, role)
        require(name is None or name in study.methods, f"{role}: no method '{name}' among {', '.join(study.methods)}")
    for name, method in study.methods.items():
        require(method.report in MODELS, f"methods.{name}.report: '{method.report}' is none of {', '.join(MODELS)}")


def plan(study: StudyConfig) -> list[Planned]:
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
            if f"evaluate/{method.report}" not in stages:
                raise UserError(
                    f"methods.{name}: report is {method.report}, which is not evaluated until {method.until}"
                )
            planned.append(Planned(name, seed, config, method.until, method.report))
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
            summary = driver.run(one.until, variables, only_needed=True)
            last = {stage["stage"]: stage["round"] for stage in summary["stages"]}
            results.append(_result(one, driver, last))
        headline = Headline(study.compare_to, study.sft, study.semievol, study.ceiling)
        figures = study_report.figures(study.name, results, headline)
        study_report.write(uri, figures, results)
    return figures


def _result(one: Planned, driver: Pipeline, last: dict[str, int]) -> Result:
    """Args: last: the stages that the run went through, and the last round in which it did."""
    manifests = {name: driver.folder.manifest(name, number) for name, number in last.items()}

    def metrics(stage: str | None) -> dict[str, Any]:
        found: Manifest | None = manifests.get(stage or "")
        return found.metrics if found else {}

    trained = manifests.get(MODELS[one.report] or "")
    evaluated = f"evaluate/{one.report}"
    return Result(
        method=one.method,
        seed=one.seed,
        accuracy=metrics(evaluated)["accuracy"],
        interval=tuple(metrics(evaluated)["interval"]),
        scores=scores_by_row(
            storage.join(driver.folder.stage(evaluated, last[evaluated]), "rows"), tasks.make(driver.config.task)
        ),
        trained_rows=trained.rows.out if trained else None,
        steps=trained.metrics["steps"] if trained else None,
        selected=metrics("select").get("selected"),
        pseudo_labels=metrics("evaluate/compare").get("pseudo_labels"),
    )
