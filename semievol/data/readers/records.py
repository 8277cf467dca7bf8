"""Records of CSV: the fields of one line or, with quotes, of several."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

_RECORD_CHARACTERS = 8 << 20  # of a row over several lines; a quote that is open for longer was never closed
_ESCAPE = re.compile(r'\\(["\\]?)')
_OPEN, EARLY = "a quote is opened and never closed", "text follows a closing quote"
Test = Callable[[list[str] | None], bool]
Record = tuple[list[str], int, list[str], str]  # fields, number of the last line, lines, and why there are no fields


@dataclass(frozen=True)
class Dialect:
    """How a file separates and quotes its fields."""

    separator: str
    quote: bool = True  # "..." holds separators and line ends
    backslash: bool = False  # \\" is a quote inside of quotes; else "" is
    blank: bool = False  # a blank may stand between a separator and a quote

    def reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        if not self.quote:
            return csv.reader(lines, delimiter=self.separator, quoting=csv.QUOTE_NONE, strict=True)
        if not self.backslash:
            return csv.reader(lines, delimiter=self.separator, skipinitialspace=self.blank, strict=True)
        # The csv module drops each backslash; those that escape nothing are part of the text.
        kept = (_ESCAPE.sub(lambda found: found[0] if found[1] else r"\\", line) for line in lines)
        blank = self.blank
        return csv.reader(kept, delimiter=self.separator, skipinitialspace=blank, escapechar="\\", strict=True)

    def fields(self, line: str) -> list[str] | None:
        """Return the fields of one line by itself; None if its quotes do not fit."""
        try:
            return next(self.reader([line]), [])
        except csv.Error:
            return None


def records(lines: Iterable[str], dialect: Dialect, first: int = 1, is_row: Test | None = None) -> Iterator[Record]:
    """Yield the fields of each record, the number of its last line, and its lines. Blank lines are skipped.

    A line whose quotes do not fit yields the reason instead of fields, and reading goes on with the next line: a stray quote
    costs one line. The same is done where a quoted field spans lines that by themselves pass `is_row`.
    """
    source = iter(lines)
    again: deque[str] = deque()  # lines that were taken for a part of a quoted field
    taken: list[str] = []

    def feed() -> Iterator[str]:
        size = 0
        while (line := again.popleft() if again else next(source, None)) is not None:
            size = size + len(line) if taken else 0
            taken.append(line)
            if size > _RECORD_CHARACTERS:
                raise csv.Error("unexpected end of data")
            yield line

    literal = replace(dialect, quote=False)
    reader, number = dialect.reader(feed()), first - 1
    while True:
        taken.clear()
        problem = ""
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields, problem = [], _OPEN if len(taken) > 1 or "unexpected end" in str(error) else _reason(error)
        else:
            if is_row and len(taken) > 1 and all(is_row(literal.fields(line)) for line in taken):
                problem = _OPEN
        if problem:
            again.extendleft(reversed(taken[1:]))
            number += 1
            yield [], number, taken[:1], f"no CSV: {problem}"
            reader = dialect.reader(feed())
            continue
        number += len(taken)
        # Of a line with nothing but blanks or separators there is nothing to keep.
        if any(fields) if len(fields) > 1 else len(taken) > 1 or taken[0].strip():
            yield fields, number, taken, ""


def _reason(error: csv.Error) -> str:
    if "expected after" in str(error):
        return EARLY
    return "a stray carriage return" if "new-line" in str(error) else str(error)
