import itertools
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from semievol.config import PromptConfig
from semievol.method.prompts import Prompts
from semievol.tasks import Row
from semievol.tasks.classification import Classification
from tests.support.task_contract import ROWS, TEXTS, check

ROW = Row("Where is my card?", [], None, None)
MOODS = Classification(labels=["positive", "negative", "neutral"])
BANKING = Classification(
    labels=["card_arrival", "card_delivery_estimate", "arrival", "Refund not showing up", "top up", "top up failed"]
)
SCRIPTS = Classification(
    labels=["体育", "政治新闻", "ärger", "спорт", "الرياضة", "C++", "C#", "C", "0", "12", "yes", "no"]
)
TOPICS = Classification(labels={"sport": "games", "politics": "", "arts": "music and more"}, multiple=True)


def learned(*names: str, **settings: Any) -> Classification:
    return Classification(**settings).learned({name: len(names) - i for i, name in enumerate(names)})


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("positive", "positive"),
        ("Positive", "positive"),
        (" POSITIVE.\n", "positive"),
        ("**positive**", "positive"),
        ('"positive"', "positive"),
        ("“Positive”", "positive"),
        ("[positive]", "positive"),
        ("- positive", "positive"),
        ("Answer: positive", "positive"),
        ("The answer is positive.", "positive"),
        ("The label is positive", "positive"),
        ("Label: Positive", "positive"),
        ("Sentiment: positive\nIt speaks of joy and not of grief.", "positive"),
        ('{"label": "positive"}', "positive"),
        ("<label>positive</label>", "positive"),
        ("\\boxed{\\text{positive}}", "positive"),
        ("#### positive", "positive"),
        ("I would classify this text as positive.", "positive"),
        ("This is a positive review.", "positive"),
        ("The sentiment of this review is clearly positive", "positive"),
        ("positive\n\nThe text is not negative.", "positive"),
        ("The writer is happy.\n\nPositive", "positive"),
        ("Answer: negative\nNo, wait. Answer: positive", "positive"),
        ("标签：positive", "positive"),
        ("Antwort: positive", "positive"),
        ("positive or negative", None),
        ("positive, negative", None),
        ("positive\nnegative\nneutral", None),
        ("- positive\n- negative", None),
        ("It is not positive.", None),
        ("The review isn't positive", None),
        ("Is it positive?", None),
        ("neither positive nor negative", None),
        ("I cannot say whether it is positive", None),
        ("positively", None),
        ("posit", None),
        ("0", None),
        ("", None),
        ("  \n ", None),
        ("happy", None),
        ("Answer:", None),
        ("Answer: positive or neutral", None),
    ],
)
def test_one_label_is_read_from_any_response(response: str, answer: str | None) -> None:
    assert MOODS.parse(response, ROW) == answer


@pytest.mark.parametrize(
    ("task", "response", "answer"),
    [
        (BANKING, "card arrival", "card_arrival"),
        (BANKING, "Card Arrival.", "card_arrival"),
        (BANKING, "It asks about card_arrival", "card_arrival"),
        (BANKING, "It asks about an arrival", "arrival"),
        (BANKING, "refund not showing up", "Refund not showing up"),
        (BANKING, "The intent is: refund not showing up", "Refund not showing up"),
        (BANKING, "This is about top up failed", "top up failed"),
        (BANKING, "This is about a top-up", "top up"),
        (BANKING, "top up failed, or top up", None),
        (SCRIPTS, "这是体育新闻", "体育"),
        (SCRIPTS, "答案：政治新闻", "政治新闻"),
        (SCRIPTS, "不是体育", None),
        (SCRIPTS, "ÄRGER", "ärger"),
        (SCRIPTS, "Ответ: Спорт", "спорт"),
        (SCRIPTS, "الرياضة", "الرياضة"),
        (SCRIPTS, "C++", "C++"),
        (SCRIPTS, "Answer: c#", "C#"),
        (SCRIPTS, "c", "C"),
        (SCRIPTS, "I like C++ a lot", None),  # only punctuation tells it from C
        (SCRIPTS, "0", "0"),
        (SCRIPTS, "Answer: 12", "12"),
        (SCRIPTS, "of 12 people", None),
        (SCRIPTS, "Yes.", "yes"),
        (SCRIPTS, "Yes or no", None),
    ],
)
def test_labels_of_any_length_and_script(task: Classification, response: str, answer: str | None) -> None:
    assert task.parse(response, ROW) == answer


@pytest.mark.parametrize("task", [MOODS, BANKING, SCRIPTS, learned("a", "B b", "ß", "İ")])
def test_each_label_is_its_own_response(task: Classification) -> None:
    choices = task.choices(ROW)
    assert choices
    for label in choices:
        assert task.respond(label) == label == task.gold(label, ROW) == task.parse(label, ROW)
        assert task.parse(f"Answer: {label}", ROW) == task.parse(f"{label}.", ROW) == label
    for a, b in itertools.combinations(choices, 2):
        assert not task.same(a, b) and task.parse(f"{a}\n{b}", ROW) is None


def test_cells_match_in_any_case_and_white_space_and_never_by_place() -> None:
    assert MOODS.gold("  Positive ", ROW) == "positive"
    assert BANKING.gold("refund  not\tshowing up", ROW) == "Refund not showing up"
    assert MOODS.gold("0", ROW) is MOODS.gold("1", ROW) is MOODS.gold("positiv", ROW) is None
    assert "the nearest is 'positive'" in MOODS.refusal("positiv", ROW)
    assert "one of the labels 'positive', 'negative', 'neutral'" in MOODS.refusal("x", ROW)
    many = learned(*(f"label {i}" for i in range(1000)))
    assert "(1,000 in task.labels)" in many.expects(ROW) and len(many.refusal("lable 77", ROW)) < 200
    assert "'label 77'" in many.refusal("lable 77", ROW)
    assert "task.multiple" in MOODS.refusal('["positive"]', ROW)
    assert Classification().gold(" Any text ", ROW) == "Any text" and Classification().gold(" ", ROW) is None


def test_whole_numbers_match_as_other_programs_write_them() -> None:
    row = Row("q", [], None, None)
    for labels in (["0", "1", "2.5"], ["0.0", "1.0", "2.5"]):
        task = Classification(labels=labels)
        assert [task.gold(cell, row) for cell in ("0", "0.0", "1.00", "2.5", "2", "0.5")] == [
            *(labels[0], labels[0], labels[1], "2.5"),
            *(None, None),
        ]
        assert task.parse("1.0", row) == task.parse("1", row) == labels[1]
    learned = Classification().learned({"1.0": 5, "1": 3, "2": 4})
    assert learned.labels == ["1.0", "2"] and learned.gold("2.0", row) == "2"


def test_labels_that_are_found_in_the_labeled_rows() -> None:
    counts = {"Positive": 2, "positive ": 1, "negative": 7, "positive": 5}
    found = Classification().learned(counts)
    assert found.labels == ["negative", "positive"]  # the most frequent spelling
    assert found.respond("Positive") == "positive" and found.same("Positive", "positive")
    assert found.transfer("Positive", ROW, ROW) == "positive" and found.transfer("new", ROW, ROW) is None
    assert Classification().learned({}).labels is None and Classification().choices(ROW) is None
    used = Classification(multiple=True)
    assert used.gold("b; a", ROW) == '["a", "b"]' and used.parse("b", ROW) == '["b"]'
    assert used.learned({"b": 1, "a": 1}).gold("B;a", ROW) == '["a", "b"]'
    assert used.learned({"b": 1, "a": 1}).parse("I think it is a.", ROW) is None  # one letter, inside of a sentence
    assert used.learned({"bb": 1, "aa": 1}).parse("I think it is aa.", ROW) == '["aa"]'
    assert MOODS.learned(counts) is MOODS and not MOODS.learns and Classification().learns
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301


def test_what_prompts_list() -> None:
    assert MOODS.listing(ROW).endswith("Labels:\n- positive\n- negative\n- neutral")
    described = Classification(labels={"spam": "nobody asked for it", "ham": ""})
    assert described.listing(ROW).endswith("- spam: nobody asked for it\n- ham")
    assert described.ask(Row("Which?", [], "A mail.", None)) == "A mail.\n\nWhich?"
    assert described.ignores == ("options",)
    names = [f"a label with a longer name {i}" for i in range(200)]
    large = learned(*names)
    assert large.instruct(ROW) == "Answer with the label alone."
    assert large.choices(ROW) and len(large.choices(ROW) or ()) == 200
    assert learned(*names, show="all").listing(ROW).count("\n- ") == 200
    assert learned(*names, show_tokens=10_000).listing(ROW).count("\n- ") == 200
    assert Classification(labels=["x", "y"], show="none").instruct(ROW) == "Answer with the label alone."
    likeliest = learned(*names, show="likeliest", show_tokens=32)
    assert likeliest.lists_candidates and not large.lists_candidates
    shortlist = likeliest.shortlist([names[7], "unheard of", names[7], *names])
    assert shortlist == [names[7], *names[:3]]  # 32 tokens are about 128 bytes
    shown = Row("Which?", [], None, None, candidates=shortlist)
    assert likeliest.listing(shown).count("\n- ") == 4 and likeliest.listed(shown) == shortlist
    assert likeliest.instruct(ROW) == "Answer with the label alone."
    assert MOODS.instruct(ROW) == "Answer with one of these labels alone."
    assert learned(*names).longest > len(names[-1]) // 2 and Classification().longest == 0
    own = Prompts(MOODS, PromptConfig(instruction="How does it sound?")).messages(ROW)[-1]["content"]
    assert own.endswith("How does it sound?\nLabels:\n- positive\n- negative\n- neutral")
    assert learned("x" * 500, "y", show="likeliest", show_tokens=1).shortlist(["x" * 500, "y"]) == ["x" * 500]


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (["a"], "at least two"),
        (["a", " "], "empty"),
        (["Spam", "spam "], "'Spam' and 'spam ' differ in case and white space at most"),
        ([True, False], "put quotes around yes, no"),
        ({True: "", "maybe": ""}, "put quotes around yes, no"),
    ],
)
def test_label_sets_that_cannot_be(labels: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Classification(labels=labels)


def test_label_sets_with_numbers_are_text() -> None:
    assert Classification(labels=[1, 2, "three"]).labels == ["1", "2", "three"]  # type: ignore[list-item]
    assert Classification(labels={0: "bad", 1: "good"}).choices(ROW) == ["0", "1"]  # type: ignore[dict-item]
    with pytest.raises(ValidationError, match="holds the separator"):
        Classification(labels=["a;b", "c"], multiple=True)


@pytest.mark.parametrize(
    ("cell", "answer"),
    [
        ("sport", ["sport"]),
        ("Politics; sport", ["sport", "politics"]),
        ('["politics", "Sport"]', ["sport", "politics"]),
        ("sport;sport; ;", ["sport"]),
        ("[]", []),
        ("sport; chess", None),
        ("sport, politics", None),  # another separator than task.separator
        ("", None),
        (";", None),
        ("[1, 2]", None),
        ('[["sport"]]', None),
    ],
)
def test_cells_with_several_labels(cell: str, answer: list[str] | None) -> None:
    gold = TOPICS.gold(cell, ROW)
    assert (None if gold is None else json.loads(gold)) == answer
    if gold is not None:
        assert TOPICS.parts(gold) == answer and TOPICS.parse(TOPICS.respond(gold), ROW) == gold
        assert TOPICS.in_words(gold, ROW) == (", ".join(answer or ()) or "none")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("sport; politics", ["sport", "politics"]),
        ("politics, sport", ["sport", "politics"]),
        ("Politics and sport.", ["sport", "politics"]),
        ("- sport\n- arts", ["sport", "arts"]),
        ('["sport"]', ["sport"]),
        ("Answer: sport; arts", ["sport", "arts"]),
        ("The labels are sport and politics", ["sport", "politics"]),
        ("It speaks of sport and politics.", ["sport", "politics"]),
        ("none", []),
        ("None.", []),
        ("Answer: none", []),
        ("It is about sport but not politics", None),
        ("weather", None),
        ("", None),
    ],
)
def test_several_labels_are_read_from_any_response(response: str, answer: list[str] | None) -> None:
    parsed = TOPICS.parse(response, ROW)
    assert (None if parsed is None else json.loads(parsed)) == answer


def test_sets_of_labels_are_equal_whatever_their_order() -> None:
    assert TOPICS.sets and not TOPICS.closed and not TOPICS.scored and TOPICS.choices(ROW) is None
    assert TOPICS.same('["arts", "Sport"]', '["sport", "arts"]') and not TOPICS.same('["arts"]', "[]")
    assert TOPICS.joined(["arts", "sport"]) == '["sport", "arts"]' and TOPICS.joined([]) == "[]"
    assert '"chess"' not in TOPICS.refusal("sport; chess", ROW) and "'chess' is not a label" in TOPICS.refusal(
        "sport; chess", ROW
    )
    assert TOPICS.instruct(ROW).startswith('Answer with all labels that fit, separated by ";", or with "none".')
    odd = learned("none", "some", multiple=True)
    assert odd.respond("[]") == "no label" and odd.parse("no label", ROW) == "[]" != odd.parse("none", ROW)


@given(ROWS, ROWS, TEXTS, TEXTS, st.sampled_from([MOODS, BANKING, SCRIPTS, TOPICS, Classification()]))
def test_any_text(one: Row, other: Row, text: str, second: str, task: Classification) -> None:
    check(task, one, other, text, second)


@given(st.sets(TEXTS.filter(str.strip), min_size=2, max_size=8), ROWS, ROWS, TEXTS)
def test_any_labels(names: set[str], one: Row, other: Row, text: str) -> None:
    task = learned(*sorted(names))
    for label in task.labels or ():
        assert task.gold(label, one) == label == task.parse(task.respond(label), one)
    if len(task.labels or ()) > 1:
        check(task, one, other, text, next(iter(names)))


def test_a_label_that_holds_the_separator_is_refused_and_not_torn() -> None:
    for task in (Classification(multiple=True), learned("a", "b", multiple=True), TOPICS):
        assert task.gold('["a; b", "c"]', ROW) is None
        assert task.refusal('["a; b", "c"]', ROW).startswith("'a; b' holds the separator ';'; set task.separator")
    bars = Classification(multiple=True, separator="|")
    assert bars.gold('["a; b", "c"]', ROW) == '["a; b", "c"]' == bars.gold("c | a; b", ROW)
    assert bars.parts('["a; b", "c"]') == ["a; b", "c"] and bars.respond('["a; b", "c"]') == "a; b| c"
