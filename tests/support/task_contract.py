"""What every kind of task promises, whatever the text."""

import math

from hypothesis import strategies as st

from semievol.tasks import Row, Task

# Pieces that responses are made of, so that arbitrary text reaches what only a marker or a number leads to.
_PIECES = st.sampled_from(
    [
        *("Answer: ", "answer is ", "#### ", "\\boxed{", "}", "**", "\n", "(", ")", "[", "]", '"', "'", " ", ".", ","),
        *(
            "-",
            "%",
            "$",
            "/",
            "=",
            "1",
            "23",
            "456",
            "0",
            "1e9",
            "million",
            "A",
            "B",
            "J",
            "I",
            "the",
            "option ",
            "答案：",
        ),
        *("I don't know", "x", "½", "³", "٣", "\u00a0", "\ud800", '["a", "b"]', "NaN", "Infinity"),
    ]
)
TEXTS = st.one_of(st.text(), st.lists(_PIECES, max_size=12).map("".join))
ROWS = st.builds(
    Row, question=TEXTS, options=st.lists(TEXTS, max_size=12), context=st.none() | TEXTS, answer=st.none() | TEXTS
)


def check(task: Task, row: Row, other: Row, text: str, second: str) -> None:
    """Every method on arbitrary text: no exception, results in range, canonical answers stay what they are."""
    problem, expected = task.problem(row), task.expects(row)
    assert problem is None or problem
    assert expected
    assert row.question in task.ask(row)
    assert isinstance(task.instruct(row), str)
    for a in (text, second):
        assert task.same(a, a)
        assert isinstance(task.respond(a), str)
        assert isinstance(task.in_words(a, row), str)
        assert task.transfer(a, other, row) is None or isinstance(task.transfer(a, other, row), str)
    assert task.same(text, second) == task.same(second, text)
    for score in (task.score(text, second), task.score(second, text)):
        assert 0 <= score <= 1
        assert not math.isnan(score)
    choices = task.choices(row)
    for answer in (task.parse(text, row), task.gold(text, row)):
        if answer is not None:
            assert answer
            assert choices is None or answer in choices
            assert task.score(answer, answer) == 1
            said = task.parse(task.respond(answer), row)
            assert said is not None
            assert task.same(said, answer)
    parsed = task.parse(text, row)
    if parsed is not None:
        assert task.parse(task.respond(parsed), row) == parsed
