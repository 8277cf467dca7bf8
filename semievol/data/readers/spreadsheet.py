"""Rows of a spreadsheet: the first sheet with rows, below its first row, which has the names of the columns."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import Any

from semievol.data import storage
from semievol.data.readers.base import Look, Reading, Rows

_BYTES = 512 << 20  # a workbook is read as a whole
_EXPANSION = 300


def look(uri: str, reading: Reading) -> Look:
    first, header, body = _sheet(uri, reading)
    found = [row for _, row in islice(_rows(first, header, body), 100)]
    names = [name for name in header if name]
    return Look(names, found, reading.notes, whole=True, header=header, empty=not found)


def rows(uri: str, reading: Reading) -> Rows:
    yield from _rows(*_sheet(uri, reading))


def _rows(first: int, header: list[str], body: list[list[Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, cells in enumerate(body, start=first + 1):
        if not _blank(cells):
            yield number, dict(zip(header, cells, strict=True))


def _blank(cells: list[Any]) -> bool:
    return all(cell in ("", None) for cell in cells)


def _sheet(uri: str, reading: Reading) -> tuple[int, list[str], list[list[Any]]]:
    """Return the number of the header's row, the header, and the rows below it."""
    from python_calamine import CalamineError, CalamineWorkbook

    filesystem, path = storage.resolve(uri)
    size = filesystem.get_file_info(path).size or 0
    if size > _BYTES:
        raise ValueError(f"a spreadsheet of more than {_BYTES >> 20} MB. Save it as CSV")
    with filesystem.open_input_stream(path, compression=None) as stream:
        content = BytesIO(stream.read())
    if zipfile.is_zipfile(content):
        with zipfile.ZipFile(content) as packed:
            unpacked = sum(member.file_size for member in packed.infolist())
        if unpacked > size * _EXPANSION + reading.line_bytes:
            raise ValueError(f"it unpacks to more than {_EXPANSION} times its size")
    content.seek(0)
    try:
        workbook = CalamineWorkbook.from_filelike(content)
    except CalamineError as error:
        raise ValueError(f"no spreadsheet: {error}") from None
    filled = []
    for name in workbook.sheet_names:
        cells = workbook.get_sheet_by_name(name).to_python(skip_empty_area=False)
        if not all(map(_blank, cells)):
            filled.append((name, cells))
    if not filled:
        return 1, [], []
    if len(filled) > 1:
        reading.note(f"has more sheets; '{filled[0][0]}' is read")
    cells = filled[0][1]
    above = next(i for i, row in enumerate(cells) if not _blank(row))
    return above + 1, reading.distinct(map(str, cells[above])), cells[above + 1 :]
