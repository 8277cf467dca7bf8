import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.tasks import Row
from semievol.tasks.multiple_choice import LETTERS, MultipleChoice
from tests.support.task_contract import ROWS, TEXTS, check

task = MultipleChoice()
GASES = Row("Which?", ["carbon dioxide", "nitrogen", "sodium chloride", "sugar"], None, None)


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
        ("\\boxed{B}", "B"),
        ("So we get $\\boxed{\\text{(B)}}$.", "B"),
        ("#### C", "C"),
        ('{"answer": "B"}', "B"),
        ("Answer: `B`", "B"),
        ("Answer – B", "B"),
        ("Answer:\n\nB", "B"),
        ("**B.** nitrogen", "B"),
        ("B\nThe others are wrong.", "B"),
        ("Nitrogen is a gas.\n\n(B)", "B"),
        ("option B", "B"),
        ("Answer: Option (C)", "C"),
        ("The correct option is B.", "B"),
        ("The correct choice: D", "D"),
        ("I would choose C, as it fits", "C"),
        ("B is correct.", "B"),
        ("Option A is wrong. Option B is correct.", "B"),
        ("Option A is wrong.", None),
        ("Option A or option B", None),
        ("A is correct, and B is correct too", None),
        ("A and C", None),
        ("Answer: A and C", None),
        ("Answer: A, B", None),
        ("(A) or (B)", None),
        ("The answer is B and I am sure", "B"),
        ("I'm not sure", None),
        ("Ｂ", "B"),
        ("答案：B", "B"),
        ("Antwort: B", "B"),
        ("La respuesta es B", "B"),
        ("La respuesta correcta es la B.", "B"),
        ("Die richtige Antwort ist B.", "B"),
        ("正确答案是 B。", "B"),
        ("答えはBです", "B"),
        ("정답은 B입니다.", "B"),
        ("الجواب: B", "B"),
        ("So the answer should be B", "B"),
        ("The answer is letter B", "B"),
        ("Ans: B", "B"),
        ("B。", "B"),
        ("<answer>B</answer>", "B"),
        ("<think>A or C?</think><answer> (B) </answer>", "B"),
        ("{'answer': 'B'}", "B"),
        ("The answer is B.\n\nQuestion: What is salt?\nAnswer: D", "B"),
        ("**Answer:** B\n\n### Question 2:\nWhat is salt?\n\nAnswer: D", "B"),
        ("Question: What fills the air?\nAnswer: B", "B"),
        ("A cat is a", None),
        ("La respuesta es una broma", None),
        ("答案是一个", None),
    ],
)
def test_parse(response: str, answer: str | None) -> None:
    assert task.parse(response, GASES) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("nitrogen", "B"),
        ("Nitrogen.", "B"),
        ("Answer: nitrogen", "B"),
        ("The answer is SODIUM  CHLORIDE.", "C"),
        ("**sugar**", "D"),
        ("not nitrogen", None),
        ("sugar, nitrogen", None),
        ("Answer: A (nitrogen)", "A"),  # the letter was asked for
        ("carbon", None),
    ],
)
def test_an_option_repeated_in_full_is_its_letter(response: str, answer: str | None) -> None:
    assert task.parse(response, GASES) == answer
    assert task.parse(response, Row("?", [*GASES.options, *GASES.options], None, None)) in (answer and "A", None)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        *[(f"Answer: {letter}", letter) for letter in LETTERS],
        ("I", "I"),
        ("The answer is I.", "I"),
        ("Answer: (I)", "I"),
        ("I think so", None),
        ("Answer: I think B", None),
        ("The correct answer I believe is unknown", None),
        ("Answer: K", None),
    ],
)
def test_parse_with_ten_options(response: str, answer: str | None) -> None:
    assert task.parse(response, row(10)) == answer
    if answer is not None:
        assert task.parse(task.respond(answer), row(10)) == answer


# What is scored is the pair of a gold cell and a response; None where the cell is no gold answer.
@pytest.mark.parametrize(
    ("cell", "response", "score"),
    [
        ("B", "Answer: B", 1),
        ("b", "Answer: B", 1),
        ("nitrogen", "Answer: B", 1),
        ("nitrogen", "nitrogen", 1),
        ("B", "nitrogen", 1),
        ("B", "Nitrogen.", 1),
        ("B", "Answer: C", 0),
        ("nitrogen", "Answer: A", 0),
        ("nitrogen", "sugar", 0),
        ("D", "sugar", 1),
        ("D", "SUGAR", 1),
        ("d", "(d)", 1),
        ("A", "a.", 1),
        ("A", "A cat", 0),
        ("A", "Answer: A or B", 0),
        ("B", "Answer: A or B", 0),
        ("A", "Answer: a", 1),
        ("C", "Answer: A. No: answer: C", 1),
        ("A", "Answer: A. No: answer: C", 0),
        ("C", "\\boxed{C}", 1),
        ("C", "\\boxed{B}", 0),
        ("A", "", 0),
        ("A", "I cannot say", 0),
        ("A", "Answer: E", 0),
        ("D", "答案：D", 1),
        ("sodium chloride", "C) sodium chloride", 1),
        ("C", "sodium", 0),
        ("E", "Answer: E", None),
        ("2", "Answer: 2", None),  # 0-based or 1-based? Nobody can tell, so it is no answer
        ("Nitrogen", "Answer: B", 1),
        ("(b)", "Answer: B", 1),
        ("B.", "Answer: B", 1),
        ("B) nitrogen", "Answer: B", 1),
        ("B) oxygen", "Answer: B", None),
        ("A B", "Answer: B", None),
        ("", "", None),
        ("AB", "Answer: A", None),
    ],
)
def test_score(cell: str, response: str, score: float | None) -> None:
    gold = task.gold(cell, GASES)
    assert (gold is None) == (score is None)
    if gold is not None:
        answer = task.parse(response, GASES)
        assert (answer is not None and task.score(answer, gold)) == score
        assert (answer is not None and task.same(answer, gold)) == score


SENTIMENTS = Row("Profit rose by a third.", ["negative", "neutral", "positive"], None, None)
MARKS = [
    "{}. ",
    "{}) ",
    "({}) ",
    "{}: ",
    "**{}.** ",
    "**{}**: ",
    "* {}. ",
    "Option {}: ",
    "Answer {}: ",
    "{}\n",
    "Choice {} - ",
]
JUDGED = [
    "This is wrong, because profit rose.",
    "Not this one.",
    "profit fell? No, it rose",
    "incorrecto, el beneficio subió",
    "falsch, der Gewinn stieg",
    "faux, le bénéfice a augmenté",
    "неверно, прибыль выросла",
    "不对，利润上升了",
    "is ruled out first, since it",
    "cannot be right, as it",
    "would mean that profit fell, but it",
]


@given(
    st.lists(TEXTS.filter(lambda text: len(text.strip()) > 1), min_size=2, max_size=10, unique=True),
    st.sampled_from(MARKS),
    st.sampled_from(["\n", "\n\n", "\n   "]),
    st.data(),
)
def test_a_list_of_the_options_is_no_answer_wherever_it_is_cut_off(
    options: list[str], mark: str, between: str, data: st.DataObject
) -> None:
    options = [f"{i} " + " ".join(re.findall(r"[xX123]+", option)) for i, option in enumerate(options)]
    listed = [mark.format(letter) + option for letter, option in zip(LETTERS, options, strict=False)]
    shown = data.draw(st.integers(2, len(options)))
    text = between.join(listed[:shown])
    cut = data.draw(st.integers(0, len(listed[shown - 1]) - mark.index("{") - 2))
    assert task.parse(text[: len(text) - cut], Row("?", options, None, None)) is None


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("judged", JUDGED)
def test_a_letter_that_a_response_weighs_is_no_answer(mark: str, judged: str) -> None:
    opening = mark.format("A") + judged
    alone = mark.endswith("\n")  # a letter on a line of its own is an answer, whatever is explained below
    assert task.parse(opening, SENTIMENTS) in (None, "A" if alone else None)
    assert task.parse(opening + "\n" + mark.format("B") + judged, SENTIMENTS) is None
    weighed = "\n".join(mark.format(letter) + judged for letter in "ABC")
    assert task.parse(weighed, SENTIMENTS) is None
    assert task.parse(weighed + "\nAnswer: B", SENTIMENTS) == "B"
    assert task.parse(weighed + "\n\nSo the answer is (C).", SENTIMENTS) == "C"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("A. negative: profit fell, which would", None),
        ("A. negative: the profit", None),
        ("A. neg", None),
        ("A. negative\nB. neutral\nC", None),
        ("Let us go through them:\nA", None),
        ("Eliminating option A, since", None),
        ("Eliminating A", None),
        ("Looking at option A first", None),
        ("Answer A is wrong", None),
        ("The wrong option is A", None),
        ("The incorrect answer is A", None),
        ("Answer: A. negative\nB. neutral\nC. positive", None),
        ("First, A. negative", None),
        ("A.", "A"),
        ("A. negative", "A"),
        ("A) Negative.", "A"),
        ("A. negative, because profit fell by a", "A"),
        ("B. The text takes no side.", None),
        ("B. The text takes neither side.", "B"),
        ("**C. positive**\n\nThe text says that profit rose, and not that", "C"),
        ("A is wrong, B is wrong. C is correct", "C"),
        ("Answer: C\nA. wrong, since it rose\nB. wrong", "C"),
        ("A. No.\nB. No.\nC. Yes.\n\nAnswer: C", "C"),
        ("A. No.\nB. Yes.\nC. No.\n\nB", "B"),
    ],
)
def test_a_leading_letter_is_an_answer_if_nothing_weighs_it(response: str, answer: str | None) -> None:
    assert task.parse(response, SENTIMENTS) == answer


def test_options_that_look_like_letters() -> None:
    both = Row("?", ["A gas takes its shape.", "A and C", "B", "c"], None, None)
    assert task.parse("The answer is A gas takes its shape.", both) == "A"
    assert task.parse("Answer: A and C", both) == "B"
    assert task.parse("Answer: B", both) == "B"  # the letter, though an option has that text
    assert task.parse("c", both) == "C"
    assert task.parse("Answer: A and B", both) is None


def test_gold_with_two_readings_is_none() -> None:
    assert task.gold("A", Row("?", ["C", "B", "A"], None, None)) is None
    assert task.gold("same", Row("?", ["same", "same"], None, None)) is None


def test_problem_names_the_number_of_options() -> None:
    assert task.problem(row(2)) is None
    assert task.problem(row(10)) is None
    assert "1 options" in str(task.problem(row(1)))
    assert "11 options" in str(task.problem(row(11)))
    assert task.closed and task.needs == ("options",)


def test_ask_shows_context_question_and_letters_in_order() -> None:
    text = task.ask(Row("Who?", ["she", "he"], "A story.", None))
    assert text.index("A story.") < text.index("Who?") < text.index("A. she") < text.index("B. he")


def test_a_solved_answer_is_transferred_by_its_text() -> None:
    turned = Row("Which?", GASES.options[::-1], None, None)
    assert task.transfer("B", GASES, turned) == "C"
    assert task.transfer("B", GASES, row()) is None
    assert task.in_words("B", GASES) == "nitrogen"
    assert task.choices(row(3)) == ["A", "B", "C"]


@given(ROWS, ROWS, TEXTS, TEXTS)
def test_any_text(one: Row, other: Row, text: str, second: str) -> None:
    one.options = one.options[:10]
    check(task, one, other, text, second)
