"""Over a hundred kinds of input files that somebody may have, each a function of nothing but its name."""

import bz2
import csv
import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GOOD = {"question": "good row", "options": ["x", "y", "z"], "answer": "A"}

# What may stand in a cell, as JSON can say it.
VALUES: dict[str, Any] = {
    "null": None,
    "empty": "",
    "blanks": " \t\u00a0 ",
    "zero_width": "\u200b",
    "number": 7,
    "float": 1e308,
    "nan": float("nan"),
    "infinity": float("-inf"),
    "bool": True,
    "list": ["a"],
    "nested": [[["a"]]],
    "object": {"a": 1},
    "empty_list": [],
    "nul": "a\x00b",
    "control": "a\x07\x1b[31mb",
    "surrogate": "a\ud800b",
    "huge": "long " * 1_000_000,
    "emoji": "👩‍👩‍👧‍👦 what?",
    "right_to_left": "\u202eمرحبا؟",
    "combining": "e" + "\u0301" * 500,
    "template": "{{ 7 * 7 }} {% for %} <|im_end|> </s>",
    "formula": "=cmd|' /C calc'!A0",
    "newlines": "a\r\nb\rc\n\n\nd",
    "quotes": "\"'`''\"\"",
    "backslashes": "\\\\\\",
}
OPTIONS: dict[str, Any] = {
    "no_list": "x",
    "json_text": '["x", "y"]',
    "broken_json_text": '["x", ',
    "deep_json_text": "[" * 100_000,
    "one": ["x"],
    "none": [],
    "eleven": list("abcdefghijk"),
    "empty_one": ["x", ""],
    "null_one": ["x", None],
    "number_one": ["x", 3],
    "list_one": ["x", ["y"]],
    "nul_one": ["x", "a\x00"],
    "equal": ["x", "x"],
    "object": {"A": "x", "B": "y"},
    "huge_one": ["x", "y" * 2_000_000],
}
ANSWERS: dict[str, Any] = {"beyond": "Z", "number": 2, "words": "none of these", "several": ["A", "B"], "null": None}


def _jsonl(*rows: Any) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode("utf-8", "surrogatepass")


def _csv(*rows: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _parquet_of(**columns: Any) -> bytes:
    base = {"question": ["good row"], "options": [["x", "y", "z"]], "answer": ["A"]}
    return _parquet(pa.table(base | columns))


def _not_utf8() -> bytes:
    raw = pa.array([b"caf\xe9", b"fine"]).view(pa.string())
    return _parquet(pa.table({"question": raw, "options": [["x", "y"]] * 2, "answer": ["A"] * 2}))


HEADER = ["question", "options", "answer"]
CELLS = ["good row", '["x", "y", "z"]', "A"]
LINE = _jsonl(GOOD)
SHEET = _csv(HEADER, CELLS)

FILES: dict[str, Callable[[], bytes]] = {
    "empty.jsonl": lambda: b"",
    "empty.csv": lambda: b"",
    "empty.parquet": lambda: b"",
    "empty.jsonl.gz": lambda: b"",
    "blank_lines.jsonl": lambda: b"\n \n\t\n\r\n",
    "header_only.csv": lambda: _csv(HEADER),
    "no_header.csv": lambda: _csv(CELLS),
    "cut_off.jsonl": lambda: LINE + b"\n" + LINE[:20],
    "cut_off.jsonl.gz": lambda: gzip.compress(LINE * 50)[:-10],
    "cut_off.csv.bz2": lambda: bz2.compress(SHEET)[:-5],
    "cut_off.parquet": lambda: _parquet_of()[:-30],
    "flipped.parquet": lambda: _parquet_of()[:8] + b"\xff\xff\xff" + _parquet_of()[11:],
    "no_gzip.csv.gz": lambda: SHEET,
    "gzip_unsaid.csv": lambda: gzip.compress(SHEET),
    "csv_as.jsonl": lambda: SHEET,
    "jsonl_as.csv": lambda: LINE,
    "jsonl_as.parquet": lambda: LINE,
    "parquet_as.jsonl": _parquet_of,
    "parquet_as.csv": _parquet_of,
    "html.csv": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    "random.jsonl": lambda: bytes(range(256)) * 40,
    "random.csv": lambda: bytes(range(256)) * 40,
    "random.parquet": lambda: bytes(range(256)) * 40,
    "utf16.csv": lambda: SHEET.decode().encode("utf-16"),
    "utf16.jsonl": lambda: LINE.decode().encode("utf-16"),
    "latin1.csv": lambda: _csv(HEADER, CELLS).replace(b"good", "caf\xe9".encode("latin-1")),
    "latin1.jsonl": lambda: LINE.replace(b"good", b"caf\xe9"),
    "not_utf8.parquet": _not_utf8,
    "byte_order_mark.csv": lambda: b"\xef\xbb\xbf" + SHEET,
    "byte_order_mark.jsonl": lambda: b"\xef\xbb\xbf" + LINE,
    "carriage_returns.csv": lambda: SHEET.replace(b"\r\n", b"\r"),
    "semicolons.csv": lambda: SHEET.replace(b",", b";"),
    "tabs.csv": lambda: SHEET.replace(b",", b"\t"),
    "open_quote.csv": lambda: SHEET + b'"never closed,' + SHEET * 20,
    "too_few_fields.csv": lambda: _csv(HEADER, CELLS[:2]),
    "too_many_fields.csv": lambda: _csv(HEADER, [*CELLS, "more"]),
    "doubled_column.csv": lambda: _csv([*HEADER, "question"], [*CELLS, "other"]),
    "no_question.csv": lambda: _csv(HEADER[1:], CELLS[1:]),
    "no_question.parquet": lambda: _parquet(pa.table({"text": ["a"]})),
    "no_rows.parquet": lambda: _parquet(pa.table({"question": pa.array([], pa.string())})),
    "numbers.parquet": lambda: _parquet_of(question=[7]),
    "nulls.parquet": lambda: _parquet_of(question=pa.nulls(1)),
    "bytes.parquet": lambda: _parquet_of(question=[b"\xff\xfe"]),
    "dates.parquet": lambda: _parquet_of(question=pa.array([0], pa.timestamp("ns"))),
    "far_date.parquet": lambda: _parquet_of(question=pa.array([1 << 62], pa.timestamp("us"))),
    "stray_return.csv": lambda: SHEET.replace(b"good row", b"good\rrow"),
    "dictionary.parquet": lambda: _parquet_of(question=pa.array(["good row"]).dictionary_encode()),
    "struct_options.parquet": lambda: _parquet_of(options=[{"A": "x"}]),
    "null_options.parquet": lambda: _parquet_of(options=pa.nulls(1, pa.list_(pa.string()))),
    "an_array.jsonl": lambda: json.dumps([GOOD, GOOD]).encode(),
    "pretty.jsonl": lambda: json.dumps(GOOD, indent=2).encode(),
    "scalars.jsonl": lambda: b'1\n"a"\nnull\ntrue',
    "single_quotes.jsonl": lambda: str(GOOD).encode(),
    "doubled_key.jsonl": lambda: b'{"question": "a", "question": "b", "options": ["x", "y"]}',
    "deep.jsonl": lambda: b'{"question": ' + b"[" * 200_000,
    "huge_number.jsonl": lambda: b'{"question": ' + b"9" * 5_000 + b"}",
    "one_long_line.jsonl": lambda: b'{"question": "' + b"x" * 3_000_000 + b'"}',
    "bomb.jsonl.gz": lambda: gzip.compress(b"0" * (10 << 20)),
    "bomb_of_lines.jsonl.gz": lambda: gzip.compress((b" " * 15 + b"\n") * (2 << 20)),
    **{f"question_{name}.jsonl": lambda v=v: _jsonl(GOOD | {"question": v}) for name, v in VALUES.items()},
    **{f"options_{name}.jsonl": lambda v=v: _jsonl(GOOD | {"options": v}) for name, v in OPTIONS.items()},
    **{f"answer_{name}.jsonl": lambda v=v: _jsonl(GOOD | {"answer": v}) for name, v in ANSWERS.items()},
}
LINE_BYTES = 8 << 20  # for `readers._LINE_BYTES`, so that bombs may be small
# What has to be told, and may not be hidden among rows: the file cannot be read to its end.
UNREADABLE = {
    *("cut_off.jsonl.gz", "cut_off.csv.bz2", "cut_off.parquet", "flipped.parquet", "no_gzip.csv.gz", "empty.parquet"),
    *("jsonl_as.parquet", "random.parquet", "bomb.jsonl.gz", "bomb_of_lines.jsonl.gz"),
    *("gzip_unsaid.csv", "parquet_as.jsonl", "parquet_as.csv"),
}
