"""Look at the first rows of data files: what each column holds, as far as a config depends on it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from semievol.data import column_names, options, readers, shards, sources
from semievol.data.tables import BadRow, cell_text, without_places
from semievol.errors import UserError
from semievol.tasks.parsing import decimals, lists

ROWS = 20_000  # of a split that are looked at, from the beginning of each file
FILES = 20
_KEPT = 1_000  # characters of a cell
_ALL = 1 << 62  # bytes: no cell is too long to be looked at
_UNITS = re.compile(r"(?<=[\d\s])(?:thousand|million|billion|trillion|percent|e[+-]?(?=\d))", re.IGNORECASE)
_LETTER = re.compile(r"[^\W\d]")
_NOTHING = frozenset({"", "null", "none", "nan", "n/a", "na"})
_SHORT = 60  # bytes of a label


@dataclass
class Column:
    """The cells of a column that were looked at."""

    name: str
    cells: list[str | None] = field(default_factory=list)  # the beginning of each, None where there is nothing
    sizes: list[int] = field(default_factory=list)  # bytes of the filled cells
    lists: dict[int, list[Any]] = field(default_factory=dict)  # the cells that are lists, by row
    words: dict[int, str] = field(default_factory=dict)  # "none" and the like, by row: a value, or nothing
    mappings: int = 0  # cells that are mappings

    def add(self, value: Any) -> None:
        """Add the next row's cell."""
        value = without_places(value)
        named = re.sub(r"[\W_]+", "", self.name).lower() in column_names.OPTIONS
        if named and (items := options.read(value)) is not None:
            self.lists[len(self.cells)] = items
            value = json.dumps(items, ensure_ascii=False, default=str)
        elif isinstance(value, dict):
            self.mappings += 1
            value = json.dumps(value, ensure_ascii=False, default=str)
        elif (items := as_list(value)) is not None:
            self.lists[len(self.cells)] = items
        try:
            text = cell_text({"cell": value}, "cell", _ALL)
        except BadRow:
            text = ""
        nothing = text.lower() in _NOTHING
        if nothing and text and text.lower() != "nan":
            self.words[len(self.cells)] = text
        self.cells.append(None if nothing else text[:_KEPT])
        if self.cells[-1] is not None:
            self.sizes.append(len(text.encode()))

    def settle(self) -> None:
        """Count words such as "none" among short texts as values, after all rows: they are labels, and the run reads them so."""
        found = Counter(cell for cell in self.cells if cell is not None)
        numbers = sum(rows for value, rows in found.items() if _is_number(value))
        if self.words and self.mean <= _SHORT and numbers < 0.5 * max(self.filled, 1):
            for row, word in self.words.items():
                self.cells[row] = word
                self.sizes.append(len(word.encode()))

    @cached_property
    def counts(self) -> Counter[str]:
        """The distinct values, with the number of their rows."""
        return Counter(cell for cell in self.cells if cell is not None)

    @property
    def filled(self) -> int:
        return len(self.sizes)

    @property
    def mean(self) -> float:
        """Bytes of a cell."""
        return sum(self.sizes) / max(self.filled, 1)

    @property
    def longest(self) -> int:
        return max(self.sizes, default=0)

    @property
    def repeats(self) -> float:
        """Rows for each distinct value."""
        return self.filled / max(len(self.counts), 1)

    @cached_property
    def listed(self) -> bool:
        return len(self.lists) >= 0.5 * max(self.filled, 1)

    @cached_property
    def numeric(self) -> bool:
        """Tell whether nearly all cells are numbers."""
        found = sum(rows for value, rows in self.counts.items() if _is_number(value))
        return found >= 0.95 * max(self.filled, 1)

    @cached_property
    def prose(self) -> float:
        """The share of cells that may be sentences: several words, or a text without blanks between words."""
        found = sum(rows for value, rows in self.counts.items() if len(value.split()) > 1 or not value.isascii())
        return found / max(self.filled, 1)


@dataclass
class Profile:
    """The first rows of the files of a split."""

    pattern: str
    files: int
    rows: int
    columns: dict[str, Column]
    broken: int = 0  # lines that are no rows
    more: bool = False  # there are rows that were not looked at
    any_name: bool = False  # files of bare texts: their only column has whatever name is asked for

    @property
    def rows_seen(self) -> str:
        return f"first {self.rows:,} rows" if self.more else f"{self.rows:,} rows"

    @property
    def amount(self) -> str:
        """Say how many rows there are."""
        at_least = f"more than {self.rows:,} rows" if self.more else f"{self.rows:,} rows"
        return f"{at_least} in {self.files:,} files" if self.files > 1 else at_least

    @property
    def said(self) -> str:
        """Say what was looked at."""
        files = f"{self.rows_seen} of {self.files:,} files" if self.files > 1 else self.rows_seen
        broken = f" (and {self.broken:,} lines that are no rows)" if self.broken else ""
        return f"{files}{broken}: {', '.join(name or '(no name)' for name in self.columns)}"


def profile(pattern: str) -> Profile:
    """Look at the files of a path, folder, glob or URI."""
    files = sources.find(pattern) if pattern.strip() else []
    if not files:
        raise UserError(f"no file at '{pattern}' (a file, a folder, a glob or a URI)")
    found = Profile(pattern, len(files), 0, {}, more=len(files) > FILES)
    found.any_name = all(readers.format_of(file.uri) == ".txt" for file in files)
    named = next(filter(None, (readers.columns(file.uri) for file in files[:FILES])), [])
    for shard in shards.look_at(files[:FILES], named):  # one without a header has the columns of the others
        rows = readers.read(shard.uri, shared=shard.shared)
        _add(found, (row for _, row in islice(rows, ROWS // min(len(files), FILES))))
        found.more = found.more or next(rows, None) is not None
    for column in found.columns.values():
        column.settle()
    if not found.rows:
        raise UserError(
            f"'{pattern}' holds no row" + (f", and {found.broken:,} lines that are none" * bool(found.broken))
        )
    return found


def _add(found: Profile, rows: Iterable[dict[str, Any] | readers.Broken]) -> None:
    for row in rows:
        if isinstance(row, readers.Broken):
            found.broken += 1
            continue
        for name in row:
            if name not in found.columns:
                found.columns[name] = Column(name, [None] * found.rows)
        for name, column in found.columns.items():
            column.add(row.get(name))
        found.rows += 1


def _is_number(text: str) -> bool:
    """Tell whether a text is a number and nothing else; "A1" and "label_1" are names."""
    return not _LETTER.search(_UNITS.sub("", text)) and decimals.only(text) is not None


def as_list(value: Any) -> list[Any] | None:
    """Return a cell as a list if it is one or writes one down; else None."""
    return value if isinstance(value, list) else lists.as_list(value) if isinstance(value, str) else None
