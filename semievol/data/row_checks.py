"""Compare the rows that a stage wrote with its manifest and its inputs. Needs files only, and constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol.data import storage

Ids = npt.NDArray[np.int64]
_READERS = 8
_IDS_AT_A_TIME = 4_000_000


@dataclass
class RowChecks:
    """The checks of one finished stage. Each check appends to `problems`.

    Attributes:
        uri: the stage's folder.
        inputs: the folders that it read, by name.
        out, quarantined, came_in: row counts of its manifest.
        rows: rows counted so far.
    """

    uri: str
    inputs: dict[str, str]
    came_in: int
    out: int
    quarantined: int
    rows: int = 0
    problems: list[str] = field(default_factory=list)

    def count(self, what: str, folders: Sequence[str], expected: int) -> None:
        """Compare the rows of some folders with a count of the manifest."""
        found = sum(map(storage.count_rows, folders))
        self.rows += found
        if found != expected:
            self.problems.append(f"{found:,} {what}, and its manifest says {expected:,}")

    def same_rows(self, source: str) -> None:
        """Check that rows/ holds every row of `source` once, the quarantined ones too."""
        folder = storage.join(self.uri, "rows")
        self.count("rows written", [folder], self.out + self.quarantined)
        self.ids(folder, equal=source)

    def ids(self, folder: str, *, equal: str = "", within: Sequence[str] = ()) -> None:
        """Check that row ids are unique, and that they equal those of a folder or are among those of several."""
        name = folder.removeprefix(f"{self.uri}/")
        prefix = "" if name == "rows" else f"{name}: "
        buckets = 1 + storage.count_rows(folder) // _IDS_AT_A_TIME
        for bucket in range(buckets):
            ids = np.sort(_column(folder, "row_id", bucket, buckets))
            self._report(prefix, np.unique(ids[1:][ids[1:] == ids[:-1]]), "row ids occur more than once")
            if not (equal or within):
                continue
            sources = [equal] if equal else within
            others = np.concatenate([_column(other, "row_id", bucket, buckets) for other in sources])
            self._report(prefix, np.setdiff1d(ids, others), f"row ids are not in {' or '.join(sources)}")
            if equal:
                self._report(prefix, np.setdiff1d(others, ids), f"row ids of {equal} are missing")

    def neighbors(self, folder: str, labeled: str) -> None:
        """Check that all neighbors are labeled rows."""
        known = np.unique(_column(labeled, "row_id", 0, 1))
        unknown: set[int] = set()
        for table in _tables(folder, "neighbor_ids"):
            unknown.update(np.setdiff1d(table.column(0).combine_chunks().flatten().to_numpy(), known).tolist())
        self._report("", np.array(sorted(unknown)), "neighbor ids are not labeled rows")

    def _report(self, prefix: str, ids: Ids, problem: str) -> None:
        if len(ids):
            self.problems.append(f"{prefix}{len(ids):,} {problem}, {ids[0]} first")


def _tables(uri: str, column: str) -> Iterator[pa.Table]:
    """Yield one column of each file of a folder, a few files at a time."""

    def read(file: storage.FileEntry) -> pa.Table:
        return storage.read_table(file.uri, [column])

    files = storage.find(uri)
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(files), _READERS):  # bounds the memory
            yield from pool.map(read, files[start : start + _READERS])


def _column(uri: str, column: str, bucket: int, buckets: int) -> Ids:
    kept = [np.empty(0, np.int64)]
    for table in _tables(uri, column):
        ids = table.column(0).to_numpy()
        kept.append(ids[ids.view(np.uint64) % np.uint64(buckets) == bucket])
    return np.concatenate(kept)
