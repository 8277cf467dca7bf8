"""Chats as data sets, providers and programs write them."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config import Columns
from semievol.data import chats
from semievol.data.tables import BadRow, row_id, text_cleaner, to_record, to_row, validate
from semievol.errors import UserError
from semievol.tasks import Row
from semievol.tasks.chat import Chat

TASK = Chat()
CLEAN = text_cleaner(10_000)
SYSTEM = ("system", "Be brief.")
THREE = [("user", "Hi.\n\n  And: who are you?"), ("assistant", "A clerk."), ("user", "Where is my parcel?")]
ANSWER = "On its way."


def read(raw: dict, answered: bool = True, notes: list[str] | None = None, **columns: Any) -> Row:
    where = Columns(**columns)
    column = where.answer if answered else None
    return validate(raw, where, TASK, answer_column=column, max_bytes=10_000, notes=notes)


def said(row: Row) -> list[tuple[str, str]]:
    turns = [*((turn["role"], turn["content"]) for turn in row.history), ("user", row.question)]
    return [*turns, ("assistant", row.answer)] if row.answer is not None else turns


def messages(turns: list[tuple[str, str]], role: str = "role", content: str = "content", **names: str) -> list[dict]:
    return [{role: names.get(who, who), content: text} for who, text in turns]


TURNS = [*THREE, ("assistant", ANSWER)]
SHAREGPT = messages(TURNS, "from", "value", user="human", assistant="gpt")
OPENAI = messages([SYSTEM, *TURNS])
PAIRS = [[THREE[0][1], THREE[1][1]]]
TEXTS = [text for _, text in TURNS]
PROMPT, COMPLETION = messages(THREE), messages([("assistant", ANSWER)])
PARTS = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in TURNS]
SPOKEN = THREE[0][1].replace("\n\n  ", " ")  # in a transcript a blank line ends a turn
TRANSCRIPT = [("user", SPOKEN), *TURNS[1:]]
TRANSCRIPT_TEXT = "".join(f"\n\n{'Human' if r == 'user' else 'Assistant'}: {t}" for r, t in TRANSCRIPT)
SPARSE = {"name": None, "tool_calls": None, "weight": None, "function_call": None}

# Each holds `TURNS`; those with a system message begin with it.
LAYOUTS: dict[str, dict[str, Any]] = {
    "OpenAI's fine-tuning": {"messages": OPENAI},
    "OpenAI's, with weights": {"messages": [m | ({"weight": 0} if m["role"] == "assistant" else {}) for m in OPENAI]},
    "OpenAI's, developer": {"messages": [{"role": "developer", "content": SYSTEM[1]}, *OPENAI[1:]]},
    "OpenAI's, parts": {"messages": PARTS},
    "OpenAI's responses": {
        "input": [m | {"content": [{"type": "input_text", "text": m["content"]}]} for m in PROMPT],
        "output": [{"role": "assistant", "content": [{"type": "output_text", "text": ANSWER}]}],
    },
    "OpenAI's evals": {"input": messages([SYSTEM, *THREE]), "ideal": ANSWER},
    "of Parquet, sparse keys are null": {"messages": [m | SPARSE for m in OPENAI], "conversations": None, "id": 1},
    "zephyr: messages and their first prompt": {"prompt": THREE[0][1], "prompt_id": "9f", "messages": OPENAI},
    "capital roles": {"messages": messages(TURNS, user="User", assistant="ASSISTANT")},
    "Bedrock": {
        "schemaVersion": "bedrock-conversation-2024",
        "system": [{"text": SYSTEM[1]}],
        "messages": [{"role": role, "content": [{"text": text}]} for role, text in TURNS],
    },
    "Anthropic's messages": {"system": SYSTEM[1], "messages": messages(TURNS)},
    "Anthropic's texts": {
        "prompt": f"\n\nHuman: {SPOKEN}\n\nAssistant: {TEXTS[1]}\n\nHuman: {TEXTS[2]}\n\nAssistant:",
        "completion": f" {ANSWER}",
    },
    "Gemini": {
        "systemInstruction": {"role": "system", "parts": [{"text": SYSTEM[1]}]},
        "contents": [
            {"role": {"assistant": "model"}.get(role, role), "parts": [{"text": text}]} for role, text in TURNS
        ],
    },
    "PaLM": {"messages": messages(TURNS, "author", assistant="bot")},
    "ShareGPT": {"id": "a_1", "conversations": SHAREGPT},
    "ShareGPT with a system message": {"conversations": [{"from": "system", "value": SYSTEM[1]}, *SHAREGPT]},
    "LLaMA-Factory's ShareGPT": {"conversations": SHAREGPT, "system": SYSTEM[1], "tools": ""},
    "OpenHermes": {"conversations": [turn | {"weight": None} for turn in SHAREGPT], "system_prompt": None},
    "lmsys-chat-1m": {"conversation_id": "x", "model": "vicuna", "turn": 2, "conversation": messages(TURNS)},
    "WildChat": {"conversation": [m | {"language": "English", "toxic": False} for m in messages(TURNS)], "turn": 2},
    "OpenAssistant": {"messages": messages(TURNS, content="text", user="prompter")},
    "guanaco": {"text": "".join(f"### {'Human' if r == 'user' else 'Assistant'}: {t}" for r, t in TURNS)},
    "hh-rlhf": {"chosen": TRANSCRIPT_TEXT, "rejected": ""},
    "a transcript of lines": {"text": "\n".join(f"{role.title()}: {text}" for role, text in TRANSCRIPT)},
    "ChatML": {"text": "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in [SYSTEM, *TURNS])},
    "Llama 3's template": {
        "text": "<|begin_of_text|>"
        + "".join(f"<|start_header_id|>{r}<|end_header_id|>\n\n{t}<|eot_id|>" for r, t in [SYSTEM, *TURNS])
    },
    "Gemma's template": {
        "text": "<bos>"
        + "".join(f"<start_of_turn>{'user' if r == 'user' else 'model'}\n{t}<end_of_turn>\n" for r, t in TURNS)
    },
    "Zephyr's template": {"text": "".join(f"<|{role}|>\n{text}</s>\n" for role, text in [SYSTEM, *TURNS])},
    "Phi's template": {"text": "".join(f"<|{role}|>\n{text}<|end|>\n" for role, text in TURNS) + "<|endoftext|>"},
    "Llama 2's template": {
        "text": "".join(f"<s>[INST] {a} [/INST] {b} </s>" for a, b in [TEXTS[:2], TEXTS[2:]]),
    },
    "chats in a column of one's own": {"log": TRANSCRIPT_TEXT, "prompt": "x", "messages": 3},
    "support tickets": {"turns": messages(TURNS, "speaker", "utterance", user="Customer", assistant="Agent")},
    "Cohere": {"messages": messages([SYSTEM, *TURNS], user="User", assistant="Chatbot", system="System")},
    "Langfuse": {"input": {"messages": PROMPT}, "output": COMPLETION[0]},
    "UltraChat": {"id": "0", "data": TEXTS},
    "LIMA": {"conversations": TEXTS, "source": "stackexchange"},
    "DailyDialog": {"dialog": TEXTS, "act": [0, 0], "emotion": [0, 0]},
    "Capybara": {"source": "x", "conversation": [{"input": a, "output": b} for a, b in [TEXTS[:2], TEXTS[2:]]]},
    "MOSS": {"conversation": [{"human": a, "assistant": b} for a, b in [TEXTS[:2], TEXTS[2:]]], "category": "x"},
    "lists of pairs": {"conversations": [TEXTS[:2], TEXTS[2:]]},
    "datasets' Sequence of objects": {"messages": {"role": [r for r, _ in TURNS], "content": TEXTS}},
    "LLaMA-Factory's Alpaca": {
        **{"instruction": TEXTS[2], "input": "", "output": ANSWER},
        **{"system": SYSTEM[1], "history": PAIRS},
    },
    "ms-swift": {"query": TEXTS[2], "response": ANSWER, "history": PAIRS},
    "TRL's prompt-completion": {"prompt": messages([SYSTEM, *THREE]), "completion": COMPLETION},
    "TRL's, the completion one message": {"prompt": PROMPT, "completion": COMPLETION[0]},
    "TRL's preferences": {"prompt": PROMPT, "chosen": COMPLETION, "rejected": messages([("assistant", "No.")])},
    "a log of prompts and an answer": {"messages": PROMPT, "response": ANSWER, "latency_ms": 7},
    "JSON text in CSV": {"messages": json.dumps(OPENAI, indent=1), "split": "train"},
    "JSON text of parts": {"prompt": json.dumps(PROMPT), "completion": json.dumps(COMPLETION)},
    "Python's text, of pandas": {"messages": str(OPENAI)},
    "NumPy's text, of pandas": {"conversations": "[" + "\n ".join(map(str, SHAREGPT)) + "]"},
    "lists of JSON texts, of databases": {"messages": [json.dumps(message) for message in OPENAI]},
    "an object around it": {"conversation": {"id": 7, "messages": messages(TURNS)}},
}
_TOLD = {"OpenAI's evals": {"answer": "ideal"}, "chats in a column of one's own": {"messages": "log"}}
_TOLD["an object around it"] = {"messages": "conversation"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_chat_of_three_turns_in_every_layout(name: str) -> None:
    raw, told = LAYOUTS[name], _TOLD.get(name, {})
    spoken = TRANSCRIPT if f"{SPOKEN}" in json.dumps(raw) else TURNS
    expected = [SYSTEM, *spoken] if SYSTEM[1] in json.dumps(raw) else spoken
    notes: list[str] = []
    assert said(read(raw, notes=notes, **told)) == expected and not notes
    unlabeled = read(raw, answered=False, **told)
    assert said(unlabeled) == expected[:-1]  # the method never sees the answer
    assert ANSWER not in json.dumps(to_record(unlabeled))
    chats.check("f", list(raw), Columns(**told), answered=True)
    wanted = {*chats.COLUMNS, *told.values()}  # of Parquet, no other columns are read
    assert read({name: value for name, value in raw.items() if name in wanted}, **told) == read(raw, **told)


@pytest.mark.parametrize(
    ("raw", "question", "answer"),
    [
        ({"instruction": "Add.", "input": "1 and 2", "output": "3"}, "Add.\n\n1 and 2", "3"),
        ({"instruction": "Add.", "input": "", "output": 3, "text": "Below is an instruction"}, "Add.", "3"),
        ({"instruction": "Sum up.", "context": "A tale.", "response": "Tale.", "category": "x"}, "Sum up.\n\nA tale.", "Tale."),
        ({"instruction": "", "input": "Hello.", "output": "Hi."}, "Hello.", "Hi."),
        ({"prompt": "a", "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a", "b"),
        ({"prompt": "Once ->", "completion": " upon END"}, "Once ->", "upon END"),
        ({"prompt": "Hello.", "response": "Hi."}, "Hello.", "Hi."),
        ({"question": "Why?", "answer": "So."}, "Why?", "So."),
        ({"input": "a", "output": "b"}, "a", "b"),
        ({"inputs": "a", "targets": "b"}, "a", "b"),
        ({"user": "a", "assistant": "b"}, "a", "b"),
        ({"query": "a", "response": "b", "data": "2024-01-01", "turns": 3, "history": ""}, "a", "b"),
        ({"prompt": "As JSON: Ada", "completion": '{"name": "Ada"}'}, "As JSON: Ada", '{"name": "Ada"}'),
        ({"prompt": "Mail?", "completion": '{"from": "Ada", "value": 3}'}, "Mail?", '{"from": "Ada", "value": 3}'),
        ({"prompt": '["a", "b"]', "completion": "[1, 2]"}, '["a", "b"]', "[1, 2]"),
        ({"prompt": '[{"x": 1}]', "completion": "[{'x': 1}]"}, '[{"x": 1}]', "[{'x': 1}]"),
        # Roles are not read from what people wrote.
        ({"prompt": "Human: a\n\nAssistant: b", "completion": "c"}, "Human: a\n\nAssistant: b", "c"),
        ({"prompt": "<|im_start|>system\na<|im_end|>\n<|im_start|>user\nb", "completion": "c"},
         "<|im_start|>system\na<|im_end|>\n<|im_start|>user\nb", "c"),
        ({"prompt": "[INST] a [/INST]", "completion": "{b"}, "[INST] a [/INST]", "{b"),
        ({"messages": [{"role": "user", "content": '[{"type": "text"}]'}, {"role": "assistant", "content": "{}"}]},
         '[{"type": "text"}]', "{}"),
        ({"messages": math.nan, "prompt": "a", "completion": "b"}, "a", "b"),  # an empty cell of pandas
    ],
)  # fmt: skip
def test_a_question_and_its_answer(raw: dict, question: str, answer: str) -> None:
    row = read(raw)
    assert (row.question, row.answer, row.history) == (question, answer, [])
    assert read(raw, answered=False) == Row(question, [], None, None)


def test_columns_of_your_own() -> None:
    assert said(read({"dialogue_json": OPENAI, "messages": "3"}, messages="dialogue_json"))[0] == SYSTEM
    row = read(
        {"q": "a", "r": "b", "messages": OPENAI, "about": "c"}, messages=None, question="q", answer="r", context="about"
    )
    assert (row.question, row.answer, row.context, row.history) == ("a", "b", "c", [])
    with pytest.raises(BadRow, match="column 'talk' is empty"):
        read({"talk": None, "prompt": "a", "completion": "b"}, messages="talk")


def test_what_a_file_lacks() -> None:
    def check(*here: str, answered: bool = True, **columns: Any) -> None:
        chats.check("f.csv", here, Columns(**columns), answered=answered)

    with pytest.raises(UserError, match=r"f\.csv has no chats\. A row is a chat: .* It has id, title\. Name yours"):
        check("id", "title")
    with pytest.raises(UserError, match=r"f\.csv has no column with the answers to 'prompt'"):
        check("prompt", "id")
    with pytest.raises(UserError, match="no column 'talk'"):
        check("messages", messages="talk")
    with pytest.raises(UserError, match="no chats"):
        check("messages", messages=None)
    check("prompt", "id", answered=False)
    check("q", "r", messages=None, question="q", answer="r")
    check("text")


def turn(role: str, content: Any, **more: Any) -> dict:
    return {"role": role, "content": content} | more


HI, HELLO = turn("user", "hi"), turn("assistant", "hello")


@pytest.mark.parametrize(
    ("given", "expected", "note"),
    [
        ([HI, turn("user", "you?"), HELLO], [("user", "hi\n\nyou?"), ("assistant", "hello")], "joined"),
        ([HI, HELLO, turn("assistant", "!")], [("user", "hi"), ("assistant", "hello\n\n!")], "joined"),
        (
            [HELLO, HI, HELLO],
            [("system", "You opened the conversation with these words: hello"), ("user", "hi"), ("assistant", "hello")],
            "a greeting of the assistant was moved into the system message",
        ),
        (
            [turn("system", "a"), HI, HELLO, turn("system", "b"), HI, HELLO],
            [("system", "a\n\nb"), ("user", "hi"), ("assistant", "hello"), ("user", "hi"), ("assistant", "hello")],
            "a system message inside the chat was moved to its beginning",
        ),
        ([turn("system", " "), turn("system", None), HI, HELLO], [("user", "hi"), ("assistant", "hello")], None),
    ],
)  # fmt: skip
def test_what_is_changed_to_fit_is_noted(given: list, expected: list, note: str | None) -> None:
    notes: list[str] = []
    assert said(read({"messages": given}, notes=notes)) == expected
    assert [note in each for each in notes if note] == ([True] if note else [])


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"messages": []}, "neither messages nor a question"),
        ({"messages": "[]"}, "no turn of the user"),
        ({"messages": None}, "neither messages nor a question"),
        ({"messages": "hello"}, "column 'messages' is a text and not a list of messages: 'hello'"),
        ({"messages": 7}, "column 'messages' is not a list of messages but int"),
        ({"messages": [HELLO]}, "no turn of the user"),
        ({"messages": [turn("system", "x")]}, "no turn of the user"),
        ({"messages": [HI]}, "ends with a turn of the user, which has no answer"),
        ({"messages": [HI, HELLO, HI]}, "ends with a turn of the user, which has no answer"),
        ({"messages": [HI, turn("assistant", "")]}, "a turn of the assistant is empty"),
        ({"messages": [turn("user", " \n"), HELLO]}, "a turn of the user is empty"),
        ({"messages": [turn("user", None), HELLO]}, "a turn of the user is empty"),
        ({"messages": [HI, turn("assistant", None, tool_calls=[{"id": "1"}]), turn("tool", "7"), HELLO]}, "calls a tool"),
        ({"messages": [HI, turn("assistant", None, function_call={"name": "f"})]}, "calls a tool"),
        ({"messages": [HI, turn("function", "7"), HELLO]}, r"is of a tool \(role 'function'\)"),
        ({"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "{}"}]}, "of a tool"),
        ({"conversations": [{"from": "human", "value": "x"}, {"from": "observation", "value": "{}"}]}, "of a tool"),
        ({"messages": [turn("critic", "x"), HELLO]}, "unknown role 'critic'; system, developer, user"),
        ({"messages": [{"content": "x"}, HELLO]}, "a turn has no role; it has content"),
        ({"messages": [turn("user", [{"type": "image_url", "image_url": {"url": "x"}}]), HELLO]}, "'image_url'; only texts"),
        ({"messages": [turn("user", [{"type": "tool_result", "content": "x"}]), HELLO]}, "'tool_result'; only texts"),
        ({"messages": [turn("user", "a\x00b"), HELLO]}, r"column 'messages\[0\]' holds NUL"),
        ({"messages": [HI, turn("assistant", "a\udcff")]}, r"column 'messages\[1\]' is not valid UTF-8"),
        ({"messages": [turn("user", "x" * 6000), turn("assistant", "y" * 6000)]}, "the chat is longer than limits.max_row"),
        ({"messages": [["a", "b", "c"]]}, r"column 'messages\[0\]' holds a list"),
        ({"messages": "[" * 100_000}, "is a text and not a list"),
        ({"prompt": "x"}, "ends with a turn of the user, which has no answer"),
        ({"prompt": "", "completion": "x"}, "neither messages nor a question"),
        ({"prompt": "x", "completion": " "}, "a turn of the assistant is empty"),
        ({"prompt": ["x"], "completion": {"name": "Ada"}}, "a turn has no role; it has name"),
        ({"text": "Just a text."}, "ends with a turn of the user, which has no answer"),
        ({"label": "x"}, "neither messages nor a question"),
    ],
)  # fmt: skip
def test_a_chat_that_cannot_be_used_says_why(raw: dict, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        read(raw)


def test_an_answer_that_the_task_does_not_take_is_none() -> None:
    class Numbers(Chat):
        def parse(self, response: str, row: Row) -> str | None:
            return response if response.isdigit() else None

    def answer(text: str) -> str | None:
        raw = {"messages": [HI, turn("assistant", text)]}
        return validate(raw, Columns(), Numbers(), answer_column="answer", max_bytes=1000).answer

    assert answer("42") == "42"
    with pytest.raises(BadRow, match="the assistant's last turn is not an answer to the chat; expected a text"):
        answer("many")


def test_an_unlabeled_chat_ends_with_the_user() -> None:
    notes: list[str] = []
    assert said(read({"messages": [HI, HELLO]}, answered=False, notes=notes)) == [("user", "hi")]
    assert notes == ["the chat ends with an answer, which was left out"]
    notes.clear()
    empty = {"messages": [HI, turn("assistant", "")]}  # a form to fill in
    assert said(read(empty, answered=False, notes=notes)) == [("user", "hi")] and not notes
    assert said(read({"text": "Just a text."}, answered=False)) == [("user", "Just a text.")]
    with pytest.raises(BadRow, match="no turn of the user"):
        read({"messages": [HELLO]}, answered=False)


def test_the_oracle_is_a_column_or_the_turn_that_is_left_out() -> None:
    def oracle(raw: dict, column: str) -> str:
        return chats.oracle(raw, Columns(oracle=column), CLEAN)

    assert oracle({"messages": OPENAI}, "messages") == ANSWER
    assert oracle({"conversations": SHAREGPT}, "conversations") == ANSWER
    assert oracle({"messages": PROMPT}, "messages") == ""
    assert oracle({"messages": PROMPT, "truth": ANSWER}, "truth") == ANSWER
    assert oracle({"prompt": PROMPT, "completion": COMPLETION}, "completion") == ANSWER
    assert oracle({"prompt": "x", "completion": '{"a": 1}'}, "completion") == '{"a": 1}'
    assert oracle({"prompt": "x", "completion": None}, "completion") == ""


def test_a_chat_of_a_request() -> None:
    chat = chats.conversation(messages([SYSTEM, *THREE]), CLEAN)
    assert (chat.history, chat.question) == (messages([SYSTEM, *THREE[:2]]), THREE[2][1])
    for request, reason in (([HI, HELLO], "the last message must be the user's"), ([HELLO], "no turn of the user")):
        with pytest.raises(chats.NoChat, match=reason):
            chats.conversation(request, CLEAN)


def test_the_id_of_a_row_counts_the_earlier_turns() -> None:
    labeled, unlabeled = read({"messages": OPENAI}), read({"messages": OPENAI}, answered=False)
    assert row_id(labeled) == row_id(unlabeled)  # which makes the unlabeled one a duplicate
    assert row_id(labeled) == row_id(read({"messages": json.dumps(OPENAI)}))
    assert row_id(labeled) != row_id(read({"messages": OPENAI[1:]})) != row_id(read({"messages": OPENAI[3:]}))
    assert to_row(to_record(labeled)) == labeled


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20) | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "from", "content", "value", "parts", "type", "text", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)  # fmt: skip
_ROWS = st.dictionaries(
    st.sampled_from([*chats.COLUMNS, "other"]), _JSON | st.sampled_from([OPENAI, SHAREGPT, PROMPT]), max_size=4
)


@given(_ROWS, st.booleans())
def test_any_row_is_a_chat_or_bad_and_never_an_error(raw: dict, answered: bool) -> None:
    try:
        row = read(raw, answered)
    except BadRow as bad:
        assert str(bad)
    else:
        roles = [turn["role"] for turn in row.history if turn["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert row.question and all(turn["content"] for turn in row.history)
        assert (row.answer is not None) == answered
