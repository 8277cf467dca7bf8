import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config import TaskConfig
from semievol.tasks import Row, Task, make
from semievol.tasks.multiple_choice import LETTERS

task = make(TaskConfig())


def row(n: int = 4) -> Row:
    return Row("Which?", [f"option {i}" for i in range(n)], None, None)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Answer: B", "B"),
        ("answer: b", "B"),
        ("Answer: (B)", "B"),
        ("Answer: **B**", "B"),
        ("Answer:B.", "B"),
        ("Answer B", "B"),
        ("The answer is C.", "C"),
        ("The correct answer is: D", "D"),
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("B) because", "B"),
        ("  b  ", "B"),
        ("[C]", "C"),
        ("Answer: A\nNo, wait. Answer: C", "C"),
        ("I think the answer is B, not A", "B"),
        ("Answer: B\n\nExplanation: A is wrong", "B"),
        ("Answer: E", None),  # only four options
        ("J", None),
        ("", None),
        ("   ", None),
        ("I cannot answer this question.", None),
        ("Answer: none of them", None),
        ("A cat sat on the mat", None),  # an article is no answer
        ("答案是乙", None),
        ("Antwort: nein", None),
        ("Answer: 3", None),
        ("Because", None),
        ("answer", None),
        ("Answer: Bees", None),
        ("The answer is a cat", None),
        ("The correct answer I believe is (B)", None),  # better no answer than the letter of "I"
        ("Answer: a", "A"),
        ("answer is c, I think", "C"),
        ("The answer is A because of it", "A"),
    ],
)
def test_parse(response: str, answer: str | None) -> None:
    assert task.parse(response, row()) == answer


def test_parse_reads_all_ten_options() -> None:
    for letter in LETTERS:
        assert task.parse(f"Answer: {letter}", row(10)) == letter
        assert task.parse(task.respond(letter), row(10)) == letter


@given(st.text())
def test_parse_never_raises_and_stays_in_range(response: str) -> None:
    assert task.parse(response, row(3)) in (None, "A", "B", "C")


def test_gold_takes_letters_and_exact_texts() -> None:
    assert task.gold("c", row()) == "C"
    assert task.gold("option 1", row()) == "B"
    assert task.gold("E", row()) is None
    assert task.gold("2", row()) is None  # 0-based or 1-based? Nobody can tell, so it is no answer
    assert task.gold("A", Row("?", ["C", "B", "A"], None, None)) is None
    assert task.gold("same", Row("?", ["same", "same"], None, None)) is None


def test_problem_names_the_number_of_options() -> None:
    assert task.problem(row(2)) is None
    assert task.problem(row(10)) is None
    assert "1 options" in str(task.problem(row(1)))
    assert "11 options" in str(task.problem(row(11)))


def test_ask_shows_context_question_and_letters_in_order() -> None:
    text = task.ask(Row("Who?", ["she", "he"], "A story.", None))
    assert text.index("A story.") < text.index("Who?") < text.index("A. she") < text.index("B. he")


class Numeric:
    """The promise of the contract: a new kind of task is about 30 lines."""

    _NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")

    def problem(self, row: Row) -> str | None:
        return None if not row.options else "a numeric question has no options"

    def gold(self, text: str, row: Row) -> str | None:
        return self.parse(text, row)

    def expects(self, row: Row) -> str:
        return "a number"

    def ask(self, row: Row) -> str:
        return f"{row.question}\n\nAnswer with a number."

    def respond(self, answer: str) -> str:
        return f"Answer: {answer}"

    def parse(self, response: str, row: Row) -> str | None:
        found = self._NUMBER.findall(response)
        return found[-1].replace(",", "") if found else None

    def in_words(self, answer: str, row: Row) -> str:
        return answer

    def same(self, a: str, b: str) -> bool:
        return abs(float(a) - float(b)) <= 1e-3 * max(abs(float(a)), abs(float(b)))

    def choices(self, row: Row) -> list[str] | None:
        return None

    def score(self, answer: str, gold: str) -> float:
        return float(self.same(answer, gold))

    def transfer(self, answer: str, solved: Row, row: Row) -> str | None:
        return answer


def test_a_numeric_task_fits_the_contract() -> None:
    numeric: Task = Numeric()
    asked = Row("How many?", [], None, None)
    assert numeric.problem(asked) is None
    assert numeric.parse("It is 1,204.5", asked) == "1204.5"
    assert numeric.parse(numeric.respond("-7"), asked) == "-7"
    assert numeric.same("1000", "1000.5")
    assert not numeric.same("1000", "1010")
