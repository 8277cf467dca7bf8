"""Rows of CSV and TSV, by Python's csv in its strict mode.

DuckDB reads most such files too, but it lost lines without a word after a quote that is never closed, dropped backslashes and
characters, and has no line numbers. Here a line is a row, a part of a row, blank, or `Broken`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from semievol.data.readers.base import Broken, Look, Reading, Rows
from semievol.data.readers.records import EARLY, Dialect, Record, records

_SAMPLE_LINES, _SAMPLE_CHARACTERS = 5_000, 1 << 20
_NULL = "\\N"  # how MySQL, PostgreSQL and Hive write a value that is missing
_NONE = "\x1f"  # separates nothing in a text file: one column
_LINES_OF_HEADER = 20
_SEPARATORS = (",", ";", "\t", "|", "\x01", "^", "~", _NONE)  # \x01: Hive's
_NAMES = {
    "\t": "tabs",
    ";": "semicolons",
    "|": "bars",
    "\x01": "control-A",
    " ": "blanks",
    _NONE: "nothing (one column)",
    ",": "commas",
}
_HEADERLIKE = re.compile(r"[^\W\d][\w .:/()-]{0,40}")
_BLANKS_BETWEEN_QUOTES = re.compile(r'"[^"]*"( "[^"]*")+\s*')  # as R's write.table does by default
_WHOLE = re.compile(r"-?\d+\.0")  # how pandas writes whole numbers of a column in which some are missing
_WORD = re.compile(r"[^\s\"]{1,40}")


@dataclass(frozen=True)
class Sheet:
    """What the beginning of a file tells about all of it."""

    dialect: Dialect
    skip: int  # lines before the header
    header: list[str]
    in_file: bool  # whether the header is the first row of the file
    whole: frozenset[int] = frozenset()  # the columns of whole numbers that are written as 3.0
    missing: str = ""  # how the file writes a value that is missing, other than as nothing
    words: frozenset[int] = frozenset()  # the columns that hold a single word or number in each row

    def is_row(self, fields: list[str] | None) -> bool:
        """Tell whether fields look like those of a row, and not like a piece of a text with separators in it."""
        if not fields or not len(fields) == len(self.header) > 1:
            return False
        return bool(self.words) and all(_WORD.fullmatch(fields[i]) for i in self.words)


def look(lines: Iterable[str], reading: Reading, separator: str = "") -> Look:
    """Return the columns and first rows of a file from its first lines."""
    begun = list(lines)
    sheet = _sheet(begun, reading, separator)
    reads_all = replace(reading, wanted=())  # the first line may be a row, of which there may be more
    found = [row for _, row in islice(_rows(iter(begun), sheet, reads_all), 100)]
    first = [row for row in found if not isinstance(row, Broken)]
    names = [name for name in sheet.header if name]
    return Look(
        names,
        first,
        reading.notes,
        whole=True,
        header=sheet.header if sheet.in_file else [],
        backslash=sheet.dialect.backslash,
        empty=not found,
    )


def rows(lines: Iterator[str], reading: Reading, separator: str = "") -> Rows:
    """Yield the rows of a file. `separator`: the one that the file's name says."""
    csv.field_size_limit(reading.line_bytes)
    begun = beginning(lines)
    return _rows(chain(begun, lines), _sheet(begun, reading, separator), reading)


def beginning(lines: Iterable[str]) -> list[str]:
    """Return enough lines to know a file by."""
    taken: list[str] = []
    size = 0
    for line in islice(lines, _SAMPLE_LINES):
        taken.append(line)
        size += len(line)
        if size > _SAMPLE_CHARACTERS:
            break
    return taken


def _rows(lines: Iterable[str], sheet: Sheet, reading: Reading) -> Rows:
    header, whole, width = sheet.header, sheet.whole, len(sheet.header)
    again = width > 1 and bool(set(reading.wanted) & set(header))
    literal = replace(sheet.dialect, quote=False)
    found = records(islice(lines, sheet.skip, None), sheet.dialect, sheet.skip + 1, sheet.is_row)
    if sheet.in_file and (first := next(found, None)) and reading.wanted and not set(reading.wanted) & set(header):
        yield first[1], Broken("the first line has the name of no column that is read", _raw(first[2]))
    for fields, number, taken, problem in found:
        if problem:
            fields = (literal.fields(taken[0]) if EARLY in problem else None) or []
            if len(fields) != width:
                yield number, Broken(problem, _raw(taken))
                continue  # else `"Hello" she said,pos`: its quotes are text
        while len(fields) > width and not fields[-1]:
            fields.pop()  # separators at the end of a line
        if len(fields) != width:
            yield number, Broken(f"{len(fields)} fields, the header has {width}", _raw(taken))
            continue
        if again and all(cell.strip() == name for cell, name in zip(fields, header, strict=True)):
            yield number, Broken("repeats the header, as where files were joined", _raw(taken))
            continue
        if _NULL in fields:
            fields = ["" if cell == _NULL else cell for cell in fields]
        if sheet.missing:
            fields = ["" if cell == sheet.missing else cell for cell in fields]
        for column in whole:
            fields[column] = fields[column].removesuffix(".0")
        yield number, dict(zip(header, fields))  # noqa: B905 - of one length; strict=True is a third slower


def _raw(taken: list[str]) -> str:
    return "".join(taken).rstrip("\n")


def _sheet(begun: list[str], reading: Reading, separator: str) -> Sheet:
    """Find the dialect and the header of a file from its first lines, and note what is unusual."""
    skip = 0
    if begun and (said := re.fullmatch(r'"?sep=(.)"?', begun[0].strip(), re.IGNORECASE)):  # of Excel
        skip, separator = 1, said[1]
    sample = begun[skip:]
    first = _first(sample)
    among = [separator] if separator else [sign for sign in _SEPARATORS if sign in first or sign == _NONE]
    among += [" "] if not separator and _BLANKS_BETWEEN_QUOTES.fullmatch(first) else []
    best = max((_judged(sample, sign, reading) for sign in among or [","]), key=lambda judged: judged.score)
    usual = separator or ","
    if best.dialect.separator not in (usual, _NONE):
        reading.note(f"is separated by {_NAMES.get(best.dialect.separator, best.dialect.separator)}")
    if best.dialect.backslash:
        reading.note("has quotes that are escaped with backslashes")
    if not best.dialect.quote:
        reading.note("has no quoted fields: its quotes are text")
    given = reading.shared.header
    header = reading.distinct(given or best.header)
    whole, words = _columns(best.body, _WHOLE, gaps=True), _columns(best.body, _WORD)
    missing = "NA" if best.row_names else ""
    if missing:
        reading.note("has row names without a column name, as R writes them; NA is a missing value")
    return Sheet(best.dialect, skip, header, not given, whole, missing, words)


def _first(sample: list[str]) -> str:
    """Return the first line that is not blank, with those after it as long as a quote is open: names may hold line ends."""
    filled = (line for line in sample if line.strip())
    first = next(filled, "")
    whole = first
    for line in islice(filled, _LINES_OF_HEADER):
        if whole.count('"') % 2 == 0:
            return whole
        whole += line
    return whole if whole.count('"') % 2 == 0 else first


@dataclass(frozen=True)
class _Judged:
    dialect: Dialect
    header: list[str]
    body: list[list[str]]  # of its width
    row_names: bool  # which the header has no name for
    score: tuple[float, ...]


def _judged(sample: list[str], separator: str, reading: Reading) -> _Judged:
    """Read the first lines with a separator, and say how well it fits."""
    plain, backslash = Dialect(separator), Dialect(separator, backslash=True)
    text = "".join(sample)
    tried = [backslash] if reading.shared.backslash else [plain, backslash] if '\\"' in text else [plain]
    read = {dialect: list(_sampled(sample, dialect)) for dialect in tried}
    dialect = min(tried, key=lambda each: _problems(read[each]))
    quoted = re.compile(r' +".*"\s*', re.DOTALL)
    if any(quoted.fullmatch(cell) for fields, *_ in read[dialect] for cell in fields[1:]):
        blank = replace(dialect, blank=True)
        read[blank] = list(_sampled(sample, blank))
        dialect = min(blank, dialect, key=lambda each: _problems(read[each]))
    if '"' in text and _quotes_are_text(sample, read[dialect], plain):
        dialect = replace(plain, quote=False)
        read[dialect] = list(_sampled(sample, dialect))
    found = [fields for fields, *_, problem in read[dialect] if not problem]
    header, body = (found[0], found[1:]) if found else ([], [])
    row_names = _has_row_names(header, body)
    header = ["", *header] if row_names else header
    fitting = [fields for fields in body if len(fields) == len(header)]
    fits = len(fitting) / (len(body) or 1)
    names = {cell.strip() for cell in header}
    headerlike = len(header) > 1 and all(map(_HEADERLIKE.fullmatch, names - {""}))
    score = (len(names & set(reading.wanted)), headerlike, len(header) > 1 and fits >= 0.5, fits, len(header))
    return _Judged(dialect, header, fitting, row_names, score)


def _problems(read: Sequence[Record]) -> int:
    return sum(bool(problem) for *_, problem in read)


def _sampled(sample: list[str], dialect: Dialect) -> Iterator[Record]:
    for fields, number, taken, problem in records(sample, dialect):
        yield fields, number, list(taken), problem


def _quotes_are_text(sample: list[str], read: Sequence[Record], plain: Dialect) -> bool:
    """Tell whether a file does not quote: with quotes as text every line is a row, and else some lines are not."""
    literal = replace(plain, quote=False)
    cells = [literal.fields(line) for line in sample if line.strip()]
    width = len(cells[0] or []) if cells else 0
    if width < 2 or any(fields is None or len(fields) != width for fields in cells):
        return False
    flat = [cell for fields in cells for cell in fields or []]
    if "" in flat or any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in flat):
        return False
    return any(problem or len(taken) > 1 for *_, taken, problem in read)


def _has_row_names(header: list[str], body: list[list[str]]) -> bool:
    """Tell whether each row begins with a number that the header has no name for, as R writes them."""
    numbers = [fields[0] for fields in body if len(fields) == len(header) + 1 and fields[0].isdecimal()]
    return len(body) > 1 and len(set(numbers)) == len(body)


def _columns(body: list[list[str]], kind: re.Pattern[str], *, gaps: bool = False) -> frozenset[int]:
    """Return the columns in which all cells that are not empty are of a kind; with `gaps`, if some are empty."""
    columns = enumerate(zip(*body, strict=True))
    return frozenset(
        i
        for i, cells in columns
        if any(cells) and ("" in cells) >= gaps and all(map(kind.fullmatch, filter(None, cells)))
    )
