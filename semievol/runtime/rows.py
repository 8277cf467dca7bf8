"""Rows through Ray: an actor pool with row-level commits, and reductions of many files to something small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pyarrow as pa

from semievol.data import storage

Part = TypeVar("Part")
_BYTES_PER_TASK = 64 << 20  # of compressed Parquet, for one task of `summarize`


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
