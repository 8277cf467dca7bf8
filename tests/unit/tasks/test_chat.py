import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from semievol import config
from semievol.config import PromptConfig
from semievol.errors import UserError
from semievol.method.prompts import Prompts, shorter
from semievol.retrieval.embedding import text_of
from semievol.tasks import KINDS, Row
from semievol.tasks.chat import Chat
from semievol.tasks.multiple_choice import MultipleChoice
from semievol.tasks.open_ended import OpenEnded
from tests.support.task_contract import ROWS, TEXTS, check

task = Chat(similarity=0.9)
SYSTEM = {"role": "system", "content": "You are a clerk."}
EARLIER = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"}]
ROW = Row("And now?", [], None, "Go\nhome.", history=[SYSTEM, *EARLIER])


@settings(max_examples=15)  # the methods are those of open_ended
@given(ROWS, ROWS, TEXTS, TEXTS)
def test_any_text(one: Row, other: Row, text: str, second: str) -> None:
    check(task, one, other, text, second)


def test_it_is_found_by_its_name_and_compares_like_open_ended() -> None:
    assert KINDS["chat"] is Chat and KINDS["open_ended"] is OpenEnded
    assert task.conversational and not OpenEnded().conversational and not task.closed and not task.needs
    assert task.cosine == 0.9 and task.score("the cat sat", "the cat") == OpenEnded().score("the cat sat", "the cat")
    assert task.parse(" Answer: B\n\nas said. ", ROW) == "Answer: B\n\nas said."  # nothing is extracted


def test_the_settings() -> None:
    assert not Chat().all_turns and Chat(loss="all").all_turns and not OpenEnded().all_turns
    with pytest.raises(ValidationError, match="'last' or 'all'"):
        Chat(loss="first")
    minimal = "{name: x, model: {base: m}, data: {labeled: l, unlabeled: u, test: t}, task: {kind: chat, loss: all}}"
    loaded = config.loads(minimal, [], "c.yaml")
    assert loaded.task == Chat(loss="all") and loaded.data.columns.messages == "messages"
    assert config.loads(minimal, ["data.columns.messages=null"], "c.yaml").data.columns.messages is None
    with pytest.raises(UserError, match=r"label\.mode: score needs answers from a closed set, which task\.kind: chat"):
        config.loads(minimal, ["label.mode=score"], "c.yaml")


def test_a_template_must_not_show_the_answer() -> None:
    minimal = "{name: x, model: {base: m}, data: {labeled: l, unlabeled: u, test: t}, task: {kind: chat}}"
    for override in ("data.columns.answer=about", "data.columns.oracle=about", "data.columns.messages=about"):
        with pytest.raises(
            UserError, match=r"prompt\.template: must not show the column 'about', which holds the answer"
        ):
            config.loads(minimal, [override, "prompt.template='{{ about }}'"], "c.yaml")
    config.loads(minimal, ["task.kind=open_ended", "prompt.template='{{ messages }}'"], "c.yaml")


def test_the_prompt_is_the_chat_and_nothing_is_added() -> None:
    prompts = Prompts(task)
    assert prompts.messages(ROW) == [SYSTEM, *EARLIER, {"role": "user", "content": "And now?"}]
    assert prompts.completion("Go\nhome.") == [{"role": "assistant", "content": "Go\nhome."}]
    own = Prompts(task, PromptConfig(system="Be kind.", instruction="In French."))
    assert own.messages(ROW)[0]["content"] == "Be kind.\n\nYou are a clerk."
    assert own.messages(ROW)[-1]["content"] == "And now?\n\nIn French."


def test_solved_examples_are_dialogues() -> None:
    [system, *_, last] = Prompts(task).messages(Row("Hi?", [], None, None), examples=[ROW])
    shown = "user: Hello.\nassistant: Hello!\nuser: And now?\nassistant: Go\nhome."
    assert system["content"] == f"Here are solved examples.\n\n{shown}" and last["content"] == "Hi?"


def test_self_justification_asks_for_the_reply_alone() -> None:
    *before, last = Prompts(task).justification(ROW, ["Go.", "Stay."])
    assert before == [SYSTEM, *EARLIER]
    assert last["content"].startswith("These answers were proposed:\n- Go.\n- Stay.\nWrite the best reply")
    assert last["content"].endswith("\n\nAnd now?")
    other = Prompts(MultipleChoice()).justification(Row("q", ["x", "y"], None, None), ["A", "B"])
    assert "Decide which one is right." in other[0]["content"]


def test_a_long_chat_loses_its_oldest_turns_and_keeps_its_order() -> None:
    long = Row("c", [], None, None, history=[SYSTEM, *EARLIER, *EARLIER])
    roles = [[turn["role"] for turn in row.history] for row, _ in shorter(long, [])]
    assert roles[:3] == [["system", *["user", "assistant"] * n] for n in (2, 1, 0)]


def test_what_is_embedded_begins_with_what_was_said_last() -> None:
    assert text_of(ROW) == "And now?\nHello!\nHello."
    assert text_of(Row("q", ["x"], "passage", None)) == "q\npassage" and text_of(Row("q", [], None, None)) == "q"
