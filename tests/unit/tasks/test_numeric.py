import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.tasks import Row
from semievol.tasks.numeric import Numeric
from tests.support.task_contract import ROWS, TEXTS, check

task = Numeric()
ROW = Row("How many?", [], None, None)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("42", "42"),
        ("Answer: 42", "42"),
        ("Answer: **42**.", "42"),
        ("The answer is 42 because 6 x 7 is 42, see page 3", "42"),
        ("Answer:\n\n42", "42"),
        ("First 3, then 4, in all 7.", "7"),
        ("Answer: 6 x 7 = 42", "42"),
        ("Answer: 1\nNo, wait. Answer: 2", "2"),
        ("It costs 5 in 2 shops.\n#### 42", "42"),
        ("So $x = \\boxed{42}$, as said on page 9", "42"),
        ("\\boxed{\\frac{1}{2}}", "0.5"),
        ("1,204.5", "1204.5"),
        ("1,234,567", "1234567"),
        ("1'234", "1234"),
        ("1\u202f234", "1234"),
        ("12,34,567", "1234567"),
        ("1.234,56", "1234.56"),
        ("12,5", "12.5"),
        ("0,123", "0.123"),
        ("1,2,3", "3"),
        ("1.2.3", "1.2"),
        ("007", "7"),
        ("5.00", "5"),
        (".5", "0.5"),
        ("-0", "0"),
        ("$1,234.50", "1234.5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("US$5", "5"),
        ("EUR3m", "3000000"),
        ("Answer: ($5.2 million)", "-5200000"),
        ("(1,234)", "-1234"),
        ("$ (1,234)", "-1234"),
        ("(12.5%)", "-12.5%"),
        ("(-5)", "-5"),
        ("It was twelve (12)", "12"),
        ("\u22127", "-7"),
        ("minus 7", "-7"),
        ("between 5-10", "10"),
        ("10%-15%", "15%"),
        ("- 5 apples", "5"),  # a bullet
        ("12%", "12%"),
        ("12 percent", "12%"),
        ("12 per cent", "12%"),
        ("12\\%", "12%"),
        ("50 bps", "0.5%"),
        ("3 percentage points", "3%"),
        ("1.2 million", "1200000"),
        ("5bn", "5000000000"),
        ("3-billion", "3000000000"),
        ("5K", "5000"),
        ("5 m", "5"),  # metres
        ("5 minutes", "5"),
        ("1.5e3", "1500"),
        ("3 x 10^6", "3000000"),
        ("3×10⁻²", "0.03"),
        ("2e25", "2E+25"),
        ("1e400", None),
        ("9" * 5000, None),
        ("3/4", "0.75"),
        ("2½ cups", "2.5"),
        ("1/0", None),
        ("Answer: seven", "7"),
        ("twelve.", "12"),
        ("no one knows", None),
        ("", None),
        ("  \n", None),
        ("Infinity", None),
        ("NaN", None),
        ("I cannot determine the 2009 value.", None),
        ("Answer: I don't know, 2009 is missing", None),
        ("Answer: unknown\nIn 2009 it was 5", None),
        ("Answer:", None),
        ("４２", "42"),
        ("٤٢", "42"),
        ("答案：120.5万", "1205000"),
        ("Die Antwort: 12,5 %", "12.5%"),
        ("F1 in Q3", None),
        ("CO2: 7", "7"),
    ],
)
def test_parse(response: str, answer: str | None) -> None:
    assert task.parse(response, ROW) == answer
    if answer is not None:
        assert task.parse(task.respond(answer), ROW) == answer


# None where what is written is a number that nothing here computes.
@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (r"2\frac{1}{2}", "2.5"),
        (r"2 \frac{1}{2}", "2.5"),
        (r"2\,\frac{1}{2}", "2.5"),
        (r"2\;\tfrac12", "2.5"),
        (r"2~\dfrac 1 2", "2.5"),
        (r"-1\tfrac{1}{2}", "-1.5"),
        (r"\text{2}\frac{1}{2}", "2.5"),
        (r"2\frac{\text{1}}{2}", "2.5"),
        (r"1{,}234\frac{1}{2}", "1234.5"),
        (r"1234\frac12", "1234.5"),
        (r"12\frac{1}{2}\%", "12.5%"),
        (r"3\frac{1}{4}\text{ million}", "3250000"),
        (r"\frac12", "0.5"),
        (r"\frac{1}{2}\%", "0.5%"),
        (r"-\frac{1}{2}", "-0.5"),
        (r"\frac{-1}{2}", "-0.5"),
        (r"\frac{1}{-2}", "-0.5"),
        (r"\nicefrac{3}{4}", "0.75"),
        (r"\frac{12.5}{2}", "6.25"),
        (r"\frac{1,000}{4}", "250"),
        (r"10\,000", "10000"),
        (r"\mathrm{12}\;\%", "12%"),
        (r"\frac{3\sqrt{3}}{2}", None),
        (r"2\sqrt{3}", None),
        (r"\frac{\pi}{2}", None),
        (r"\frac{3 \times 4}{2}", None),
        ("2½", "2.5"),
        ("2 ½", "2.5"),
        ("-½", "-0.5"),
        ("3⅝", "3.625"),
        ("2³⁄₄", "2.75"),
        ("1,234½", "1234.5"),
        ("2 1/2", "2.5"),
        ("2 and 1/2", "2.5"),
        ("2 and a half", "2.5"),
        ("2 and three quarters", "2.75"),
    ],
)
def test_fractions_and_mixed_numbers(written: str, answer: str | None) -> None:
    assert task.gold(written, ROW) == answer
    ways = ["{}", "Answer: {}", "The answer is ${}$.", "x = {}", "\\[ x = {} \\]"]
    ways += ["$\\boxed{{{}}}$"] if "\\" in written else []
    for way in ways:
        assert task.parse(way.format(written), ROW) == answer, way


@given(st.integers(0, 5000), st.integers(1, 9), st.integers(1, 9), st.sampled_from(["", "-"]))
def test_a_mixed_number_is_never_read_as_another(whole: int, over: int, under: int, sign: str) -> None:
    right = (whole + over / under) * (-1 if sign else 1)
    for fraction in (f"\\frac{{{over}}}{{{under}}}", f"\\tfrac{over}{under}", f" \\dfrac {over}{{{under}}}"):
        for text in (
            f"{sign}{whole}{fraction}",
            f"Answer: ${sign}{whole}{fraction}$",
            f"\\boxed{{{sign}{whole}{fraction}}}",
        ):
            assert float(task.parse(text, ROW) or "nan") == pytest.approx(right), text
            assert float(task.gold(text, ROW) or "nan") == pytest.approx(right), text


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Answer: x = 5 (since 2x = 10)", "5"),
        ("Answer: x = 5 [as 2x = 10]", "5"),
        ("Answer: x = 5, because 2x = 10", "5"),
        ("Answer: 5. Check: 2 * 5 = 10", "5"),
        ("Answer: 6 (= 2 * 3)", "6"),
        ("Answer: 4 if x = 2", "4"),
        ("Answer: since 2x = 10, x = 5", "5"),
        ("Answer: 2 + 3 (apples) = 5", "5"),
        ("Answer: approx. 5", "5"),
    ],
)
def test_a_reason_behind_a_stated_answer_is_not_read(response: str, answer: str) -> None:
    assert task.parse(response, ROW) == answer


# What is scored is the pair of a gold cell and a response; None where the cell is no gold answer.
@pytest.mark.parametrize(
    ("cell", "response", "score"),
    [
        ("42", "Answer: 42", 1),
        ("42", "Answer: 42.0", 1),
        ("42", "Answer: 43", 0),
        ("100", "Answer: 101", 1),
        ("100", "Answer: 99", 1),
        ("100", "Answer: 101.1", 0),
        ("100", "Answer: 98.9", 0),
        ("-100", "Answer: (100)", 1),
        ("100", "Answer: -100", 0),
        ("0", "Answer: 0", 1),
        ("0", "Answer: 0.0001", 0),
        ("0", "Answer: 0%", 1),
        ("0.0001", "Answer: 0", 0),
        ("0.1414", "Answer: 14.1%", 1),  # ConvFinQA: the model says percent
        ("0.1414", "Answer: 14.1 percent", 1),
        ("14.1", "Answer: 14.1%", 1),  # GSM8K: the gold answer leaves it away
        ("14.1%", "Answer: 0.1414", 1),
        ("14.1%", "Answer: 14.1", 1),
        ("14.1%", "Answer: 14.1%", 1),
        ("0.141", "Answer: 14.1", 0),  # without a sign a number is what it says
        ("12%", "Answer: 0.12%", 0),
        ("1,234", "Answer: $1234", 1),
        ("$1.2 million", "Answer: 1,200,000", 1),
        ("1.2", "Answer: 1.2 million", 0),
        ("(1,234)", "Answer: -1,234", 1),
        ("5 apples", "5", 1),
        ("He buys 2 and 3.\n#### 5", "The sum is 5.", 1),
        ("1e300", "Answer: 1e300", 1),
        ("1e300", "Answer: 1e-300", 0),
        ("0.333", "Answer: 1/3", 1),
        ("42", "", 0),
        ("42", "I am not sure", 0),
        ("٤٢", "42", 1),
        ("5 to 10", "5", None),
        ("1.2.3", "1.2", None),
        ("24/7/2009", "24", None),
        ("yes", "yes", None),
        ("", "", None),
        ("nan", "nan", None),
        ("1e999", "1e999", None),
    ],
)
def test_score(cell: str, response: str, score: float | None) -> None:
    gold = task.gold(cell, ROW)
    assert (gold is None) == (score is None)
    if gold is not None:
        answer = task.parse(response, ROW)
        assert (answer is not None and task.score(answer, gold)) == score


@pytest.mark.parametrize(
    ("cell", "answer"),
    [
        ("1 234,56", "1234.56"),
        ("1\u202f234,5 €", "1234.5"),
        ("12 345", "12345"),
        ("1 000 000", "1000000"),
        ("-1 000", "-1000"),
        ("- 5", "-5"),
        ("\u2014 5", "-5"),
        ("1,200.50-", "-1200.5"),  # as SAP exports them
        ("3 Mio. €", "3000000"),
        ("1.2 Mrd. EUR", "1200000000"),
        ("$3 Million", "3000000"),
        ("10^3", "1000"),
        ("10^{-2}", "0.01"),
        ("2 x 10^3", "2000"),
        ("<answer>42</answer>", "42"),
        ("√2", None),
        ("3 - 5", None),
        ("12 34", None),
        ("1 2345", None),
        ("5 1/2", "5.5"),
    ],
)
def test_cells_as_people_and_programs_write_them(cell: str, answer: str | None) -> None:
    assert task.gold(cell, ROW) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("答案是42。", "42"),
        ("所以一共有42个苹果", "42"),
        ("答えは42です", "42"),
        ("정답은 42입니다", "42"),
        ("الجواب: ٤٢", "42"),
        ("La respuesta correcta es 42, porque 40 + 2 = 42", "42"),
        ("<think>40 + 3?</think>\n<answer>42</answer>", "42"),
        ("The answer is 42.\n\nQuestion: What is 3 + 4?\nAnswer: 7", "42"),
        ("#### 42\n\nQ: What is 3 + 4?\nA: 3 + 4 = 7\n#### 7", "42"),
        ("Question: What is 40 + 2?\nAnswer: 42", "42"),
        ("First, a question: what is 40 + 2?\nThe answer would be 42", "42"),
        ("Answer: 10^3", "1000"),
        ("abc42", None),
    ],
)
def test_responses_in_other_languages_and_formats(response: str, answer: str | None) -> None:
    assert task.parse(response, ROW) == answer


def test_same_is_within_the_tolerance_of_the_larger() -> None:
    assert task.same("100", "101")
    assert not task.same("100", "102")
    assert not task.same("0", "1E-20")
    assert task.same("12%", "0.12")
    assert task.same("12%", "12")
    assert not task.same("12", "0.12")
    exact = Numeric(tolerance=0)
    assert exact.same("100", "100.0")
    assert not exact.same("100", "100.0001")


def test_no_options_no_choices_no_transfer() -> None:
    assert not task.closed and not task.needs
    assert task.problem(ROW) is None
    assert task.choices(ROW) is None
    assert task.transfer("5", ROW, ROW) is None
    assert task.in_words("5%", ROW) == "5%"


def test_options_that_are_there_are_part_of_the_question() -> None:
    asked = task.ask(Row("How many?", ["5", "7"], "A report.", None))
    assert asked == "A report.\n\nHow many?\n\n- 5\n- 7"
    assert task.instruct(ROW).startswith("Answer with a number")


@given(ROWS, ROWS, TEXTS, TEXTS)
def test_any_text(one: Row, other: Row, text: str, second: str) -> None:
    check(task, one, other, text, second)


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**15), max_value=10**15), st.booleans()
)
def test_any_number_is_read_as_it_is_written(number: object, percent: bool) -> None:
    written = f"{number:,f}" + ("%" if percent else "")
    answer = task.gold(written, ROW)
    assert answer is not None
    assert answer == task.parse(f"Answer: {written}", ROW) == task.parse(task.respond(answer), ROW)
    assert float(answer.removesuffix("%")) == float(str(number))
