"""Options in the ways that data sets and programs hold them."""

import re
from typing import Any

import pytest

from semievol.data import options, profile
from semievol.tasks import Row
from semievol.tasks.classification import Classification
from semievol.tasks.free_text import FreeText

TWO = ["wet, cold", "dry"]
CELLS: dict[str, Any] = {
    "a list": TWO,
    "JSON": '["wet, cold", "dry"]',
    "pandas, of a list": "['wet, cold', 'dry']",
    "pandas, of an array": "['wet, cold' 'dry']",
    "pandas, of an array over two lines": "['wet, cold'\n 'dry']",
    "pandas, of nested arrays": "array(['wet, cold', 'dry'], dtype=object)",
    "MedQA": {"A": "wet, cold", "B": "dry"},
    "MedQA in a CSV": "{'A': 'wet, cold', 'B': 'dry'}",
    "a mapping in another order": {"B": "dry", "A": "wet, cold"},
    "a mapping of places": {"0": "wet, cold", "1": "dry"},
    "ARC": {"text": ["wet, cold", "dry"], "label": ["A", "B"]},
    "CommonsenseQA": [{"label": "A", "text": "wet, cold"}, {"label": "B", "text": "dry"}],
    "AQuA": ["A)wet, cold", "B)dry"],
    "LogiQA": ["A. wet, cold", "B. dry"],
    "brackets": ["(a) wet, cold", "(b) dry"],
    "MathQA": "a ) wet, cold , b ) dry",
    "lines": "A) wet, cold\nB) dry",
    "one line": "A. wet, cold B. dry",
}


@pytest.mark.parametrize("source", CELLS)
def test_options_are_read_as_they_come(source: str) -> None:
    assert options.read(CELLS[source]) == TWO
    column = profile.Column("Options")
    column.add(CELLS[source])
    assert column.lists == {0: TWO} and not column.mappings


@pytest.mark.parametrize("cell", ["x, y", "x|y", "", "A. only one", "see B. and A.", {"x": "a"}, "{'x': 1}", 7, "[1"])
def test_what_is_no_list_of_options(cell: Any) -> None:
    assert options.read(cell) is None


def test_letters_that_belong_to_the_texts_stay() -> None:
    for kept in (["A. Smith", "C. Brown"], ["A) x", "y"], ["B. x", "A. y"], ["A", "B"], ["A.", "B."]):
        assert options.read(kept) == kept
    assert options.read(["it's", 'a "b"']) == options.read('["it\'s", \'a "b"\']') == ["it's", 'a "b"']


def test_lists_of_answers_as_pandas_writes_them() -> None:
    row = Row("q", [], None, None)
    task = Classification(multiple=True, labels=["new york", "rome", "oslo"])
    for cell in ('["rome", "new york"]', "['rome', 'new york']", "['rome' 'new york']", "rome;new york"):
        assert task.gold(cell, row) == '["new york", "rome"]'
    assert task.gold("[]", row) == "[]" and task.gold("['paris']", row) is None
    assert FreeText().gold("['Rome', 'Roma']", row) == FreeText().gold("['Rome' 'Roma']", row) == '["Rome", "Roma"]'
    assert not re.search("Rome", FreeText().gold("[sic] text", row) or "")
