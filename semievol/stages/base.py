"""What a stage is, what it is given, and what it gives back.

A stage is one file of this folder: it declares a `Stage`, which the registry (`semievol.stages`) finds. Rounds, fingerprints,
plan, verify and report ask the declaration and name no stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

import pyarrow as pa

from semievol import engines, tasks, trainers
from semievol.config import EngineConfig, PoolResources, RunConfig
from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.engines import Engine
from semievol.errors import UserError
from semievol.runtime.progress import Emit, reporting
from semievol.tasks import Task
from semievol.trainers.base import Trainer, trained

Part = TypeVar("Part")
# Rows of a commit: at least and at most so many (an engine has two of them at a time); between these as many as make so many
# commits, or so many for each actor. Each commit is a file, and Ray Data keeps some 50 KB of each on the driver.
_LEAST_ROWS, _MOST_ROWS, _COMMITS, _COMMITS_PER_ACTOR = 256, 10_000, 500, 50
_BYTES_PER_TASK = 64 << 20  # of compressed Parquet, for one task of `summarize`
Key = tuple[str, int]  # a stage's name, and the round in which it stands


@dataclass(frozen=True)
class Rows:
    """What became of the rows of a stage. `in` = out + quarantined + duplicates + leaks, always."""

    came_in: int
    out: int
    quarantined: int = 0
    duplicates: int = 0  # folded into an equal row; ingest only
    leaks: int = 0  # held back because they stand in the test set too; ingest only

    @property
    def accounted(self) -> int:
        """The rows whose fate is known."""
        return self.out + self.quarantined + self.duplicates + self.leaks

    def check(self, stage: str) -> None:
        """Hold that nothing is lost.

        Raises:
            AssertionError: the counts do not add up, which is a bug of ours and never the data's fault.
        """
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
    """Where a stage stands: in which round of which run. Says whose output it reads there."""

    config: RunConfig  # as the round sees it
    number: int  # of the round
    sources: tuple[int, ...]  # the rounds up to this one that have unlabeled files of their own

    @property
    def rows(self) -> int:
        """The round whose files this round's unlabeled rows are from."""
        return self.sources[-1]

    @property
    def warm(self) -> Key:
        """The training that made the model called `warm`: the warm-up, after round 0 the last final training."""
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
        version: raised when the stage's output changes for equal settings and inputs. Then it runs again in every run, and so
            does what depends on it.
        run: does the work.
        after: the stages that it runs after, read or not. The order of all stages follows from it.
        inputs: the outputs that it reads in a place, under the names by which `run` asks for them.
        settings: keys of the config that its output depends on, as dotted paths. Knobs of speed (batch sizes, commit sizes,
            memory) are not among them: they may change between attempts without losing what is committed.
        models: what it loads that no stage makes: base, embedding, collaborators.
        reads_files: whether its output depends on the input files themselves.
        pool: the key under `resources` that says what it asks for; empty for a single task.
        wanted: whether a run with this config has the stage at all.
        makes: the name of the model that it trains (warm, evolved); empty if it trains none.
        evaluates: the name of the model whose answers to the test rows it writes.
        verify: compares what it wrote with its inputs; `semievol verify` calls it.
    """

    name: str
    version: int
    run: Callable[[StageContext], StageResult]
    inputs: Callable[[Place], dict[str, Key]]
    verify: Callable[[RowChecks], None]
    after: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    reads_files: bool = False
    pool: str = ""
    scope: Scope = Scope.ROUND
    wanted: Callable[[RunConfig], bool] = lambda _: True
    makes: str = ""
    evaluates: str = ""


@dataclass(frozen=True)
class StageContext:
    """Everything a stage may use."""

    name: str
    config: RunConfig
    out: str  # URI of the stage's own folder; its leftovers are there when it is resumed
    inputs: dict[str, str]  # URI of the folder of each stage it needs, by name
    emit: Emit
    engine: Callable[[str, EngineConfig], Engine] = engines.load
    trainer: Callable[[RunConfig], Trainer] = trainers.load
    files: tuple[storage.FileEntry, ...] = ()  # the unlabeled files of a round with rows of its own

    @property
    def task(self) -> Task:
        return tasks.make(self.config.task)

    def weights(self, model: str) -> str:
        """What an engine loads for a name in a config: warm, base, round-N, or a folder, URI or hub id as it is.

        After round 0, `warm` is the evolved model of the round before.
        """
        if model == "base":
            return self.config.model.base
        stage = self.inputs["warmup"] if model == "warm" else self.inputs.get(model)
        return trained(stage) if stage else model


def check_bad_fraction(ctx: StageContext, bad: int, total: int, examples: Iterable[str]) -> None:
    """Stop the run when too much of the data is unusable.

    Raises:
        UserError: the share is over `limits.max_bad_fraction`; the message shows examples.
    """
    limit = ctx.config.limits.max_bad_fraction
    if total and bad / total > limit:
        shown = "\n".join(f"  {example}" for example in list(examples)[:5])
        raise UserError(
            f"stage {ctx.name}: {bad:,} of {total:,} rows cannot be used, over limits.max_bad_fraction = {limit:g}. "
            f"The first:\n{shown}\nMend the data, or raise the limit to go on without these rows"
        )


def summarize(uri: str, columns: list[str], partial: Callable[..., Part], **arguments: Any) -> Iterator[Part]:
    """Reduce the Parquet files of a folder, in tasks: `partial` makes something small of many rows, to be combined.

    Plain tasks and no Ray Data plan, because a selection makes several of these passes, and starting a plan costs
    more than a pass over a hundred thousand rows. The order of the parts is not defined.

    Args:
        columns: all that is read.
        partial: a function of a pyarrow table (and `arguments`).
    """
    import ray

    reduce = ray.remote(_reduce_files)
    waiting = [
        reduce.remote(files, columns, partial, arguments) for files in _chunks(storage.find(uri), _BYTES_PER_TASK)
    ]
    while waiting:
        (done, *_), waiting = ray.wait(waiting)
        yield ray.get(done)


def _chunks(files: list[storage.FileEntry], target_bytes: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for file in files:
        chunk.append(file.uri)
        size += file.size
        if size >= target_bytes:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _reduce_files(
    files: list[str], columns: list[str], partial: Callable[..., Part], arguments: dict[str, Any]
) -> Part:
    return partial(pa.concat_tables(storage.read_table(file, columns) for file in files), **arguments)


def run_rows(
    ctx: StageContext,
    *,
    source: str,
    out: str,
    actor: type,
    arguments: dict[str, Any],
    pool: PoolResources,
    rows_in_flight: int = 0,
    columns: dict[str, str] | None = None,
    note: str = "",
) -> list[dict[str, float]]:
    """Stream Parquet rows through an actor pool to Parquet, committing every `label.rows_per_commit` rows.

    Row-level resume is Ray Data's checkpointing by `row_id` (docs: ray.data.checkpoint.CheckpointConfig): the ids of a
    written block are committed together with it, and rows of committed blocks are filtered out of the input. The
    checkpoint only goes as deep as the blocks are small, hence the repartition: with default blocks a few thousand
    rows are one block, committed at the very end (measured: a kill then kept nothing).

    An actor that cannot go on for a reason that the user can mend tells `progress.stop`, and leaves the rows that it
    could not work on out of its output: what is finished of their blocks is still committed, and the next attempt takes
    up the rest. An exception would end the plan, and with it the blocks that are on their way.

    Args:
        actor: an (async) callable class over pyarrow tables; constructed with `arguments` and `progress`.
        rows_in_flight: at least so many wait at an actor for an answer at a time, whatever waits for the last row of a
            block, so that its engine stays full across their borders. 0: an actor works on one block at a time.
        columns: renames of input columns, old to new.
        note: what stands behind the progress.

    Returns:
        What each actor has counted of itself, in this attempt.

    Raises:
        UserError: an actor told `progress.stop`.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.checkpoint import CheckpointConfig

    commits = storage.join(ctx.out, "_commits", *out.removeprefix(ctx.out).strip("/").split("/"))
    total = storage.count_rows(source)
    done, pending = _committed(commits)
    commits_wanted = max(_COMMITS, _COMMITS_PER_ACTOR * (pool.max_actors or pool.actors))
    rows_per_block = ctx.config.label.rows_per_commit or min(max(_LEAST_ROWS, total // commits_wanted), _MOST_ROWS)
    if done == total > 0 and not pending:
        return []  # all was committed before a crash: no need to start an engine
    concurrency = 1 + math.ceil(rows_in_flight / rows_per_block)
    filesystem, source_path = storage.resolve(source)
    out_filesystem, out_path = storage.resolve(out)
    out_filesystem.create_dir(out_path, recursive=True)
    context = DataContext.get_current().copy()
    context.checkpoint_config = CheckpointConfig(
        id_column="row_id",
        checkpoint_path=storage.resolve(commits)[1],
        override_filesystem=storage.resolve(commits)[0],
        delete_checkpoint_on_success=False,
    )
    with reporting(ctx.name, total, ctx.emit, done=done, note=note) as progress, DataContext.current(context):
        rows = ray.data.read_parquet(source_path, filesystem=filesystem)
        rows = rows.rename_columns(columns) if columns else rows
        rows = rows.repartition(target_num_rows_per_block=rows_per_block).map_batches(
            actor,
            fn_constructor_kwargs=arguments | {"progress": progress},
            batch_size=rows_per_block if pool.num_gpus else None,  # the same; but with GPUs Ray wants a number
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=pool.actors,
                max_size=pool.max_actors or pool.actors,
                max_tasks_in_flight_per_actor=2 * concurrency,
                max_concurrent_calls_per_actor=concurrency,
            ),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
        )
        rows.write_parquet(out_path, filesystem=out_filesystem)
        problem, figures = ray.get([progress.problem.remote(), progress.figures.remote()])
    done, _ = _committed(commits)
    if problem:
        where = f" ({note})" if note else ""
        raise UserError(
            f"stage {ctx.name}{where}: {done:,} of {total:,} rows are answered, and kept. {problem}. Then run the same "
            f"command again: it asks for the rest"
        )
    # Of a plan that it cannot resume Ray only warns (ray.data: "Checkpointing will be disabled").
    assert done == total, f"{done:,} of {total:,} rows are committed, and no actor has said why"
    return list(figures)


def _committed(commits: str) -> tuple[int, bool]:
    """Rows whose commit is complete, and whether a write was cut off before its commit.

    Ray writes ids to NAME.pending.parquet before the data, and renames it after. What a crash leaves in between the next
    plan clears away, data and all.
    """
    files = storage.find(commits) if storage.exists(commits) else []
    pending = [file for file in files if file.uri.endswith(".pending.parquet")]
    return storage.rows_in(file for file in files if file not in pending), bool(pending)
