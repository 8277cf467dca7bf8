import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.tasks import Row
from semievol.tasks.free_text import FreeText
from tests.support.task_contract import ROWS, TEXTS, check

task = FreeText()
ROW = Row("Who?", [], None, None)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Answer: Tom Brady", "Tom Brady"),
        ("answer: tom brady", "tom brady"),
        ("Answer:   Tom   Brady  ", "Tom Brady"),
        ("Answer: Tom Brady.", "Tom Brady"),
        ("Answer: **Tom Brady**", "Tom Brady"),
        ("**Answer:** Tom Brady", "Tom Brady"),
        ('Answer: "Tom Brady"', "Tom Brady"),
        ("Answer: “Tom Brady”.", "Tom Brady"),
        ("Answer: 'Hamlet'", "Hamlet"),
        ("Answer: U.S.", "U.S."),
        ("Answer: 5.2", "5.2"),
        ("Answer: the players'", "the players'"),
        ("Answer:\nParis", "Paris"),
        ("Answer: Paris\nIt lies on the Seine.", "Paris"),
        ("Answer: Lyon\nNo: \nAnswer: Paris", "Paris"),
        ("The answer is Paris", "Paris"),
        ("So the final answer is: 5 yards.", "5 yards"),
        ("Final answer: 5 yards", "5 yards"),
        ("Answer: The Answer: a poem", "The Answer: a poem"),
        ("Answer: the answer is blowing in the wind", "the answer is blowing in the wind"),
        ("Paris", "Paris"),
        ("Paris.", "Paris"),
        ("The Seine runs through it.\n\nParis.", "Paris"),
        ("\\boxed{\\text{Paris}}", "Paris"),
        ("#### 42", "42"),
        ("答案：巴黎", "巴黎"),
        ("答案是巴黎", "巴黎"),
        ("La réponse est Paris.", "Paris"),
        ("Die Antwort ist Paris.", "Paris"),
        ("<answer>Paris</answer>", "Paris"),
        ("```\nParis\n```", "Paris"),
        ('```json\n{"answer": "Paris"}\n```', "Paris"),
        ("Answer: Paris\n\nQuestion: And of Italy?\nAnswer: Rome", "Paris"),
        ("Antwort: München", "München"),
        ("Ответ: Москва", "Москва"),
        ('["Paris", "Lyon"]', "Paris, Lyon"),
        ("Answer: [1, 2]", "1, 2"),
        ("I don't know.", None),
        ("Answer: I cannot answer this question.", None),
        ("I’m sorry, but the passage does not say", None),
        ("It cannot be determined from the passage.", None),
        ("Answer: I Know Why the Caged Bird Sings", "I Know Why the Caged Bird Sings"),
        ("Answer:", None),
        ("Answer: **", None),
        ("", None),
        (" \n ", None),
        ("[]", None),
    ],
)
def test_parse(response: str, answer: str | None) -> None:
    assert task.parse(response, ROW) == answer
    if answer is not None:
        assert task.parse(task.respond(answer), ROW) == answer


# What is scored is the pair of a gold cell and a response; None where the cell is no gold answer.
@pytest.mark.parametrize(
    ("cell", "response", "score"),
    [
        ("Tom Brady", "Answer: Tom Brady", 1),
        ("Tom Brady", "Answer: tom brady", 1),
        ("Tom Brady", "Answer: quarterback Tom Brady of the Patriots", 1),
        ("Tom Brady", "Answer: Brady", 0),
        ("Brady", "Answer: Tom Brady", 1),
        ("Brady", "Answer: Bradymania", 0),  # whole words only
        ("Tom Brady", "Answer: Brady Tom", 0),
        ("the Patriots", "Answer: Patriots", 1),
        ("Patriots", "Answer: The Patriots", 1),
        ("The The", "Answer: The The", 1),
        ("The", "Answer: A", 0),
        ("U.S.", "Answer: US", 1),
        ("don't", "Answer: dont", 1),
        ("25-yard", "Answer: 25 yard", 1),
        ("25", "Answer: a 25-yard field goal", 1),
        ("1990-1995", "Answer: 1990–1995", 1),
        ("5", "Answer: 5.0", 1),
        ("1,000", "Answer: 1000", 1),
        ("$5", "Answer: 5", 1),
        ("5%", "Answer: 5 percent", 1),
        ("5 percent", "Answer: 5%", 1),
        ("5", "Answer: 15", 0),
        ("5", "Answer: 5.5", 0),
        ("-5", "Answer: \u22125", 1),
        ("-5", "Answer: 5", 0),
        ("12 October 1998", "Answer: 12 October, 1998", 1),
        ("München", "Answer: MÜNCHEN", 1),
        ("Straße", "Answer: STRASSE", 1),
        ("Cafe\u0301", "Answer: café", 1),
        ("巴黎", "答案：巴黎", 1),
        ("?!", "Answer: ?!", 1),
        ("+", "Answer: -", 0),
        ('["New York", "NYC"]', "Answer: NYC", 1),
        ('["New York", "NYC"]', "Answer: in New York", 1),
        ('["New York", "NYC"]', "Answer: York", 0),
        ("[3, 4]", "Answer: 4", 1),
        ('["NYC"]', "Answer: NYC", 1),
        ("Tom Brady", "I don't know", 0),
        ("Tom Brady", "", 0),
        ("", "", None),
        ("[]", "x", None),
        ('["", "  "]', "x", None),
        ("I don't know", "I don't know", None),
    ],
)
def test_score(cell: str, response: str, score: float | None) -> None:
    gold = task.gold(cell, ROW)
    assert (gold is None) == (score is None)
    if gold is not None:
        answer = task.parse(response, ROW)
        assert (answer is not None and task.score(answer, gold)) == score


def test_several_gold_answers() -> None:
    gold = task.gold('["New York", "NYC", "NYC"]', ROW)
    assert gold == '["New York", "NYC"]'
    assert task.respond(gold) == "Answer: New York"
    assert task.in_words(gold, ROW) == "New York / NYC"
    assert task.transfer(gold, ROW, ROW) == "New York"
    assert task.same(gold, "the NYC")
    assert task.same("n.y.c.", gold)
    assert not task.same(gold, "Boston")
    assert task.gold('[{"a": 1}]', ROW) == '[{"a": 1}]'  # no list of texts: a text like any other


def test_same_is_equality_and_not_containment() -> None:
    assert task.same("The U.S.", "us")
    assert not task.same("Tom Brady", "Brady")


def test_no_options_no_choices() -> None:
    assert not task.closed and not task.needs
    assert task.choices(ROW) is None
    assert task.ask(ROW) == "Who?" and task.instruct(ROW).startswith("Answer with")
    assert "- she\n- he" in task.ask(Row("Who?", ["she", "he"], None, None))


@given(ROWS, ROWS, TEXTS, TEXTS)
def test_any_text(one: Row, other: Row, text: str, second: str) -> None:
    check(task, one, other, text, second)


@given(st.lists(TEXTS, max_size=4), TEXTS)
def test_any_list_of_gold_answers(texts: list[str], text: str) -> None:
    gold = task.gold(json.dumps(texts, ensure_ascii=False), ROW)
    if gold is not None:
        assert task.gold(gold, ROW) == gold  # canonical
        check(task, ROW, ROW, gold, text)
