"""Quotes that do not fit cost the line that they are in, with its number and text, and nothing else."""

from pathlib import Path

import pytest

from semievol.data import readers
from semievol.data.readers import Broken, records

OPEN = "no CSV: a quote is opened and never closed"
# The lines below the header `question,answer`, and for each row or broken line its number and question, or the reason.
FILES: dict[str, tuple[str, list[tuple[int, str]]]] = {
    "nothing else is quoted, so all quotes are text": (
        '"Profit was 4 million,4\nHow many?,5\nA 5" pipe and a 1" pipe,6\n',
        [(2, '"Profit was 4 million'), (3, "How many?"), (4, 'A 5" pipe and a 1" pipe')],
    ),
    "a stray quote among quoted fields": (
        '"a, b",1\n"Profit was 4 million,4\nHow many?,5\nA 5" pipe,6\n"ok, fine",7\n',
        [(2, "a, b"), (3, OPEN), (4, "How many?"), (5, 'A 5" pipe'), (6, "ok, fine")],
    ),
    "strict CSV would take these rows for one": (
        '"a, b",1\n"Profit was 4 million,4\nHow many?,5\nA pipe of 5",6\nlast,7\n',
        [(2, "a, b"), (3, OPEN), (4, "How many?"), (5, 'A pipe of 5"'), (6, "last")],
    ),
    "never closed": ('"a, b",1\nx,2\n"never,3\nz,4\n', [(2, "a, b"), (3, "x"), (4, OPEN), (5, "z")]),
    "never closed, in the last line": ('"a, b",1\n"never,3', [(2, "a, b"), (3, OPEN)]),
    "two of them": ('"a, b",1\n"one,2\nx,3\n"two,4\ny,5\n', [(2, "a, b"), (3, OPEN), (4, "x"), (5, OPEN), (6, "y")]),
    "speech": (
        '"Hello" she said,1\n""both"",2\n"a, b",3\nx "y" z,4\n\'single\',5\n',
        [(2, '"Hello" she said'), (3, '""both""'), (4, "a, b"), (5, 'x "y" z'), (6, "'single'")],
    ),
    "fields over several lines": ('"a, b\nsecond, line\n\nthird",1\n"x ""y""\nz",2\n', [(5, "a, b\nsecond, line\n\nthird"), (7, 'x "y"\nz')]),
    "escaped with backslashes": (
        '"a \\"b\\", c",1\n"C:\\dir, \\\\ and \\frac",2\nC:\\dir,3\n',
        [(2, 'a "b", c'), (3, "C:\\dir, \\ and \\frac"), (4, "C:\\dir")],
    ),
    "both ways": ('"a \\"b\\", c",1\n"a ""b"", c",2\n', [(2, 'a "b", c'), (3, 'a "b", c')]),
    "backslashes that escape nothing": ('"$\\frac{1}{2}$, x",1\n"ends in \\",2\n', [(2, "$\\frac{1}{2}$, x"), (3, "ends in \\")]),
    "ragged": ('a\nb,1,2\n"c, d",3\n', [(2, "1 fields, the header has 2"), (3, "3 fields, the header has 2"), (4, "c, d")]),
    "blank lines": ('\n  \nx,1\n,,\n\ny,2\n\n', [(4, "x"), (7, "y")]),
    "separators at the end": ("x,1,\ny,2,,\n", [(2, "x"), (3, "y")]),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_stray_quote_costs_one_line(name: str, tmp_path: Path) -> None:
    body, expected = FILES[name]
    file = tmp_path / "a.csv"
    file.write_text("question,answer\n" + body)
    lines = file.read_text().split("\n")
    found = []
    for number, row in readers.read(str(file), ["question", "answer"]):
        if isinstance(row, Broken):
            assert row.raw == lines[number - 1]
            found.append((number, row.reason))
        else:
            found.append((number, row["question"]))
    assert found == expected


def test_a_quote_that_stays_open_is_not_looked_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_RECORD_CHARACTERS", 1_000)
    body = "".join(f"row {i} of many,{i}\n" for i in range(10_000))
    (tmp_path / "a.csv").write_text(f'q,a\n"a, b",0\n{body}"never,1\n{body}')
    rows = [row for _, row in readers.read(str(tmp_path / "a.csv"))]
    (broken,) = (row for row in rows if isinstance(row, Broken))
    assert broken.raw == '"never,1' and len(rows) == 20_002


def test_lines_are_counted_far_into_a_file(tmp_path: Path) -> None:
    """Rows, broken lines and the lines inside of quotes add up to the lines of the file."""
    (tmp_path / "a.csv").write_text("q,a\n" + '"a,\nb",1\nx,2\n"stray,3\n\nragged\n' * 3_000)
    found = list(readers.read(str(tmp_path / "a.csv")))
    assert [number for number, _ in found[-4:]] == [17_997, 17_998, 17_999, 18_001]
    assert sum(isinstance(row, Broken) for _, row in found) == 6_000 and len(found) == 12_000
