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
    """The checks of one finished stage. Each check appends to `problems`."""

    uri: str  # of the stage's folder
    inputs: dict[str, str]  # the folders that it read, by name
    came_in: int  # of its manifest, as are the next two
    out: int
    quarantined: int
    rows: int = 0  # counted so far
    problems: list[str] = field(default_factory=list)

    def count(self, what: str, folders: Sequence[str], expected: int) -> None:
        """Compare the rows of some folders with a count of the manifest."""
        found = sum(map(storage.count_rows, folders))
        self.rows += found
        if found != expected:
            self.problems.append(f"{found:,} {what}, and its manifest says {expected:,}")

    def same_rows(self, stage: str, part: str = "rows") -> None:
        """Check that rows/ holds every row of a part of an input once, the quarantined ones too."""
        folder = storage.join(self.uri, "rows")
        self.count("rows written", [folder], self.out + self.quarantined)
        self.ids(folder, equal=storage.join(self.inputs[stage], part))

    def rows_of(self, sources: dict[str, str], expected: int) -> None:
        """Check that rows/ holds as many rows as expected, all of them from parts of inputs, by name of the input."""
        folder = storage.join(self.uri, "rows")
        self.count("rows written", [folder], expected)
        self.ids(folder, within=[storage.join(self.inputs[stage], part) for stage, part in sources.items()])

    def ids(self, folder: str, *, equal: str = "", within: Sequence[str] = ()) -> None:
        """Check that row ids are unique, and that they equal those of a folder or are among those of several."""
        name = folder.removeprefix(f"{self.uri}/")
        prefix = "" if name == "rows" else f"{name}: "
        buckets = 1 + storage.count_rows(folder) // _IDS_AT_A_TIME
        sources = [equal] if equal else within
        for bucket in range(buckets):
            ids = np.sort(_ids(folder, bucket, buckets))
            self._report(prefix, np.unique(ids[1:][ids[1:] == ids[:-1]]), "row ids occur more than once")
            if not sources:
                continue
            others = np.concatenate([_ids(other, bucket, buckets) for other in sources])
            self._report(prefix, np.setdiff1d(ids, others), f"row ids are not in {' or '.join(sources)}")
            if equal:
                self._report(prefix, np.setdiff1d(others, ids), f"row ids of {equal} are missing")

    def neighbors(self, labeled: str) -> None:
        """Check that all neighbors in rows/ are labeled rows."""
        known = np.unique(_ids(labeled))
        unknown: set[int] = set()
        for column in _columns(storage.join(self.uri, "rows"), "neighbor_ids"):
            unknown.update(np.setdiff1d(column.combine_chunks().flatten().to_numpy(), known).tolist())
        self._report("", np.array(sorted(unknown)), "neighbor ids are not labeled rows")

    def _report(self, prefix: str, ids: Ids, problem: str) -> None:
        if len(ids):
            self.problems.append(f"{prefix}{len(ids):,} {problem}, {ids[0]} first")


def _columns(uri: str, name: str) -> Iterator[pa.ChunkedArray]:
    """Yield one column of each file of a folder, a few files at a time."""
    files = storage.find(uri)
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(files), _READERS):  # bounds the memory
            for table in pool.map(lambda file: storage.read_table(file.uri, [name]), files[start : start + _READERS]):
                yield table[name]


def _ids(uri: str, bucket: int = 0, buckets: int = 1) -> Ids:
    """Return the row ids of a folder that fall into a bucket."""
    kept = [np.empty(0, np.int64)]
    for column in _columns(uri, "row_id"):
        ids = column.to_numpy()
        kept.append(ids[ids.view(np.uint64) % np.uint64(buckets) == bucket])
    return np.concatenate(kept)
