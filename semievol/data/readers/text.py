"""Open text files of any encoding, packed or not, line by line."""

from __future__ import annotations

import codecs
import io
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, cast

from pyarrow.fs import LocalFileSystem

from semievol.data import storage
from semievol.data.readers.base import PACKED, Reading

_BLOCK = 1 << 20
_HEAD = 1 << 16
_IN_MEMORY = 32 << 20  # larger copies go to a temporary file
_EXPANSION = 300  # unpacked size / packed size; text stays below it, a zip bomb does not
_MARKS = {  # the longer ones first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHERS = {
    b"\x1f\x8b": "a .gz file",
    b"\x28\xb5\x2f\xfd": "a .zst file",
    b"BZh": "a .bz2 file",
    b"PK\x03\x04": "an .xlsx, .ods or .zip file",
    b"\xd0\xcf\x11\xe0": "an .xls file",
    b"PAR1": "a .parquet file",
    b"ARROW1": "an .arrow file",
    b"SQLite format 3": "a database of SQLite",
    b"%PDF-": "a .pdf file",
}
_LEGACY = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r"),
    *("gb18030", "big5", "shift_jis", "euc_jp", "euc_kr"),
]
_LIKE_WESTERN = ("cp1250", "cp1254")  # most of their letters are the same
_SAMPLE = 1 << 18  # bytes of lines that are not ASCII, to find an encoding
_FEW = 12  # bytes that are not ASCII are too few to tell one old encoding from another


@contextmanager
def opened(uri: str, reading: Reading, *, beginning: int = 0) -> Iterator[io.TextIOWrapper]:
    """Open a file as text, and note an encoding other than UTF-8. Lines end in a line feed, or in a return if there is none.

    Bytes that are damaged UTF-8 become surrogates, which the validator rejects row by row.

    Args:
        beginning: read only so many bytes; 0 for all.
    """
    with _bytes(uri, reading, beginning) as raw:
        encoding = _encoding(raw)
        if encoding not in ("utf-8", "utf-8-sig"):
            reading.note(f"is not UTF-8; read as {_shown(encoding)}")
        raw.seek(0)
        head = raw.read(_HEAD).decode(encoding, "ignore")
        raw.seek(0)
        errors = (
            "ignore" if beginning and encoding[:5] != "utf-8" else "surrogateescape"
        )  # the last character may be cut
        text = io.TextIOWrapper(
            cast(IO[bytes], raw), encoding, errors, newline="\r" if "\r" in head and "\n" not in head else "\n"
        )
        yield text
        text.detach()


def not_data(head: bytes) -> str | None:
    """Return what a file is by its first bytes, where it is not what it is named."""
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS and not the data: run git lfs pull"
    found = next((kind for begin, kind in _OTHERS.items() if head.startswith(begin)), None)
    return f"by its first bytes it is {found}: rename it, or unpack it" if found else None


def _shown(encoding: str) -> str:
    guess = "" if encoding.startswith("utf") else ", a guess from its letters: save it as UTF-8 if they come out wrong"
    return f"{encoding.upper()}{guess}"


def lines(text: io.TextIOWrapper, reading: Reading) -> Iterator[str]:
    """Yield lines with their ends. A line that would fill the memory is an error."""
    limit = reading.line_bytes
    for line in iter(partial(text.readline, limit + 1), ""):
        if len(line) > limit:
            raise ValueError(f"a line has more than {limit:,} characters")
        yield line


@contextmanager
def _bytes(uri: str, reading: Reading, beginning: int) -> Iterator[IO[bytes]]:
    """Open a file, unpacked, so that it can be read twice: a remote or packed one as a temporary copy."""
    filesystem, path = storage.resolve(uri)
    if isinstance(filesystem, LocalFileSystem) and not uri.lower().endswith(tuple(PACKED)) and not beginning:
        with open(path, "rb") as file:
            yield file
        return
    packed_as = next((kind for end, kind in PACKED.items() if uri.lower().endswith(end)), None)
    limit = (filesystem.get_file_info(path).size or 0) * _EXPANSION + reading.line_bytes
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as copy:
        with filesystem.open_input_stream(path, compression=packed_as) as stream:
            while block := stream.read(min(_BLOCK, beginning) or _BLOCK):
                copy.write(block)
                if copy.tell() > limit:
                    raise ValueError(f"it unpacks to more than {_EXPANSION} times its size")
                if beginning and copy.tell() >= beginning:
                    break
        copy.seek(0)
        yield cast(IO[bytes], copy)


def _encoding(raw: IO[bytes]) -> str:
    """Find the encoding: by its mark, by the zeros of UTF-16, UTF-8 if (nearly) all bytes are, else by the text."""
    head = raw.read(_HEAD)
    if other := not_data(head):
        raise ValueError(other)
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    if without_mark := _utf16_without_mark(head):
        return without_mark
    raw.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in iter(partial(raw.read, _BLOCK), b""):
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raw.seek(0)
        return _not_utf8(raw)
    return "utf-8"


def _not_utf8(raw: IO[bytes]) -> str:
    """Tell damaged UTF-8, in which most of what is not ASCII fits, from an older encoding."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    good = bad = 0
    sample = b""
    for block in iter(partial(raw.read, _BLOCK), b""):
        text = decoder.decode(block)
        if len(sample) < _SAMPLE:
            whole = block.split(b"\n")
            whole = whole[: -1 if len(block) == _BLOCK else None][1 if sample else 0 :]  # an edge may cut a character
            sample += b"\n".join(line for line in whole if not line.isascii())[:_SAMPLE]
        damaged = len(re.findall("[\udc80-\udcff]", text))
        bad += damaged
        good += len(re.findall("[^\x00-\x7f]", text)) - damaged
    return "utf-8" if good > bad else _legacy(sample)


def _utf16_without_mark(head: bytes) -> str | None:
    """Tell UTF-16 by its zeros: line ends, separators and Latin letters have one, always on the same side."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if min(even, odd) or max(even, odd) * 100 < len(head):
        return None
    name = "utf-16-be" if even else "utf-16-le"
    return name if max(even, odd) * 4 > len(head) or "\n" in head.decode(name, "ignore") else None


def _legacy(sample: bytes) -> str:
    """Guess an encoding from before Unicode. A few accents do not tell the Western ones apart: then it is Windows'."""
    from charset_normalizer import from_bytes

    few = sum(byte > 127 for byte in sample[:10_000]) < _FEW
    found = [] if few else [match.encoding for match in from_bytes(sample, cp_isolation=_LEGACY)]
    western = not found or (found[0] in _LIKE_WESTERN and "cp1252" in found)
    for name in ("cp1252" if western else found[0], "cp1252"):
        try:
            sample.decode(name)
        except UnicodeDecodeError:
            continue
        return name
    return "latin-1"
