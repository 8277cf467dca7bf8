"""Read rows from files of many formats, one at a time, each with its place in the file.

A line that is not a row (broken JSON, too many fields) becomes a `Broken`, which is quarantined and counted.
A file that cannot be read raises an error that names it. A key in the folder's name (`label=pos/part-0.parquet`) is a column.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from io import TextIOWrapper
from itertools import chain, islice
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from semievol.data import storage
from semievol.data.readers import columnar, delimited, json_text, spreadsheet, text
from semievol.data.readers.base import LINE_BYTES, PACKED, Broken, Look, Reading, Rows, Shared
from semievol.errors import UserError

__all__ = ["FORMATS", "Broken", "Look", "Shared", "columns", "format_of", "look", "read"]

_ALIASES = {
    ".ndjson": ".jsonl",
    ".feather": ".arrow",
    ".ipc": ".arrow",
    ".tab": ".tsv",
    ".pq": ".parquet",
    ".xlsm": ".xlsx",
}
FORMATS = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow", ".xlsx", ".xls", ".xlsb", ".ods", ".txt")
_SHEETS = (".xlsx", ".xls", ".xlsb", ".ods")
_SEPARATORS = {".csv": "", ".tsv": "\t"}
_TABLES = (".parquet", ".arrow")
_LINE_BYTES = LINE_BYTES
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_FIRST = 100  # rows
_BEGINNING = 1 << 18  # bytes that the columns of a text file are found in
_UNREADABLE = (OSError, ValueError, EOFError, csv.Error, zlib.error, pa.ArrowException)


def format_of(uri: str) -> str:
    """Return the format that a file's name shows, without `.gz`, `.zst` or `.bz2` (Parquet compresses itself)."""
    name = uri.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    ending = name[name.rfind(".") :] if "." in name.rpartition("/")[2] else ""
    form = _ALIASES.get(ending, ending)
    if form in FORMATS and (name == uri.lower() or form not in (*_SHEETS, *_TABLES)):
        return form
    names = f"Names end in {', '.join([*FORMATS, *_ALIASES])}; .gz, .zst or .bz2 may follow those of text"
    way_out = "To leave other files out, use a glob, for example FOLDER/*.csv"
    raise UserError(f"{uri}: not the name of a data file. {names}. {way_out}")


def columns(uri: str) -> list[str]:
    """Return the column names of a file, from its beginning only."""
    return look(uri).columns


def look(uri: str, wanted: Collection[str] = ()) -> Look:
    """Return what the beginning of a file shows: its columns, its first rows and what is unusual about it."""
    form = format_of(uri)
    reading = Reading(wanted, line_bytes=_LINE_BYTES)
    try:
        found = _look(uri, form, reading)
    except _UNREADABLE as error:
        raise UserError(f"{uri}: cannot be read: {_not_data(uri) or _problem(error)}") from None
    return replace(found, columns=[*found.columns, *(key for key in _keys(uri) if key not in found.columns)])


def read(uri: str, wanted: Collection[str] = (), shared: Shared | None = None, notes: list[str] | None = None) -> Rows:
    """Yield (number, row) for every row, from 1: the line it ends on in CSV, TSV, JSONL and TXT, else the row.

    Args:
        wanted: of Parquet and Arrow only these are read: others may be large or of types that Python cannot hold. The first one
            gets the texts of a TXT file.
        shared: what the file takes from the others of its split.
        notes: gets what is unusual about the file.
    """
    form = format_of(uri)
    reading = Reading(wanted, shared or Shared(), _LINE_BYTES, [] if notes is None else notes)
    keys = _keys(uri)
    try:
        found = _rows(uri, form, reading)
        yield from found if not keys else ((n, keys | row if isinstance(row, dict) else row) for n, row in found)
    except _UNREADABLE as error:
        raise UserError(f"{uri}: cannot be read to its end: {_problem(error)}. Repair or remove the file") from None


def _look(uri: str, form: str, reading: Reading) -> Look:
    if form in _TABLES:
        return columnar.look(uri, form)
    if form in _SHEETS:
        return spreadsheet.look(uri, reading)
    with text.opened(uri, reading, beginning=_BEGINNING) as file:
        if form in _SEPARATORS:
            begun = list(text.lines(file, reading))
            cut = sum(map(len, begun)) * 4 > _BEGINNING and len(begun) > 1
            return delimited.look(begun[:-1] if cut else begun, reading, _SEPARATORS[form])
        found: list[dict[str, Any] | Broken] = []
        with suppress(ValueError):  # the beginning of an array has no end
            found += (row for _, row in islice(_text_rows(file, form, reading), _FIRST))
    long = len(found) < _FIRST and not any(isinstance(row, dict) for row in found)
    if long and form in (".json", ".jsonl"):  # one object that is the whole file, or a first row of great length
        found = [row for _, row in islice(_rows(uri, form, reading), _FIRST)]
    first = [row for row in found if isinstance(row, dict)]
    names = dict.fromkeys(chain.from_iterable(first)) or ([_text_column(reading)] if form == ".txt" else [])
    return Look(list(names), first, reading.notes, whole=form == ".txt", empty=not found)


def _rows(uri: str, form: str, reading: Reading) -> Rows:
    if form in _TABLES:
        yield from columnar.rows(uri, form, reading)
    elif form in _SHEETS:
        yield from spreadsheet.rows(uri, reading)
    else:
        with text.opened(uri, reading) as file:
            yield from _text_rows(file, form, reading)


def _text_rows(file: TextIOWrapper, form: str, reading: Reading) -> Rows:
    if form in _SEPARATORS:
        return delimited.rows(text.lines(file, reading), reading, _SEPARATORS[form])
    if form == ".txt":
        return _texts(file, reading)
    return json_text.rows(file, reading, of_lines=form == ".jsonl")


def _texts(file: TextIOWrapper, reading: Reading) -> Rows:
    """Yield the lines of a text file, each as the question of a row."""
    column = _text_column(reading)
    for number, line in enumerate(text.lines(file, reading), start=1):
        if line.strip():
            yield number, {column: line.strip()}


def _text_column(reading: Reading) -> str:
    return next(iter(reading.wanted), "text")


def _keys(uri: str) -> dict[str, str | None]:
    """Return the columns in the names of a file's folders: `.../label=pos/part-0.parquet`."""
    pairs = (part.split("=", 1) for part in uri.split("/")[:-1] if "=" in part)
    return {name: None if value == _NO_VALUE else unquote(value) for name, value in pairs if name}


def _not_data(uri: str) -> str | None:
    """Return what a file is that its name does not say."""
    with suppress(*_UNREADABLE):
        filesystem, path = storage.resolve(uri)
        with filesystem.open_input_stream(path, compression=None) as stream:
            head = stream.read(100)
        packed = uri.lower().endswith(tuple(PACKED))
        plain = packed and head.isascii() and head.decode("ascii").isprintable() | (b"\n" in head)
        return "it is not packed: take the last ending off its name" if plain else text.not_data(head)
    return None


def _problem(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")  # Arrow's span several lines
