"""Process rows with Ray: an actor pool that commits rows, and reductions of many files to a small result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from semievol.config import PoolResources
from semievol.data import storage
from semievol.errors import UserError
from semievol.runtime.progress import Emit, reporting

Part = TypeVar("Part")
# Bounds on the rows of a commit. Between them, aim at `_COMMITS`, or at `_COMMITS_PER_ACTOR` for each actor.
_LEAST_ROWS, _MOST_ROWS, _COMMITS, _COMMITS_PER_ACTOR = 256, 10_000, 500, 50
_BYTES_PER_TASK = 64 << 20  # of compressed Parquet, for one task of `summarize`


@dataclass(frozen=True)
class RowJob:
    """The work that rows are streamed for."""

    name: str  # for progress and messages, after the word "stage"
    folder: str  # URI; it keeps the commits, and the rows are written below it
    emit: Emit
    rows_per_commit: int | None = None  # None: as many as make some hundreds of commits


def summarize(uri: str, columns: list[str], partial: Callable[..., Part], **arguments: Any) -> Iterator[Part]:
    """Reduce the Parquet files of a folder in tasks, to parts that the caller combines. Their order is not defined.

    To start a Ray Data plan would cost more than a pass over a hundred thousand rows.

    Args:
        partial: makes something small of a pyarrow table with these columns (and `arguments`).
    """
    import ray

    reduce = ray.remote(_reduce_files)
    waiting = [reduce.remote(files, columns, partial, arguments) for files in _chunks(uri)]
    while waiting:
        (done, *_), waiting = ray.wait(waiting)
        yield ray.get(done)


def _chunks(uri: str) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for file in storage.find(uri):
        chunk.append(file.uri)
        size += file.size
        if size >= _BYTES_PER_TASK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _reduce_files(
    files: list[str], columns: list[str], partial: Callable[..., Part], arguments: dict[str, Any]
) -> Part:
    return partial(pa.concat_tables(storage.read_table(file, columns) for file in files), **arguments)


def map_rows(source: str, out: str, change: Callable[..., pa.Table], **arguments: Any) -> None:
    """Write the rows of one folder to another, changed in parallel tasks; leftovers there are removed first.

    Args:
        change: makes a table of a table (and `arguments`).
    """
    import ray

    storage.delete(out)
    filesystem, path = storage.resolve(source)
    out_filesystem, out_path = storage.resolve(out)
    rows = ray.data.read_parquet(path, filesystem=filesystem)
    rows = rows.map_batches(change, batch_format="pyarrow", fn_kwargs=arguments)
    rows.write_parquet(out_path, filesystem=out_filesystem)


def run_rows(
    job: RowJob,
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
    """Stream Parquet rows through an actor pool to Parquet. Return the figures that each actor has reported.

    Rows are resumed by Ray Data's checkpointing by `row_id` (ray.data.checkpoint.CheckpointConfig): the ids of a
    written block are committed with it, and rows of committed blocks are left out of the input. Hence the repartition.

    An actor that cannot go on, for a reason that the user can put right, tells `progress.stop` and leaves the rows that
    it could not work on out of its output. The rest of their block is still committed, and the next attempt takes up
    these rows. An exception would end the plan, and with it the blocks that are on their way.

    Args:
        actor: an (async) callable class over pyarrow tables; constructed with `arguments` and `progress`.
        rows_in_flight: minimum of rows at an actor at a time; its blocks overlap to reach it.
        columns: renames of input columns, old to new.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.checkpoint import CheckpointConfig

    commits = storage.join(job.folder, "_commits", *out.removeprefix(job.folder).strip("/").split("/"))
    total = storage.count_rows(source)
    done, pending = _committed(commits)
    if done == total > 0 and not pending:
        return []  # all was committed before a crash: do not start an engine
    most_actors = pool.max_actors or pool.actors
    commits_wanted = max(_COMMITS, _COMMITS_PER_ACTOR * most_actors)
    rows_per_block = job.rows_per_commit or min(max(_LEAST_ROWS, total // commits_wanted), _MOST_ROWS)
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
    with reporting(job.name, total, job.emit, done=done, note=note) as progress, DataContext.current(context):
        rows = ray.data.read_parquet(source_path, filesystem=filesystem)
        rows = rows.rename_columns(columns) if columns else rows
        rows = rows.repartition(target_num_rows_per_block=rows_per_block).map_batches(
            actor,
            fn_constructor_kwargs=arguments | {"progress": progress},
            batch_size=rows_per_block if pool.num_gpus else None,  # the same; but with GPUs Ray wants a number
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=pool.actors,
                max_size=most_actors,
                max_tasks_in_flight_per_actor=2 * concurrency,
                max_concurrent_calls_per_actor=concurrency,
            ),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
        )
        rows.write_parquet(out_path, filesystem=out_filesystem)
        *_, problem, figures = ray.get(progress.state.remote())
    done, _ = _committed(commits)
    if problem:
        where = f" ({note})" if note else ""
        raise UserError(
            f"stage {job.name}{where}: {done:,} of {total:,} rows are answered, and kept. {problem}. Then run the same "
            f"command again: it asks for the rest"
        )
    # Ray only warns of a plan that it cannot resume (ray.data: "Checkpointing will be disabled").
    assert done == total, f"{done:,} of {total:,} rows are committed, and no actor has said why"
    return list(figures)


def _committed(commits: str) -> tuple[int, bool]:
    """Return how many rows are committed, and whether a write was cut off before its commit.

    Ray writes ids to NAME.pending.parquet before the data, and renames it after. The next plan removes such leftovers.
    """
    files = storage.find(commits) if storage.exists(commits) else []
    pending = [file for file in files if file.uri.endswith(".pending.parquet")]
    return storage.rows_in(file for file in files if file not in pending), bool(pending)
