"""Rows of JSON: one object a line, an array of objects, or an object that holds the rows in one of the ways of pandas."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator
from itertools import chain
from typing import Any

from semievol.data.readers.base import Broken, Reading, Rows
from semievol.data.readers.text import lines

_BLOCK = 1 << 20
_DOCUMENT = 256 << 20  # characters of a file that has to be read as a whole
_BETWEEN = " \t\r\n,"
_DECODER = json.JSONDecoder(strict=False)  # tabs and line ends inside of strings are text


def rows(text: io.TextIOWrapper, reading: Reading, *, of_lines: bool) -> Rows:
    """Yield the rows of a file. `of_lines`: its name says that each line is a row."""
    source = lines(text, reading)
    begun = []
    for line in source:
        begun.append(line)
        if line.strip():
            break
    first = begun[-1].strip() if begun else ""
    if first.startswith("[") and (not of_lines or _opens_array(first)):
        return _array(chain(begun, iter(lambda: text.read(_BLOCK), "")), reading)
    if (
        (of_lines and first != "{")
        or not first.startswith("{")
        or (_loaded(first) is not None and _goes_on(source, begun))
    ):
        return _lines(chain(begun, source))
    return _document("".join(begun) + text.read(_DOCUMENT), text.read(1), reading)


def _opens_array(line: str) -> bool:
    """Tell whether a line begins an array of objects, and is not just a row that is a list."""
    return line == "[" or line[1:].lstrip()[:1] == "{"


def _loaded(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _goes_on(source: Iterator[str], begun: list[str]) -> bool:
    """Tell whether there is text behind a line that is an object by itself; if so, it is added to `begun`."""
    for line in source:
        begun.append(line)
        if line.strip():
            return True
    return False


def _lines(source: Iterator[str]) -> Rows:
    for number, line in enumerate(source, start=1):
        if line.isspace():
            continue
        try:
            row = _DECODER.decode(line.rstrip().removesuffix(","))  # as the lines of an array
        except (ValueError, RecursionError) as error:
            yield number, Broken(f"no JSON: {error}", line.rstrip("\n"))
            continue
        yield number, _row(row, line)


def _row(row: Any, text: str | None = None) -> dict[str, Any] | Broken:
    if isinstance(row, dict):
        return row
    return Broken(f"a JSON {type(row).__name__}, not an object", json.dumps(row) if text is None else text.rstrip("\n"))


def _array(pieces: Iterator[str], reading: Reading) -> Rows:
    """Yield the items of an array, or objects one after the other, in pieces: only one item need fit in memory."""
    rest = next(pieces).lstrip()
    bare, rest = not rest.startswith("["), rest.removeprefix("[")
    number, ended, at = 0, False, 0
    while True:
        while at < len(rest) and rest[at] in _BETWEEN:
            at += 1
        if bare and ended and at == len(rest):
            return
        if rest.startswith("]", at):
            if (further := _next_array(rest[at + 1 :], pieces)) is None:
                return
            rest, at = further, 0
            continue
        problem: Exception | None = None
        try:
            item, end = _DECODER.raw_decode(rest, at) if at < len(rest) else (None, at)
        except (ValueError, RecursionError) as error:
            problem, end = error, len(rest)
        if end < len(rest) or (ended and not problem and end > at):
            number, at = number + 1, end
            yield number, _row(item)
            continue
        if ended or isinstance(problem, RecursionError):
            raise ValueError(f"item {number + 1} of the array: {problem or 'the array is not closed'}")
        more = list(_until(pieces, max(_BLOCK, len(rest) - at)))
        rest, at, ended = rest[at:] + "".join(more), 0, not more
        if len(rest) > reading.line_bytes:
            raise ValueError(
                f"item {number + 1} of the array is not JSON, or has more than {reading.line_bytes:,} characters"
            )


def _next_array(rest: str, pieces: Iterator[str]) -> str | None:
    """Return what follows the bracket of a further array, which files put together have; None at the end of the file."""
    while not (rest := rest.lstrip()):
        if not (rest := next(pieces, "")):
            return None
    if not rest.startswith("["):
        raise ValueError(f"text follows the end of the array: {rest[:40]!r}")
    return rest[1:]


def _until(pieces: Iterator[str], size: int) -> Iterator[str]:
    """Yield pieces of at least so many characters: twice as much each time keeps the repeated decoding cheap."""
    for piece in pieces:
        yield piece
        size -= len(piece)
        if size <= 0:
            return


def _document(text: str, more: str, reading: Reading) -> Rows:
    if more:
        raise ValueError(
            f"it is one JSON object of more than {_DOCUMENT:,} characters. Save it as JSON lines, one object a line"
        )
    try:
        found = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        if "Extra data" not in error.msg:
            raise
        yield from _array(iter([text]), reading)  # several objects, as jq writes them
        return
    for number, row in enumerate(_in_object(found, reading.wanted), start=1):
        yield number, _row(row)


def _in_object(found: dict[str, Any], wanted: Collection[str]) -> list[Any]:
    """Return the rows in an object: its one list of objects, or columns or rows by name as pandas writes them."""
    lists = {
        key: value for key, value in found.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    }
    if len(lists) == 1 and not lists.keys() & set(
        wanted
    ):  # one that is wanted is a cell, for example the turns of a chat
        return next(iter(lists.values()))
    if set(found) == {"columns", "index", "data"}:  # orient="split"
        return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]
    values = list(found.values())
    if values and all(isinstance(value, dict) for value in values):
        by_index = all(not any(isinstance(cell, dict) for cell in value.values()) for value in values)
        columns = by_index and len({tuple(value) for value in values}) == 1 and all(key.isdigit() for key in values[0])
        if columns:  # orient="columns", which is the default of pandas
            return [{name: value[key] for name, value in found.items()} for key in values[0]]
        return values  # orient="index"
    if values and all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        return [dict(zip(found, row, strict=True)) for row in zip(*values, strict=True)]  # a list for each column
    return [found]
