"""Files as databases, editors, shells and browsers leave them: joined, spaced, with nulls, unpacked, and beside other files."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol.data import readers, sources
from semievol.data.readers import Broken
from semievol.errors import UserError

ROWS = [{"text": "a, b", "label": "pos"}, {"text": "c", "label": "neg"}]


def rows(folder: Path, name: str, content: str | bytes) -> list:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    wanted = ("text", "label")
    assert readers.look(str(folder / name), wanted).columns[-2:] == ["text", "label"]
    return [row for _, row in readers.read(str(folder / name), wanted)]


def test_a_blank_may_follow_a_separator(tmp_path: Path) -> None:
    assert rows(tmp_path, "a.csv", 'text, label\n"a, b", "pos"\n"c", "neg"\n') == ROWS
    assert rows(tmp_path, "b.csv", '"text", "label"\n"a, b", pos\nc, "neg"\n') == ROWS
    [_, row] = rows(tmp_path, "c.csv", '"id", "text", "label"\n"x", "a", "pos"\n"y", "he said ""no"", x", "neg"\n')
    assert row["text"] == 'he said "no", x'
    kept = [{"text": "a", "label": ' the "best"'}, {"text": "c", "label": " x"}]  # quotes inside of a text
    assert rows(tmp_path, "d.csv", 'text,label\na, the "best"\nc, x\n') == kept


def test_names_of_columns_over_several_lines(tmp_path: Path) -> None:
    for sep in ",;":
        (tmp_path / "a.csv").write_text(
            f'id{sep}"text\n(in English)"{sep}label\n1{sep}"a\nb"{sep}pos\n2{sep}c{sep}neg\n'
        )
        found = [row for _, row in readers.read(str(tmp_path / "a.csv"), ("label",))]
        assert found[0] == {"id": "1", "text\n(in English)": "a\nb", "label": "pos"} and len(found) == 2
    (tmp_path / "b.csv").write_text('"text\n(in English)",label\na,pos\n')
    assert readers.columns(str(tmp_path / "b.csv")) == ["text\n(in English)", "label"]


@pytest.mark.parametrize("sep", ["\x01", "^", "~"])
def test_rare_separators(sep: str, tmp_path: Path) -> None:
    assert rows(tmp_path, "a.csv", f"text{sep}label\na, b{sep}pos\nc{sep}neg\n") == ROWS


def test_a_header_that_stands_again_is_no_row(tmp_path: Path) -> None:
    part = 'text,label\n"a, b",pos\nc,neg\n'
    first, second, broken, *rest = rows(tmp_path, "a.csv", part + part)
    assert [first, second] == rest == ROWS
    assert isinstance(broken, Broken) and broken.reason.startswith("repeats the header")
    assert rows(tmp_path, "b.csv", "text,label\ntext,neg\n") == [{"text": "text", "label": "neg"}]


def test_nulls_of_databases(tmp_path: Path) -> None:
    for name, sep in (("a.tsv", "\t"), ("b.csv", ",")):
        found = rows(tmp_path, name, f"text{sep}label\nx{sep}\\N\nC:\\New{sep}neg\n")
        assert found == [{"text": "x", "label": ""}, {"text": "C:\\New", "label": "neg"}]


@pytest.mark.parametrize("mark", ["\ufeff\ufeff", "\u200b", "\u200e", " \ufeff"])
def test_marks_that_nobody_sees_before_a_name(mark: str, tmp_path: Path) -> None:
    assert rows(tmp_path, "a.csv", f'{mark}text,label\n"a, b",pos\nc,neg\n') == ROWS


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.jsonl.gz"])
def test_objects_over_several_lines_one_after_the_other(name: str, tmp_path: Path) -> None:
    written = '{\n  "text": "a, b",\n  "label": "pos"\n}\n{\n  "text": "c",\n  "label": "neg"\n}\n'
    assert rows(tmp_path, name, gzip.compress(written.encode()) if name.endswith("gz") else written) == ROWS
    one = written[: written.index("}") + 1]
    assert rows(tmp_path, name, gzip.compress(one.encode()) if name.endswith("gz") else one) == ROWS[:1]


def test_json_by_hand(tmp_path: Path) -> None:
    lines = '{"text": "a, b", "label": "pos"},\n{"text": "c", "label": "neg"},\n'
    assert rows(tmp_path, "a.jsonl", lines) == rows(tmp_path, "b.json", f"[{lines}]") == ROWS
    assert rows(tmp_path, "c.jsonl", '{"text": "a\tb", "label": "pos"}\n')[0]["text"] == "a\tb"
    assert rows(tmp_path, "d.json", '[{"text": "a\nb", "label": "pos"}]')[0]["text"] == "a\nb"


def test_columns_of_one_name(tmp_path: Path) -> None:
    names = ["text", "label", "text", "label"]
    table = pa.Table.from_arrays([pa.array([cell]) for cell in ("a", "pos", "b", "neg")], names=names)
    pq.write_table(table, tmp_path / "a.parquet")
    notes: list[str] = []
    found = list(readers.read(str(tmp_path / "a.parquet"), ("text", "label"), notes=notes))
    assert found == [(1, {"text": "a", "label": "pos"})] and "same name" in notes[0]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 1\n", "git lfs pull"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 1\n", "git lfs pull"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "a .gz file"),
        ("a.csv", b"PK\x03\x04abc", "an .xlsx"),
        ("a.json", b"PAR1abc", "a .parquet file"),
        ("a.csv.gz", b"text,label\na,pos\n", "not packed"),
        ("a.parquet", b"PK\x03\x04abc", ".zip file"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        readers.look(str(tmp_path / name))


def test_what_stands_beside_data_is_left_out(tmp_path: Path) -> None:
    beside = """README.md README LICENSE license.txt CITATION.cff _SUCCESS .part-0.csv.crc part-0.csv.crc .DS_Store Thumbs.db
    desktop.ini ~$book.xlsx .~lock.part-0.csv# part-0.csv~ #part-0.csv# dataset_infos.json load.py part-0.csv.md5 a.lock
    .ipynb_checkpoints/part-0.csv _delta_log/0.json"""
    for name in [*beside.split(), "part-0.csv", "sub/Part-1.CSV", "readme_questions.csv"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text,label\na,pos\n")
    names = ["part-0.csv", "readme_questions.csv", "sub/Part-1.CSV"]
    for pattern in (tmp_path, f"{tmp_path}/", f"{tmp_path}/**"):
        assert [str(Path(file.uri).relative_to(tmp_path)) for file in sources.find(str(pattern))] == names
    named = str(tmp_path / "license.txt")
    assert [file.uri for file in sources.find(named)] == [named]
