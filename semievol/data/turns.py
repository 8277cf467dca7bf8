"""Read the turns of a chat from a row, in the layouts that people have.

- a list of messages (OpenAI, Hugging Face, ShareGPT, Bedrock, Gemini), of texts that take turns (UltraChat, LIMA), or of pairs;
- a question and its answer in columns (Alpaca, Dolly, prompt and completion), with a system message and a history;
- a transcript with "Human:" and "Assistant:", or as chat templates write one.

A list may also be JSON text or Python's notation, as a cell of a CSV file has it. Each row shows its layout by its columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from semievol.config import Columns
from semievol.data.transcripts import decoded, transcript

# Columns, the first one that a row has anything in counts.
_LISTS = (
    *("messages", "conversations", "conversation", "dialog", "dialogue"),
    *("contents", "turns", "utterances", "chat", "data"),
)
_SYSTEM = ("system", "system_prompt", "system_message", "systemInstruction", "system_instruction")
WHOLE = ("text", "chosen")  # may also hold a chat with its answer
_ASKED = ("instruction", "prompt", "query", "question", "user", "human", "input", "inputs", *WHOLE)
_PASSAGES = ("input", "context")  # of an instruction
_ANSWERED = (
    *("output", "completion", "response", "answer", "assistant", "gpt"),
    *("targets", "target", "generation", "chosen"),
)
COLUMNS = tuple(dict.fromkeys([*_LISTS, *_SYSTEM, "history", *_ASKED, *_PASSAGES, *_ANSWERED]))

_ROLES = dict.fromkeys(("system", "developer"), "system")
_ROLES |= dict.fromkeys(("user", "human", "prompter", "customer", "client"), "user")
_ROLES |= dict.fromkeys(("assistant", "gpt", "bot", "model", "chatbot", "chatgpt", "ai", "agent"), "assistant")
_SPEAKER = ("role", "from", "author", "speaker", "sender")
_CONTENT = ("content", "value", "text", "parts", "message", "utterance")
_TOOLS = {"tool", "function", "ipython", "observation"}  # also as the beginning of a role: tool_call, function_response
# Keys of a pair of turns, {"human": .., "assistant": ..}, besides the roles.
_PAIRS = dict.fromkeys(("input", "prompt", "question", "instruction"), "user")
_PAIRS |= dict.fromkeys(("output", "response", "answer", "completion"), "assistant")

Clean = Callable[[Any, str], str]  # of a value and the name of its place: the text; raises if it is none
Turn = tuple[str, str]  # role and content


class NoChat(Exception):
    """A row holds no chat that can be used; the message is the reason."""


def lists(columns: Columns) -> tuple[str, ...]:
    """Return the columns that may hold a whole chat."""
    return _LISTS if columns.messages == "messages" else tuple(filter(None, [columns.messages]))


def asked_in(columns: Columns) -> tuple[str, ...]:
    return (columns.question, *_ASKED)


def answered_in(columns: Columns) -> tuple[str, ...]:
    return (columns.answer, *_ANSWERED)


def _first(raw: dict[str, Any], names: Iterable[str]) -> str | None:
    """Return the first of these columns that has anything in it."""
    return next((name for name in names if not _empty(raw.get(name))), None)


def _empty(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, (str, list, dict)) and not value)  # NaN is not itself


def of_row(raw: dict[str, Any], columns: Columns, clean: Clean, *, answered: bool) -> list[Turn]:
    """Return the turns of a row, in any layout."""
    name = _first(raw, _SYSTEM)
    turns = [("system", _content(raw[name], name, clean))] if name else []
    if listed := _listed(raw, columns):
        turns += spoken(raw[listed], listed, clean)
    elif columns.messages not in (None, "messages"):
        raise NoChat(f"column '{columns.messages}' is empty")
    else:
        turns += _in_columns(raw, columns, clean)
    if answered and turns and turns[-1][0] != "assistant" and (name := _first(raw, answered_in(columns))):
        reply = list(said(raw[name], "assistant", name, clean))
        # Preference data repeat the whole chat in the answer.
        repeated = any(role == "user" for role, _ in reply)
        turns = [*(turn for turn in turns if turn[0] == "system" or not repeated), *reply]
    return turns


def _listed(raw: dict[str, Any], columns: Columns) -> str | None:
    """Return the column that holds the whole chat, if there is one. `data` or `turns` may also be something else."""
    for name in lists(columns):
        value = raw.get(name)
        if not _empty(value) and (name == columns.messages or _is_list(value) or transcript(str(value))):
            return name
    return None


def _is_list(value: Any) -> bool:
    return isinstance(decoded(value), (list, dict))


def _in_columns(raw: dict[str, Any], columns: Columns, clean: Clean) -> Iterator[Turn]:
    """Yield the turns up to the question of a row that has it in a column of its own."""
    asked = _first(raw, asked_in(columns))
    if asked is None:
        raise NoChat("the row has neither messages nor a question")
    if not _empty(raw.get("history")) and _is_list(raw["history"]):
        yield from spoken(raw["history"], "history", clean)
    passage = _first(raw, (name for name in _PASSAGES if name not in (columns.context, columns.answer)))
    if asked == "instruction" and passage:
        parts = [clean(raw[name], name) for name in (asked, passage)]
        yield "user", "\n\n".join(filter(None, parts))
    else:
        yield from said(raw[asked], "user", asked, clean)


def said(value: Any, role: str, name: str, clean: Clean) -> Iterator[Turn]:
    """Yield the turns of a column that holds one text of a role, or messages."""
    found = decoded(value)
    if _is_chat(found) or (isinstance(value, (list, dict)) and value):
        yield from spoken(found, name, clean)
    elif isinstance(value, str) and value.rstrip().endswith("\n\nAssistant:") and (asked := transcript(value)):
        yield from spoken(asked[:-1], name, clean)
    elif name in WHOLE and transcript(str(value)):
        yield from spoken(value, name, clean)
    else:
        yield role, clean(value, name)


def _is_chat(found: Any) -> bool:
    """Tell whether what stands as text in a cell is messages: an answer may well be JSON too."""
    listed = [found] if isinstance(found, dict) else found
    if not isinstance(listed, list) or not listed or not all(isinstance(turn, dict) for turn in listed):
        return False
    return all(str(_role(turn)).lower() in _ROLES and any(key in turn for key in _CONTENT) for turn in listed)


def _role(turn: dict[str, Any]) -> Any:
    return next((turn[key] for key in _SPEAKER if turn.get(key) is not None), None)


def spoken(value: Any, name: str, clean: Clean) -> Iterator[Turn]:
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
    if all(isinstance(turn, str) and _is_chat(decoded(turn)) for turn in value):  # as databases export lists of objects
        value = list(map(decoded, value))
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
    content = next((turn[key] for key in _CONTENT if key in turn), None)
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
