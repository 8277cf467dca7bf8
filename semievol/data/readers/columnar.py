"""Rows of Parquet and Arrow files, with values that print as a person would write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from semievol.data import storage
from semievol.data.readers.base import Broken, Look, Reading, Rows

_BATCH = 1024


def look(uri: str, form: str) -> Look:
    filesystem, path = storage.resolve(uri)
    with filesystem.open_input_file(path) as file:
        if form == ".parquet":
            parquet = pq.ParquetFile(file)
            return Look(list(parquet.schema_arrow.names), [], [], whole=True, empty=not parquet.metadata.num_rows)
        return Look(list(_arrow(file)[0].names), [], [], whole=True)


def rows(uri: str, form: str, reading: Reading) -> Rows:
    filesystem, path = storage.resolve(uri)
    with filesystem.open_input_file(path) as file:
        if form == ".parquet":
            parquet = pq.ParquetFile(file)
            schema, batches = parquet.schema_arrow, parquet.iter_batches(_BATCH, columns=_present(parquet, reading))
        else:
            schema, batches = _arrow(file)
        names = _class_names(schema)
        for number, row in enumerate(chain.from_iterable(_rows(_chosen(batch, reading)) for batch in batches), start=1):
            if names and isinstance(row, dict):
                row |= {column: _named(row[column], known) for column, known in names.items() if column in row}
            yield number, row


def _present(parquet: pq.ParquetFile, reading: Reading) -> list[str] | None:
    return [name for name in parquet.schema_arrow.names if name in reading.wanted] if reading.wanted else None


def _arrow(file: pa.NativeFile) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Open an Arrow file in either of its formats: with a footer (also called Feather), or a stream."""
    try:
        reader = pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        stream = pa.ipc.open_stream(file)
        return stream.schema, iter(stream)
    return reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))


def _chosen(batch: pa.RecordBatch, reading: Reading) -> pa.RecordBatch:
    """Return the wanted columns of a batch, those of numbers and dates as text."""
    kept = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if (not reading.wanted or name in reading.wanted) and name not in kept:
            kept[name] = _printable(column)
    if len(set(batch.schema.names)) < len(batch.schema.names):
        reading.note("has columns of the same name; the first one is read")
    return pa.RecordBatch.from_arrays(list(kept.values()), names=list(kept))


def _printable(column: pa.Array) -> pa.Array:
    """Return a column with values that Python prints well: 3.8 of four bytes is not 3.799999952316284."""
    if pa.types.is_float16(column.type):  # Arrow prints all digits of these
        return pa.array([None if cell.as_py() is None else float(str(np.float16(cell.as_py()))) for cell in column])
    as_text = _with(column.type, lambda kind: pa.string() if pa.types.is_float32(kind) else kind)
    target = _with(column.type, _printing)
    try:
        return column if target.equals(column.type) else pc.cast(pc.cast(column, as_text), target, safe=False)
    except pa.ArrowInvalid:  # for example text that is not UTF-8
        return column


def _printing(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_float32(kind):
        return pa.float64()
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)  # pandas alone has a type for nanoseconds
    return kind


def _with(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Return a type with the types inside of it changed; a dictionary becomes what it holds."""
    if pa.types.is_dictionary(kind):
        return _with(kind.value_type, change)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_with(kind.value_type, change))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _with(field.type, change)) for field in kind])
    return change(kind)


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


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names behind the numbers of `ClassLabel` columns, which `datasets` keeps beside the schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    found = {}
    for column, feature in features.items():
        feature = feature[0] if isinstance(feature, list) and feature else feature
        feature = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            found[column] = feature.get("names") or []
    return {column: names for column, names in found.items() if names}


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None  # -1 says that there is no label
