"""What all readers share: a row or a `Broken`, and what a file was found to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}  # the end of a name, and what Arrow calls it
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u200e\u2060"  # characters that names of columns must not differ by
LINE_BYTES = 64 << 20  # a longer line would fill the memory


@dataclass(frozen=True)
class Broken:
    """Text that is not a row, and the reason."""

    reason: str
    raw: str


Rows = Iterator[tuple[int, dict[str, Any] | Broken]]


@dataclass(frozen=True)
class Shared:
    """What a CSV file takes from the other files of its split, because it does not show it itself."""

    header: Sequence[str] = ()
    backslash: bool = False  # quotes are escaped with backslashes


@dataclass
class Reading:
    """How a file is to be read, and what was unusual about it.

    Attributes:
        wanted: the columns that are needed; empty for all. The first one is that of the question.
        line_bytes: the longest line that is read.
        notes: filled while the file is read; for people.
    """

    wanted: Collection[str] = ()
    shared: Shared = Shared()
    line_bytes: int = LINE_BYTES
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a remark once."""
        if text not in self.notes:
            self.notes.append(text)

    def distinct(self, header: Iterable[str]) -> list[str]:
        """Return the names of the columns; one that stands twice gets a number, so that the first one is read."""
        seen: Counter[str] = Counter()
        names = []
        for name in (cell.strip().strip(_INVISIBLE).strip() for cell in header):
            names.append(f"{name}.{seen[name]}" if seen[name] else name)
            if seen[name] and name:
                self.note(f"has the column '{name}' twice; the first one is read")
            seen[name] += 1
        return names


@dataclass(frozen=True)
class Look:
    """What the beginning of a file shows.

    Attributes:
        rows: the first rows; none of Parquet and Arrow.
        whole: the columns are those of all rows, as the file has a schema or a header.
        header: the cells of the first line, where it names the columns. It might be a row instead.
        backslash: its quotes are escaped with backslashes.
        empty: the file has no row, not even a broken one.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    notes: list[str]
    whole: bool = False
    header: Sequence[str] = ()
    backslash: bool = False
    empty: bool = False
