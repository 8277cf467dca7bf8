"""The interface of a stage: declaration, context, result.

A stage is one file of this folder: it declares a `Stage`, which the registry (`semievol.stages`) finds. Rounds, fingerprints,
plan, verify and report ask the declaration and name no stage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from semievol import trainers
from semievol.config import MEMBER, RunConfig
from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.engines.templates import ChatSettings
from semievol.errors import UserError
from semievol.inference.pool import EnginePool
from semievol.method.prompts import Prompts
from semievol.runtime.progress import Emit
from semievol.runtime.rows import RowJob
from semievol.tasks import Task
from semievol.trainers.base import Trainer, trained

LABELS = "labels.json"  # what ingest has found: the labels of the labeled rows, with their counts
Key = tuple[str, int]  # a stage's name and its round


@dataclass(frozen=True)
class Rows:
    """What became of the rows of a stage. `in` = out + quarantined + duplicates + leaks, always."""

    came_in: int
    out: int
    quarantined: int = 0
    duplicates: int = 0  # folded into an equal row; ingest only
    leaks: int = 0  # held back because they are test or validation rows too; ingest only

    @property
    def accounted(self) -> int:
        """Count the rows whose fate is known."""
        return self.out + self.quarantined + self.duplicates + self.leaks

    def check(self, stage: str) -> None:
        """Assert that nothing is lost."""
        assert self.came_in == self.accounted, (
            f"stage {stage}: {self.came_in} rows came in, but {self.accounted} are accounted for: {self}"
        )


@dataclass(frozen=True)
class StageResult:
    """What a stage returns; the runner makes its manifest of it."""

    rows: Rows
    metrics: dict[str, Any]
    headline: str  # the figure that matters, for people
    places: dict[str, str] = field(default_factory=dict)  # what people look for in its folder: name, relative path


@dataclass(frozen=True)
class Place:
    """The round of a stage, and the outputs that it reads there."""

    config: RunConfig  # as the round sees it
    number: int  # of the round
    sources: tuple[int, ...]  # the rounds up to this one that have unlabeled files of their own

    @property
    def rows(self) -> int:
        """Return the round whose files this round's unlabeled rows are from."""
        return self.sources[-1]

    @property
    def warm(self) -> Key:
        """Return the training that made the model `warm`: the warm-up, or after round 0 the last final training."""
        return ("finetune", self.number - 1) if self.number else ("warmup", 0)


class Scope(Enum):
    """In which rounds a stage runs."""

    ONCE = "in round 0, for all rounds"
    NEW_ROWS = "in the rounds that have unlabeled files of their own"
    ROUND = "in every round"


@dataclass(frozen=True)
class Stage:
    """A step of the method, as its file declares it.

    Attributes:
        name: also the name of its folder in a round; parts with a slash between them.
        inputs: the outputs that it reads in a place, under the names by which `run` asks for them.
        verify: compares what it wrote with its inputs, for `semievol verify`.
        after: the stages that it runs after, read or not. The order of all stages follows from it.
        version: raised when the output changes for equal settings and inputs: the stage and what depends on it run again.
        settings: keys of the config that its output depends on, as dotted paths. Knobs of speed (batch sizes, commit sizes,
            memory) are not among them: they may change between attempts without losing what is committed.
        if_set: further keys, which count only where they are not None: a key that came later changes no other fingerprint.
        models: what it loads that no stage makes: base, embedding, collaborators, chat_template.
        reads_files: whether its output depends on the input files themselves.
        pool: the key under `resources` that says what it asks for, or what finds the key in a config; empty for a single task.
        wanted: whether a run with this config has the stage at all.
        makes: the name of the model that it trains (warm, evolved); empty if it trains none.
        evaluates: the name of the model whose answers to the test rows it writes.
        validates: the name of the model whose answers to the validation rows it writes.
        figures: what of its metrics the summary of a run shows, and under which names.
        gained: tells from its metrics whether the round is better than the one before; of the stage that decides on it.
    """

    name: str
    run: Callable[[StageContext], StageResult]
    inputs: Callable[[Place], dict[str, Key]]
    verify: Callable[[RowChecks], None]
    after: tuple[str, ...] = ()
    version: int = 1
    settings: tuple[str, ...] = ()
    if_set: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    reads_files: bool = False
    pool: str | Callable[[RunConfig], str] = ""
    scope: Scope = Scope.ROUND
    wanted: Callable[[RunConfig], bool] = lambda _: True
    makes: str = ""
    evaluates: str = ""
    validates: str = ""
    figures: Callable[[dict[str, Any]], dict[str, Any]] = lambda _: {}
    gained: Callable[[dict[str, Any]], bool] | None = None

    def pool_in(self, config: RunConfig) -> str:
        """Return the key under `resources` for a config; empty where the stage needs no pool there."""
        return self.pool(config) if callable(self.pool) else self.pool

    @property
    def asks_engines(self) -> bool:
        """Tell whether live engines may stay while it runs."""
        return self.pool == "label"


@dataclass(frozen=True)
class StageContext:
    """Everything a stage may use."""

    name: str
    config: RunConfig
    out: str  # URI of the stage's own folder; its leftovers are there when it is resumed
    inputs: dict[str, str]  # URI of the folder of each stage it needs, by name
    emit: Emit
    engines: EnginePool = field(default_factory=EnginePool)  # of the run
    trainer: Callable[[RunConfig], Trainer] = trainers.load
    files: tuple[storage.FileEntry, ...] = ()  # the unlabeled files of a round with rows of its own
    number: int = 0  # of the round

    @property
    def rows(self) -> str:
        """Return the URI of the rows that the stage writes."""
        return storage.join(self.out, "rows")

    def input(self, stage: str, part: str = "rows") -> str:
        """Return the URI of what an input has written."""
        return storage.join(self.inputs[stage], part)

    @property
    def chat(self) -> ChatSettings:
        return ChatSettings.of(self.config.model)

    @property
    def row_job(self) -> RowJob:
        return RowJob(self.name, self.out, self.emit, self.config.label.rows_per_commit)

    @property
    def task(self) -> Task:
        """Return the kind of task, with the labels that ingest has found."""
        return learned(self.config.task, self.inputs["ingest"]) if "ingest" in self.inputs else self.config.task

    @property
    def prompts(self) -> Prompts:
        return Prompts(self.task, self.config.prompt)

    def weights(self, model: str) -> str:
        """Return what an engine loads for a name in a config: warm, warm-m, base, round-N, or a folder, URI or hub id.

        After round 0, `warm` is the evolved model of the round before. Of a committee, it is the best member.
        """
        if model == "base":
            return self.config.model.base
        if member := MEMBER.fullmatch(model):
            return trained(self.inputs["warmup"], int(member[1]))
        stage = self.inputs["warmup"] if model == "warm" else self.inputs.get(model)
        return trained(stage) if stage else model

    def check_bad_fraction(self, bad: int, total: int, examples: Iterable[str]) -> None:
        """Stop the run with examples when more of the data is unusable than `limits.max_bad_fraction` allows."""
        limit = self.config.limits.max_bad_fraction
        if total and bad / total > limit:
            shown = "\n".join(f"  {example}" for example in list(examples)[:5])
            looking = ". `semievol preview` shows how long prompts are, and what is cut" if " tokens" in shown else ""
            raise UserError(
                f"stage {self.name}: {bad:,} of {total:,} rows cannot be used, over limits.max_bad_fraction = {limit:g}. "
                f"The first:\n{shown}\nCorrect the data, or raise the limit to continue without these rows{looking}"
            )


def learned(task: Task, ingested: str) -> Task:
    """Return the kind of task, with the labels that ingest has found and left in its folder."""
    found = storage.join(ingested, LABELS)
    return task.learned(json.loads(storage.read_text(found))) if task.learns and storage.exists(found) else task
