"""Read rows from CSV, JSONL and Parquet files, one at a time, each with its place in the file.

A line that is not a row (broken JSON, too many fields) becomes a `Broken`, which is quarantined and counted.
A file that cannot be read raises an error that names it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semievol.data import storage
from semievol.errors import UserError

FORMATS = (".csv", ".jsonl", ".parquet")
_READ_BYTES = 1 << 20
_LINE_BYTES = 64 << 20  # a longer line would fill the memory
_BYTE_ORDER_MARK = "\ufeff"  # spreadsheets write one
_EXPANSION = 300  # unpacked size / packed size; text stays below it, a zip bomb does not
_UNREADABLE = (OSError, ValueError, csv.Error, pa.ArrowException)  # some of Arrow's are neither OSError nor ValueError


@dataclass(frozen=True)
class Broken:
    """Text that is not a row, and the reason."""

    reason: str
    raw: str


def format_of(uri: str) -> str:
    """Return the format that a file's name shows, without `.gz`, `.zst` or `.bz2` (Parquet compresses itself)."""
    name = uri.removesuffix(".gz").removesuffix(".zst").removesuffix(".bz2")
    for known in FORMATS:
        if name.endswith(known) or (known == ".jsonl" and name.endswith(".ndjson")):
            return known
    names = f"Names end in {', '.join(FORMATS)} or .ndjson; .gz, .zst or .bz2 may follow"
    way_out = "To leave other files out, use a glob, for example FOLDER/*.csv"
    raise UserError(f"{uri}: not the name of a data file. {names}. {way_out}")


def columns(uri: str) -> list[str]:
    """Return the column names of a file, from its beginning only."""
    form = format_of(uri)
    try:
        if form == ".parquet":
            filesystem, path = storage.resolve(uri)
            return list(pq.read_schema(path, filesystem=filesystem).names)
        if form == ".csv":
            return _header(csv.reader(_lines(uri)))
        # A JSON row may omit keys, so collect those of the first hundred rows.
        rows = (row for _, row in islice(_jsonl(uri), 100) if isinstance(row, dict))
        return list(dict.fromkeys(chain.from_iterable(rows)))
    except _UNREADABLE as error:
        raise UserError(f"{uri}: cannot be read: {error}") from None


def read(uri: str, wanted: Collection[str] | None = None) -> Iterator[tuple[int, dict[str, Any] | Broken]]:
    """Yield (number, row) for every row. The number is the line it ends on (CSV, JSONL) or the row (Parquet), from 1.

    Of Parquet only the `wanted` columns are read: others may be large or of types that Python cannot hold.
    """
    form = format_of(uri)
    try:
        yield from _parquet(uri, wanted) if form == ".parquet" else _csv(uri) if form == ".csv" else _jsonl(uri)
    except _UNREADABLE as error:
        problem = " ".join(str(error).split()).rstrip(".")  # Arrow's span several lines
        raise UserError(f"{uri}: cannot be read to its end: {problem}. Repair or remove the file") from None


def _lines(uri: str) -> Iterator[str]:
    """Yield lines with their endings. Bytes that are not UTF-8 become surrogates, which the validator rejects."""
    filesystem, path = storage.resolve(uri)
    limit = (filesystem.get_file_info(path).size or 0) * _EXPANSION + _LINE_BYTES
    rest, size = b"", 0
    with filesystem.open_input_stream(path, compression="detect") as stream:
        while block := stream.read(_READ_BYTES):
            size += len(block)
            if size > limit:
                raise ValueError(f"it unpacks to more than {_EXPANSION} times its size")
            *whole, rest = (rest + block).split(b"\n")
            if len(rest) > _LINE_BYTES:
                raise ValueError(f"a line has more than {_LINE_BYTES:,} bytes")
            for line in whole:
                yield line.decode("utf-8", "surrogateescape") + "\n"
    if rest:
        yield rest.decode("utf-8", "surrogateescape")


def _csv(uri: str) -> Iterator[tuple[int, dict[str, Any] | Broken]]:
    csv.field_size_limit(_LINE_BYTES)  # the validator checks shorter rows
    line = ""

    def lines() -> Iterator[str]:
        nonlocal line
        for line in _lines(uri):  # noqa: UP028 - `yield from` would not set `line`
            yield line

    reader = csv.reader(lines())
    header = _header(reader)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # for example a stray carriage return; the reader goes on with the next line
            yield reader.line_num, Broken(f"no CSV: {error}", line)
            continue
        if not fields:
            continue  # a blank line
        if len(fields) != len(header):
            yield reader.line_num, Broken(f"{len(fields)} fields, the header has {len(header)}", ",".join(fields))
        else:
            yield reader.line_num, dict(zip(header, fields, strict=True))


def _header(reader: Iterator[list[str]]) -> list[str]:
    return [name.removeprefix(_BYTE_ORDER_MARK).strip() for name in next(reader, [])]


def _jsonl(uri: str) -> Iterator[tuple[int, dict[str, Any] | Broken]]:
    for number, line in enumerate(_lines(uri), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.removeprefix(_BYTE_ORDER_MARK))
        except (ValueError, RecursionError) as error:
            yield number, Broken(f"no JSON: {error}", line)
            continue
        yield (number, row if isinstance(row, dict) else Broken(f"a JSON {type(row).__name__}, not an object", line))


def _parquet(uri: str, wanted: Collection[str] | None) -> Iterator[tuple[int, dict[str, Any] | Broken]]:
    filesystem, path = storage.resolve(uri)
    with filesystem.open_input_file(path) as file:
        batches = pq.ParquetFile(file).iter_batches(batch_size=1024, columns=wanted and list(wanted))
        yield from enumerate(chain.from_iterable(map(_rows, batches)), start=1)


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | Broken]:
    try:
        yield from batch.to_pylist()
    # Arrow does not check that text is UTF-8, and a date may be in the year 10000.
    except (ValueError, OverflowError) as error:
        if len(batch) > 1:
            yield from chain.from_iterable(_rows(batch.slice(i, 1)) for i in range(len(batch)))
        elif isinstance(error, UnicodeDecodeError):
            yield Broken("not valid UTF-8", repr(error.object))
        else:
            yield Broken(f"a value that Python cannot hold: {error}", "")
