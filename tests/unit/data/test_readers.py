import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semievol.data import readers
from semievol.data.readers import Broken
from semievol.errors import UserError


def rows(path: Path) -> list:
    return list(readers.read(str(path)))


def test_csv_with_quotes_line_breaks_bom_and_gzip(tmp_path: Path) -> None:
    text = '\ufeffquestion,answer\n"a ""quoted"",\nbroken line",B\n\nplain,A\n'
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    expected = [(3, {"question": 'a "quoted",\nbroken line', "answer": "B"}), (5, {"question": "plain", "answer": "A"})]
    assert rows(tmp_path / "a.csv") == rows(tmp_path / "a.csv.gz") == expected
    assert readers.columns(str(tmp_path / "a.csv")) == ["question", "answer"]


def test_lines_that_are_no_rows_are_broken_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,a\n1,2\n1,2,3\n4,5\n")
    assert [isinstance(row, Broken) for _, row in rows(tmp_path / "a.csv")] == [False, True, False]
    (tmp_path / "c.csv").write_bytes(b"q,a\n1,2\n1\r,2\n4,5\n")
    _, (_, torn), (_, last) = rows(tmp_path / "c.csv")
    assert isinstance(torn, Broken) and torn.raw == "1\r,2" and last == {"q": "4", "a": "5"}
    (tmp_path / "b.jsonl").write_text('\ufeff{"q": 1}\nnot json\n[1]\n\n{"q": 2}')
    got = rows(tmp_path / "b.jsonl")
    assert [number for number, _ in got] == [1, 2, 3, 5]
    assert [isinstance(row, Broken) for _, row in got] == [False, True, True, False]
    assert readers.columns(str(tmp_path / "b.jsonl")) == ["q"]


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_what_follows_an_array_is_read_or_an_error(form: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{form}"
    for between in ("\n", "", " \n\n"):
        file.write_text(between.join(['[{"q": 1}, {"q": 2}]', "[]", '[\n{"q": 3}]', '[{"q": 4}]']) + "\n")
        assert rows(file) == [(n, {"q": n}) for n in (1, 2, 3, 4)]
    padded = f'[{{"q": 1}}{" " * (2 << 20)}]{" " * (2 << 20)}[{{"q": 2}}]'
    file.write_text(padded.replace(" ", "\n"))
    assert [row for _, row in rows(file)] == [{"q": 1}, {"q": 2}]
    for rest, problem in (('{"q": 2}', "text follows the end of the array"), ("[", "is not closed")):
        file.write_text(f'[{{"q": 1}}]\n{rest}')
        with pytest.raises(UserError, match=problem):
            rows(file)


def test_damaged_utf8_reaches_the_validator(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("q\nsüß\nschön\n".encode() + b"caf\xe9\n")
    (_, first), _, (_, last) = rows(tmp_path / "a.csv")
    assert first == {"q": "süß"}
    with pytest.raises(UnicodeEncodeError):
        last["q"].encode()


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"q": ["a", "b"], "options": [["x"], ["y", "z"]]}), tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [(1, {"q": "a", "options": ["x"]}), (2, {"q": "b", "options": ["y", "z"]})]
    assert readers.columns(str(tmp_path / "a.parquet")) == ["q", "options"]


def test_only_the_columns_that_are_wanted_are_read_from_parquet(tmp_path: Path) -> None:
    far = pa.array([0, 1 << 62], pa.timestamp("us"))  # no date that Python has
    pq.write_table(pa.table({"q": ["a", "b"], "at": far}), tmp_path / "a.parquet")
    first, (number, second) = rows(tmp_path / "a.parquet")
    assert first[1]["q"] == "a" and number == 2
    assert isinstance(second, Broken) and second.reason.startswith("a value that Python cannot hold: ")
    assert list(readers.read(str(tmp_path / "a.parquet"), ["q", "absent"])) == [(1, {"q": "a"}), (2, {"q": "b"})]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    truncated = tmp_path / "t.parquet"
    truncated.write_bytes(b"PAR1 and no more")
    broken_gzip = tmp_path / "t.jsonl.gz"
    broken_gzip.write_bytes(gzip.compress(json.dumps({"q": "x" * 10_000}).encode())[:-20])
    for path in (truncated, broken_gzip, tmp_path / "absent.csv"):
        with pytest.raises(UserError, match=path.name):
            rows(path)
    with pytest.raises(UserError, match="not the name of a data file"):
        rows(tmp_path / "a.docx")
