"""Files with the bytes that real programs write: what was put in comes out."""

import csv
import datetime
import decimal
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from semievol.data import readers, shards, sources
from semievol.data.tables import cell_text

ROWS = [
    ("plain", "pos"),
    ('he said "now", twice', "neg"),
    ("two\nlines, with a comma", "pos"),
    ("Größe über naïve café", "größe/size"),
    ("C:\\dir and \\frac{1}{2}", "neg"),
    ('6" pipe', "neg"),
    ("a label is missing", ""),
]


def written(rows: list[tuple] = ROWS, end: str = "\n", **options: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator=end, **options).writerows([("text", "label"), *rows])  # type: ignore[arg-type]
    return text.getvalue()


def r_table(sep: str) -> str:
    """write.table of R: row names that have no header, quotes escaped with backslashes, backslashes as they are, NA."""
    quoted = [['"' + (cell or "\0").replace('"', '\\"') + '"' for cell in row] for row in ROWS]
    body = [sep.join([f'"{i}"', *row]) for i, row in enumerate(quoted, start=1)]
    return "\n".join([f'"text"{sep}"label"', *body, ""]).replace('"\0"', "NA")


def spark() -> str:
    """CSV of Spark: fields are quoted where needed, and inside of quotes both quotes and backslashes are escaped."""

    def cell(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"' if any(sign in text for sign in '",\n') else text

    return "".join(",".join(map(cell, row)) + "\n" for row in [("text", "label"), *ROWS])


def spreadsheet() -> bytes:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("openpyxl")
    sink = io.BytesIO()
    pandas.DataFrame(ROWS, columns=["text", "label"]).to_excel(sink, index=False)
    return sink.getvalue()


def pandas_json(**options: object) -> Callable[[], bytes]:
    def write() -> bytes:
        pandas = pytest.importorskip("pandas")
        return pandas.DataFrame(ROWS, columns=["text", "label"]).to_json(**options).encode()

    return write


def arrow(**options: object) -> bytes:
    table, sink = (
        pa.table({name: list(cells) for name, cells in zip(("text", "label"), zip(*ROWS, strict=True), strict=True)}),
        io.BytesIO(),
    )
    if options.pop("stream", False):
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        feather.write_feather(table, sink, **options)
    return sink.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "python.csv": lambda: written().encode(),
    "quote_all.CSV": lambda: written(quoting=csv.QUOTE_ALL).encode(),
    "sqlite.csv": lambda: written(end="\r\n").encode(),
    "excel_utf8.csv": lambda: b"\xef\xbb\xbf" + written(end="\r\n", quoting=csv.QUOTE_ALL).encode(),
    "excel_german.csv": lambda: written(end="\r\n", delimiter=";").encode("cp1252"),
    "excel_sep.csv": lambda: b"sep=;\r\n" + written(end="\r\n", delimiter=";").encode(),
    "excel_unicode_text.tsv": lambda: written(end="\r\n", delimiter="\t").encode("utf-16"),
    "powershell.csv": lambda: written(end="\r\n").encode("utf-16"),
    "no_mark.csv": lambda: written().encode("utf-16-le"),
    "big_endian.csv": lambda: written().encode("utf-16-be"),
    "four_bytes.csv": lambda: written().encode("utf-32"),
    "old_mac.csv": lambda: written([row for row in ROWS if "\n" not in row[0]], end="\r").encode(),
    "escaped.csv": lambda: written(escapechar="\\", doublequote=False).encode(),
    "bars.csv": lambda: written(delimiter="|").encode(),
    "packed.csv.gz": lambda: gzip.compress(written().encode()),
    "packed_utf16.TSV.GZ": lambda: gzip.compress(written(delimiter="\t").encode("utf-16")),
    "r_tabs.tsv": lambda: r_table("\t").encode(),
    "r_blanks.csv": lambda: r_table(" ").encode(),
    "spark.csv": lambda: spark().encode(),
    "records.json": pandas_json(orient="records"),
    "records_indented.json": pandas_json(orient="records", indent=2, force_ascii=False),
    "columns.json": pandas_json(),
    "index.json": pandas_json(orient="index"),
    "split.json": pandas_json(orient="split"),
    "table.json": pandas_json(orient="table"),
    "lines.json": pandas_json(orient="records", lines=True),
    "lines.ndjson": pandas_json(orient="records", lines=True),
    "array.jsonl": pandas_json(orient="records"),
    "in_an_object.json": lambda: json.dumps(
        {"version": 1, "data": [dict(zip(("text", "label"), row, strict=True)) for row in ROWS]}
    ).encode(),
    "feather.feather": lambda: arrow(compression="zstd"),
    "stream.arrow": lambda: arrow(stream=True),
    "sheet.xlsx": spreadsheet,
}


def read(path: Path | str, *columns: str) -> list[tuple[str, ...]]:
    found = []
    for _, row in readers.read(str(path), columns):
        assert isinstance(row, dict), row
        found.append(tuple(cell_text(row, column, 10_000) for column in columns))
    return found


@pytest.mark.parametrize("name", FILES)
def test_what_was_put_in_comes_out(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name]())
    expected = [row for row in ROWS if "\n" not in row[0]] if name == "old_mac.csv" else ROWS
    found = [(text.replace("\r\n", "\n"), label) for text, label in read(tmp_path / name, "text", "label")]
    assert found == expected
    look = readers.look(str(tmp_path / name))  # as `init` does, which knows no columns yet
    assert {"text", "label"} <= set(look.columns)


def test_values_read_as_a_person_writes_them(tmp_path: Path) -> None:
    us = pa.timestamp("us")
    columns = {
        "float32": (pa.array([3.8, 0.1, 3.0, None], pa.float32()), ["3.8", "0.1", "3", ""]),
        "missing": (pa.array([float("nan"), 1.0, float("nan"), None], pa.float32()), ["", "1", "", ""]),
        "float16": (pa.array([3.8, 1.0, float("nan"), None], pa.float16()), ["3.8", "1", "", ""]),
        "float64": (pa.array([3.0, 2.5, -1.0, None]), ["3", "2.5", "-1", ""]),
        "lists": (pa.array([[0.1], [3.0], [], None], pa.list_(pa.float32())), ['["0.1"]', '["3"]', "[]", ""]),
        "bool": (pa.array([True, False, None, True]), ["true", "false", "", "true"]),
        "category": (pa.array(["a", "b", None, "a"]).dictionary_encode(), ["a", "b", "", "a"]),
        "numbers": (pa.array([1.5, 2.0, None, 1.5], pa.float32()).dictionary_encode(), ["1.5", "2", "", "1.5"]),
        "date": (pa.array([datetime.date(2024, 1, 31)] * 4), ["2024-01-31"] * 4),
        "day": (pa.array([datetime.datetime(2024, 1, 31)] * 4, pa.timestamp("ns")), ["2024-01-31"] * 4),
        "time": (pa.array([datetime.datetime(2024, 1, 31, 12, 30)] * 4, us), ["2024-01-31 12:30:00"] * 4),
        "zone": (pa.array([datetime.datetime(2024, 1, 31)] * 4, pa.timestamp("s", "UTC")), ["2024-01-31 00:00:00"] * 4),
        "decimal": (
            pa.array([decimal.Decimal("3.80"), decimal.Decimal(100), None, decimal.Decimal("-0.50")]),
            ["3.8", "100", "", "-0.5"],
        ),
        "bytes": (pa.array([b"caf\xc3\xa9", b"x", None, b""]), ["café", "x", "", ""]),
        "large": (pa.array(["x", "y", None, ""], pa.large_string()), ["x", "y", "", ""]),
        "view": (pa.array(["x", "y", None, ""], pa.string_view()), ["x", "y", "", ""]),
    }
    table = pa.table({name: array for name, (array, _) in columns.items()})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    for name, (_, expected) in columns.items():
        for file in ("a.parquet", "a.arrow"):
            assert [cell for (cell,) in read(tmp_path / file, name)] == expected, (file, name)


def test_whole_numbers_that_pandas_made_floats(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,score\nx,1.0,1.0\ny,,2.0\nz,0.0,2.5\n")
    assert read(tmp_path / "a.csv", "text", "label", "score") == [
        ("x", "1", "1.0"),
        ("y", "", "2.0"),
        ("z", "0", "2.5"),
    ]


def test_a_folder_of_datasets_and_its_class_labels(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "all": [datasets.ClassLabel(names=["a", "b"])],
        }
    )
    made = datasets.Dataset.from_dict(
        {"text": ["x", "y", "z"], "label": [1, 0, -1], "all": [[0, 1], [], [1]]}, features=features
    )
    made.save_to_disk(str(tmp_path / "one"), num_shards=2)
    made.to_parquet(str(tmp_path / "a.parquet"))
    datasets.DatasetDict(train=made, test=made).save_to_disk(str(tmp_path / "dict"))
    expected = [("x", "yes", '["a", "b"]'), ("y", "no", "[]"), ("z", "", '["b"]')]
    for place in ("one", "one/", "dict/train", "a.parquet"):
        files = sources.find(f"{tmp_path}/{place}")
        assert [row for file in files for row in read(file.uri, "text", "label", "all")] == expected
    with pytest.raises(readers.UserError, match=r"several splits.*dict/train, .*dict/test"):
        sources.find(f"{tmp_path}/dict")


def test_parts_of_spark(tmp_path: Path) -> None:
    """Folders are columns, values in their names are escaped, and one part shows how the others escape quotes."""
    parts = {
        "label=pos/part-0.csv": 'text\n"say \\"hi\\", now"\n',
        "label=a%2Fb/part-0.csv": 'text\n"C:\\\\dir, as Spark quotes it"\nC:\\dir\n',
        "label=__HIVE_DEFAULT_PARTITION__/part-0.csv": "text\nx\n",
        "label=pos/part-1.csv": "",
        "label=pos/_SUCCESS": "",
        "label=pos/.part-0.csv.crc": "\0",
    }
    for name, text in parts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = set()
    for shard in shards.look_at(sources.find(str(tmp_path)), ["text", "label"]):
        for _, row in readers.read(shard.uri, ["text", "label"], shard.shared):
            assert isinstance(row, dict)
            found.add((row["text"], row["label"]))
    assert found == {('say "hi", now', "pos"), ("C:\\dir, as Spark quotes it", "a/b"), ("C:\\dir", "a/b"), ("x", None)}
