import pytest
from hypothesis import given

from semievol.tasks import Row
from semievol.tasks.chat import Chat
from semievol.tasks.open_ended import OpenEnded
from tests.support.task_contract import ROWS, TEXTS, check

task = OpenEnded(similarity=0.9)
ROW = Row("Why is the sky blue?", [], None, None)

# Nothing is extracted: whatever looks like an answer inside a response stays where it is.
_WHOLE = [
    "Because of scattering.",
    "Answer: B",
    "B.",
    "#### 42",
    "\\boxed{42}",
    "42",
    "1,234",
    "12%",
    "I cannot answer this question.",
    "I don't know",
    "**bold**",
    '"quoted"',
    "`code`",
    "two\nlines",
    "two\n\nparagraphs",
    "a\tb",
    "- a\n- list",
    "1. one\n2. two",
    "{}",
    '{"a": 1}',
    "[1, 2]",
    "答案是散射",
    "Почему? Потому.",
    "العربية",
    "emoji 🙂",
    "?",
    "...",
    "The End.",
    "null",
    "None",
    "A and C",
    "Answer:",
]


@pytest.mark.parametrize("response", _WHOLE)
def test_the_response_is_the_answer(response: str) -> None:
    assert task.parse(response, ROW) == response
    assert task.parse(f" \n{response}\n\n", ROW) == response
    assert task.gold(f"{response}\n", ROW) == response
    assert task.respond(response) == response


def test_white_space_is_no_answer() -> None:
    assert task.parse("", ROW) is None
    assert task.parse(" \n\t\u00a0", ROW) is None
    assert task.gold("  ", ROW) is None


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        ("the cat sat", "the cat sat", 1),
        ("The cat sat.", "the cat sat", 1),
        ("THE CAT SAT!", "the cat sat", 1),
        ("the  cat\nsat", "the cat sat", 1),
        ("the cat", "the cat sat on", 2 / 3),  # precision 1, recall 1/2
        ("the cat sat on", "the cat", 2 / 3),
        ("sat cat the", "the cat sat", 1 / 3),  # order counts
        ("cat the sat", "the cat sat", 2 / 3),
        ("the dog sat", "the cat sat", 2 / 3),
        ("a b c d", "a x c y", 1 / 2),
        ("a b c d", "e f g h", 0),
        ("a", "a b c", 1 / 2),
        ("a a a", "a", 1 / 2),
        ("well-known", "well known", 1),
        ("don't", "don t", 1),
        ("snake_case", "snake case", 1),
        ("1,000", "1 000", 1),
        ("3.5", "35", 0),
        ("cats", "cat", 0),  # no stemming
        ("café", "café", 1),
        ("café", "cafe", 0),
        ("Привет мир", "привет, мир!", 1),
        ("Привет мир", "привет", 2 / 3),
        ("天空是蓝的", "天空是蓝的。", 1),
        ("天空是蓝的", "天空是红的", 4 / 5),  # every sign is a word
        ("GPT是模型", "gpt 是 模型", 1),
        ("?!", "?!", 1),
        ("?!", "...", 0),
        ("?!", "a", 0),
        ("🙂", "🙂", 1),
        ("", "a", 0),
        ("", "", 1),
    ],
)
def test_score_is_rouge_l(answer: str, gold: str, score: float) -> None:
    assert task.score(answer, gold) == pytest.approx(score)
    assert task.score(gold, answer) == pytest.approx(score)


def test_same_is_the_fallback_and_similarity_the_rule() -> None:
    assert isinstance(task, OpenEnded)
    assert task.similarity == 0.9
    assert task.same("The sky is blue because light scatters.", "the sky is blue because light scatters")
    assert not task.same("The sky is blue because light scatters.", "Nobody knows.")


def test_no_options_no_choices_no_transfer() -> None:
    assert not task.closed and not task.needs
    assert task.choices(ROW) is None
    assert task.transfer("x", ROW, ROW) is None
    assert task.in_words("x", ROW) == "x"
    assert task.ask(Row("Why?", ["a", "b"], "A text.", None)) == ("A text.\n\nWhy?\n\n- a\n- b")


@given(ROWS, ROWS, TEXTS, TEXTS)
def test_any_text(one: Row, other: Row, text: str, second: str) -> None:
    check(task, one, other, text, second)


@pytest.mark.parametrize("task", [OpenEnded(), Chat()])
def test_a_dialogue_that_people_wrote_is_not_cut(task: OpenEnded) -> None:
    scene = "A scene:\n\nUser:\nHello?\n\nAssistant:\nHi.\n\nThe end."
    assert task.gold(scene, ROW) == scene and task.parse(scene, ROW) == "A scene:"
    assert task.gold(f"<think>Hm.</think>\n{scene}<|im_end|>\n", ROW) == scene
    assert task.gold("<think>Hm.", ROW) is None and task.gold("<|im_end|>", ROW) is None
