"""Read a chat from a row, in the layouts that people have.

- a list of messages (OpenAI, Hugging Face, ShareGPT, Bedrock, Gemini), of texts that take turns (UltraChat, LIMA), or of pairs;
- a question and its answer in columns (Alpaca, Dolly, prompt and completion), with a system message and a history;
- a transcript with "Human:" and "Assistant:", or in ChatML.

A list may also be JSON text or Python's notation, as a cell of a CSV file has it. Each row shows its layout by its columns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from semievol.config import Columns
from semievol.data.transcripts import decoded, transcript

# Columns, the first one that a row has anything in counts.
_LISTS = ("messages", "conversations", "conversation", "dialog", "dialogue", "contents", "turns", "chat", "data")
_SYSTEM = ("system", "system_prompt", "system_message", "systemInstruction", "system_instruction")
_ASKED = ("instruction", "prompt", "query", "question", "user", "human", "input", "inputs", "text")
_PASSAGES = ("input", "context")  # of an instruction
_ANSWERED = ("output", "completion", "response", "answer", "assistant", "gpt", "targets", "target", "chosen")
COLUMNS = tuple(dict.fromkeys([*_LISTS, *_SYSTEM, "history", *_ASKED, *_PASSAGES, *_ANSWERED]))

_ROLES = dict.fromkeys(("system", "developer"), "system")
_ROLES |= dict.fromkeys(("user", "human", "prompter"), "user")
_ROLES |= dict.fromkeys(("assistant", "gpt", "bot", "model", "chatbot", "chatgpt", "ai"), "assistant")
_TOOLS = {"tool", "function", "ipython", "observation"}  # also as the beginning of a role: tool_call, function_response
# Keys of a pair of turns, {"human": .., "assistant": ..}, besides the roles.
_PAIRS = dict.fromkeys(("input", "prompt", "question", "instruction"), "user")
_PAIRS |= dict.fromkeys(("output", "response", "answer", "completion"), "assistant")

Clean = Callable[[Any, str], str]  # of a value and the name of its place: the text; raises if it is none
Turn = tuple[str, str]  # role and content


class NoChat(Exception):
    """A row holds no chat that can be used; the message is the reason."""


@dataclass
class Chat:
    """A chat that has been read.

    Attributes:
        history: the turns before the question; a system message is the first.
        question: the last turn of the user.
        answer: what the assistant says to it. Of an unlabeled row it is kept from the method.
        notes: how the chat was changed to fit.
    """

    history: list[dict[str, str]]
    question: str
    answer: str | None
    notes: list[str] = field(default_factory=list)


def missing(here: Collection[str], columns: Columns, *, answered: bool) -> str | None:
    """Return what columns a file lacks to hold chats, or None."""
    named = columns.messages
    if named not in (None, "messages") and named not in here:
        return f"no column '{named}'"
    if any(name in here for name in _lists(columns)):
        return None
    asked = [name for name in _asked(columns) if name in here]
    if not asked:
        return "no chats. A chat is a column of messages, or one of questions and one of answers"
    if answered and asked != ["text"] and not any(name in here for name in _answered(columns)):
        return f"no column with the answers to '{asked[0]}'"
    return None


def read(raw: dict[str, Any], columns: Columns, clean: Clean, *, answered: bool) -> Chat:
    """Return the chat of a row, or raise `NoChat`.

    Args:
        answered: the chat must end with its answer; else what comes after the last question is left out.
    """
    return arrange(_turns(raw, columns, clean, answered=answered), answered=answered)


def conversation(messages: list[dict[str, Any]], clean: Clean) -> Chat:
    """Return the chat of a request's messages, or raise `NoChat`; it must end with the user's turn."""
    chat = arrange(_spoken(messages, "messages", clean), answered=False)
    if chat.answer is not None:
        raise NoChat("the last message must be the user's")
    return chat


def oracle(raw: dict[str, Any], columns: Columns, clean: Clean) -> str:
    """Return the true answer of an unlabeled row, "" if there is none.

    It is in the column `oracle`. Where that is the column of the chat, it is the assistant's last turn, which is left out of
    the row itself.
    """
    assert columns.oracle is not None
    if columns.oracle in _lists(columns):
        return read(raw, columns, clean, answered=False).answer or ""
    turns = list(_said(raw.get(columns.oracle), "assistant", columns.oracle, clean))
    return turns[-1][1] if turns and turns[-1][0] == "assistant" else ""


def arrange(turns: Iterable[Turn], *, answered: bool) -> Chat:
    """Return turns as a chat in which user and assistant alternate, beginning and ending with the user."""
    system: list[str] = []
    body: list[list[str]] = []  # role, content
    notes: dict[str, None] = {}
    given = list(turns)
    for place, (role, content) in enumerate(given):
        if not content:
            if role == "system" or (place == len(given) - 1 and role == "assistant" and not answered):
                continue
            raise NoChat(f"a turn of the {role} is empty")
        if role == "system":
            if body:
                notes["a system message inside the chat was moved to its beginning"] = None
            system.append(content)
        elif body and body[-1][0] == role:
            notes["turns of the same role were joined"] = None
            body[-1][1] += f"\n\n{content}"
        else:
            body.append([role, content])
    if not any(role == "user" for role, _ in body):
        raise NoChat("the chat has no turn of the user")
    if body[0][0] == "assistant":  # several chat templates refuse it
        notes["a greeting of the assistant was moved into the system message"] = None
        system.append(f"You opened the conversation with these words: {body.pop(0)[1]}")
    answer = body.pop()[1] if body[-1][0] == "assistant" else None
    if answered and answer is None:
        raise NoChat("the chat ends with a turn of the user, which has no answer")
    if not answered and answer is not None:
        notes["the chat ends with an answer, which was left out"] = None
    question = body.pop()[1]
    history = [{"role": role, "content": content} for role, content in body]
    if system:
        history.insert(0, {"role": "system", "content": "\n\n".join(system)})
    return Chat(history, question, answer, list(notes))


def _lists(columns: Columns) -> tuple[str, ...]:
    """Return the columns that may hold a whole chat."""
    return _LISTS if columns.messages == "messages" else tuple(filter(None, [columns.messages]))


def _asked(columns: Columns) -> tuple[str, ...]:
    return (columns.question, *_ASKED)


def _answered(columns: Columns) -> tuple[str, ...]:
    return (columns.answer, *_ANSWERED)


def _first(raw: dict[str, Any], names: Iterable[str]) -> str | None:
    """Return the first of these columns that has anything in it."""
    return next((name for name in names if not _empty(raw.get(name))), None)


def _empty(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, (str, list, dict)) and not value)  # NaN is not itself


def _turns(raw: dict[str, Any], columns: Columns, clean: Clean, *, answered: bool) -> list[Turn]:
    """Return the turns of a row, in any layout."""
    name = _first(raw, _SYSTEM)
    turns = [("system", _content(raw[name], name, clean))] if name else []
    if listed := _listed(raw, columns):
        turns += _spoken(raw[listed], listed, clean)
    elif columns.messages not in (None, "messages"):
        raise NoChat(f"column '{columns.messages}' is empty")
    else:
        turns += _in_columns(raw, columns, clean)
    if answered and turns and turns[-1][0] != "assistant" and (name := _first(raw, _answered(columns))):
        reply = list(_said(raw[name], "assistant", name, clean))
        # Preference data repeat the whole chat in the answer.
        repeated = any(role == "user" for role, _ in reply)
        turns = [*(turn for turn in turns if turn[0] == "system" or not repeated), *reply]
    return turns


def _listed(raw: dict[str, Any], columns: Columns) -> str | None:
    """Return the column that holds the whole chat, if there is one. `data` or `turns` may also be something else."""
    for name in _lists(columns):
        value = raw.get(name)
        if not _empty(value) and (name == columns.messages or _is_list(value) or transcript(str(value))):
            return name
    return None


def _is_list(value: Any) -> bool:
    return isinstance(decoded(value), (list, dict))


def _in_columns(raw: dict[str, Any], columns: Columns, clean: Clean) -> Iterator[Turn]:
    """Yield the turns up to the question of a row that has it in a column of its own."""
    asked = _first(raw, _asked(columns))
    if asked is None:
        raise NoChat("the row has neither messages nor a question")
    if not _empty(raw.get("history")) and _is_list(raw["history"]):
        yield from _spoken(raw["history"], "history", clean)
    passage = _first(raw, (name for name in _PASSAGES if name not in (columns.context, columns.answer)))
    if asked == "instruction" and passage:
        parts = [clean(raw[name], name) for name in (asked, passage)]
        yield "user", "\n\n".join(filter(None, parts))
    else:
        yield from _said(raw[asked], "user", asked, clean)


def _said(value: Any, role: str, name: str, clean: Clean) -> Iterator[Turn]:
    """Yield the turns of a column that holds one text of a role, or messages."""
    found = decoded(value)
    if _is_chat(found) or (isinstance(value, (list, dict)) and value):
        yield from _spoken(found, name, clean)
    elif isinstance(value, str) and (spoken := transcript(value)):
        yield from _spoken(spoken if spoken[-1]["content"] else spoken[:-1], name, clean)
    else:
        yield role, clean(value, name)  # a text may well be JSON: {"name": "Ada"}


def _is_chat(found: Any) -> bool:
    turns = [found] if isinstance(found, dict) else found
    return isinstance(turns, list) and bool(turns) and all(isinstance(t, dict) and _role(t) is not None for t in turns)


def _role(turn: dict[str, Any]) -> Any:
    return next((turn[key] for key in ("role", "from", "author", "speaker") if turn.get(key) is not None), None)


def _spoken(value: Any, name: str, clean: Clean) -> Iterator[Turn]:
    """Yield the turns of a value that holds a chat."""
    value = decoded(value)
    if isinstance(value, str):
        text, value = value, transcript(value)
        if value is None:
            raise NoChat(f"column '{name}' is a text and not a list of messages: {text[:60]!r}")
    if isinstance(value, dict):
        if isinstance(value.get("messages"), list):
            value = value["messages"]
        elif value and all(isinstance(of_all, list) for of_all in value.values()):  # a column for each key
            value = [dict(zip(value, each, strict=False)) for each in zip(*value.values(), strict=False)]
        else:
            value = [value]
    if not isinstance(value, list):
        raise NoChat(f"column '{name}' is not a list of messages but {type(value).__name__}")
    for place, turn in enumerate(value):
        where = f"{name}[{place}]"
        if isinstance(turn, dict):
            yield from _message(turn, where, clean)
        elif isinstance(turn, list) and len(turn) == 2:  # [what the user says, what the assistant says]
            yield from ((role, clean(text, where)) for role, text in zip(("user", "assistant"), turn, strict=True))
        else:
            yield ("user", "assistant")[place % 2], clean(turn, where)


def _message(turn: dict[str, Any], where: str, clean: Clean) -> Iterator[Turn]:
    """Yield the turn of a message, or the turns of a pair."""
    turn = {key: value for key, value in turn.items() if value is not None}
    if turn.get("tool_calls") or turn.get("function_call"):
        raise NoChat("the assistant calls a tool; only texts are read")
    given = _role(turn)
    if given is None:
        pair = {key: role for key in turn if (role := (_ROLES | _PAIRS).get(key.lower()))}
        if not pair:
            raise NoChat(f"a turn has no role; it has {', '.join(map(str, turn)) or 'nothing'}")
        for key in sorted(pair, key=lambda key: ("system", "user", "assistant").index(pair[key])):
            yield pair[key], _content(turn[key], where, clean)
        return
    role = _ROLES.get(str(given).strip().lower())
    if role is None and str(given).lower().split("_")[0] in _TOOLS:
        raise NoChat(f"a turn is of a tool (role '{given}'); only texts of system, user and assistant are read")
    if role is None:
        raise NoChat(f"a turn has the unknown role '{str(given)[:40]}'; {', '.join(_ROLES)} are known")
    content = next((turn[key] for key in ("content", "value", "text", "parts", "message") if key in turn), None)
    yield role, _content(content, where, clean)


def _content(value: Any, where: str, clean: Clean) -> str:
    """Return the text of a message: a text, or a list of parts that are texts."""
    if isinstance(value, dict):
        value = value.get("parts") or [value]
    if not isinstance(value, list):
        return clean(value, where)
    texts = []
    for part in value:
        if isinstance(part, dict):
            kind = part.get("type") or "text"
            if kind not in ("text", "input_text", "output_text") or part.get("text") is None:
                raise NoChat(f"a turn holds a part of type '{kind}'; only texts are read")
            part = part["text"]
        texts.append(clean(part, where))
    return "\n".join(texts)
