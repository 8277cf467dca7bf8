import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config import Columns
from semievol.data import tables as schema
from semievol.data.tables import BadRow, row_id, validate
from semievol.tasks import Row, Task
from semievol.tasks.free_text import FreeText
from semievol.tasks.multiple_choice import MultipleChoice
from semievol.tasks.numeric import Numeric

TASK = MultipleChoice()
GOOD = {"question": "Which?", "options": '["x", "y", "z"]', "answer": "B"}


def check(raw: dict, answer_column: str | None = "answer", max_bytes: int = 1000) -> Row:
    return validate(raw, Columns(), TASK, answer_column=answer_column, max_bytes=max_bytes)


def test_a_good_row_in_every_notation() -> None:
    expected = Row("Which?", ["x", "y", "z"], None, "B")
    assert check(GOOD) == expected
    assert check(GOOD | {"options": ["x", "y", "z"], "answer": "y"}) == expected
    assert check(GOOD | {"question": " Which?\n"}) == expected
    assert check(GOOD | {"options": [1, 2.5, True]}).options == ["1", "2.5", "true"]
    assert check({k: GOOD[k] for k in ("question", "options")}, answer_column=None).answer is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": ""}, "column 'question' is empty"),
        ({"question": None}, "column 'question' is empty"),
        ({"question": math.nan}, "column 'question' is empty"),
        ({"question": ["a"]}, "column 'question' holds a list"),
        ({"question": "a\x00b"}, "NUL"),
        ({"question": "a\udcff"}, "UTF-8"),
        ({"question": "x" * 1001}, "is longer than limits.max_row_bytes = 1,000"),
        ({"options": "x, y"}, "no list of options"),
        ({"options": "[" * 100_000}, "no list of options"),
        ({"options": '{"x": "A"}'}, "no list of options but"),
        ({"options": '["x", NaN]'}, "option 2 of 2 is missing"),
        ({"options": '["x", null]'}, "option 2 of 2 is missing"),
        ({"options": '["x", " "]'}, "option 2 of 2 is missing"),
        ({"options": '["x"]'}, "1 options"),
        ({"options": None}, "0 options"),
        ({"options": json.dumps(list("abcdefghijk"))}, "11 options"),
        ({"answer": ""}, "column 'answer' is empty"),
        ({"answer": "D"}, "a letter from A to C"),
        ({"answer": "2"}, "is not an answer to the row: '2'"),
    ],
)
def test_a_bad_row_says_why(change: dict, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        check(GOOD | change)


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional={"question": _JSON, "options": _JSON, "answer": _JSON}))
def test_any_row_is_valid_or_bad_and_never_an_error(raw: dict) -> None:
    try:
        row = check(raw)
    except BadRow as bad:
        assert str(bad)
    else:
        assert row.question
        assert 2 <= len(row.options) <= 10
        assert row.answer in "ABCDEFGHIJ"[: len(row.options)]
        assert -(2**63) <= row_id(row) < 2**63


def test_rows_of_a_kind_without_options() -> None:
    numeric, texts = Numeric(), FreeText()

    def read(raw: dict, columns: Columns | None = None, task: Task = numeric) -> Row:
        return validate(raw, columns or Columns(), task, answer_column="answer", max_bytes=1000)

    assert read({"question": "q", "answer": "1,000"}) == Row("q", [], None, "1000")
    assert read({"question": "q", "answer": 0}).answer == "0"
    # Options that are there are part of the question, unless the config says not to read them.
    assert read({"question": "q", "answer": 5, "options": '["5", "7"]'}).options == ["5", "7"]
    with pytest.raises(BadRow, match="no list of options"):
        read({"question": "q", "answer": 5, "options": "puts and calls"})
    assert read({"question": "q", "answer": 5, "options": "puts"}, Columns(options=None)).options == []
    with pytest.raises(BadRow, match="column 'answer' is not an answer to the row: 'yes'; expected one number"):
        read({"question": "q", "answer": "yes"})
    for several in (["New York", "NYC"], '["New York", "NYC"]'):
        assert read({"question": "q", "answer": several}, task=texts).answer == '["New York", "NYC"]'


def test_row_id_is_of_the_content() -> None:
    one = row_id(Row("Café?", ["a", "b"], None, None))
    assert one == row_id(Row("Cafe\u0301?", ["a", "b"], "", None))  # NFC, and no context is the empty context
    assert one == row_id(Row("  Café?\n", [" a", "b"], None, None))
    assert one != row_id(Row("Café?", ["b", "a"], None, None))
    assert one != row_id(Row("Café?", ["a", "b"], "context", None))
    assert row_id(Row("ab", ["c", "d"], None, None)) != row_id(Row("a", ["bc", "d"], None, None))
    chat = [{"role": "user", "content": "Hello."}]
    assert one != row_id(Row("Café?", ["a", "b"], None, None, history=chat))
    assert one != row_id(Row("Café?", ["a", "b"], None, None, fields={"subject": "coffee"}))
    assert one == row_id(Row("Café?", ["a", "b"], None, "A", candidates=["a"]))  # neither answer nor candidates count
    assert one == 5328458425808638400  # frozen: ids are stable across versions of this code


def test_no_schema_has_a_null_typed_column() -> None:
    import pyarrow as pa

    schemas = [value for value in vars(schema).values() if isinstance(value, pa.Schema)]
    assert len(schemas) >= 8
    for each in schemas:
        assert each.names[0] == "row_id"
        assert not any(pa.types.is_null(field.type) for field in each)
