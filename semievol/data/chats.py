"""Read a chat from a row or a request, and fit it to what chat templates take: user and assistant in turn.

What is changed for that is noted: turns of the same role are joined, system messages come first, and so does what an
assistant says before the user.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from semievol.config import Columns
from semievol.data import turns
from semievol.data.turns import COLUMNS, Clean, NoChat, Turn
from semievol.errors import UserError

__all__ = ["COLUMNS", "Chat", "Clean", "NoChat", "check", "conversation", "oracle", "read"]


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


def check(uri: str, here: Collection[str], columns: Columns, *, answered: bool) -> None:
    """Raise if the columns of a file, which are `here`, cannot hold chats; `answered`: with their answers."""
    asked = [name for name in turns.asked_in(columns) if name in here]
    if any(name in here for name in turns.lists(columns)):
        return
    if columns.messages not in (None, "messages"):
        lacks = f"no column '{columns.messages}'"
    elif not asked:
        lacks = "no chats. A row is a chat: a column of messages, or one with the question and one with the answer"
    elif answered and asked[0] not in turns.WHOLE and not any(name in here for name in turns.answered_in(columns)):
        lacks = f"no column with the answers to '{asked[0]}'"
    else:
        return
    way_out = "Name yours with data.columns.messages, or with data.columns.question and answer"
    raise UserError(f"{uri} has {lacks}. It has {', '.join(here)}. {way_out}")


def read(raw: dict[str, Any], columns: Columns, clean: Clean, *, answered: bool) -> Chat:
    """Return the chat of a row, or raise `NoChat`.

    Args:
        answered: the chat must end with its answer; else what comes after the last question is left out.
    """
    return arrange(turns.of_row(raw, columns, clean, answered=answered), answered=answered)


def conversation(messages: list[dict[str, Any]], clean: Clean) -> Chat:
    """Return the chat of a request's messages, or raise `NoChat`; it must end with the user's turn."""
    chat = arrange(turns.spoken(messages, "messages", clean), answered=False)
    if chat.answer is not None:
        raise NoChat("the last message must be the user's")
    return chat


def oracle(raw: dict[str, Any], columns: Columns, clean: Clean) -> str:
    """Return the true answer of an unlabeled row, "" if there is none.

    It is in the column `oracle`. Where that is the column of the chat, it is the assistant's last turn, which is left out of
    the row itself.
    """
    assert columns.oracle is not None
    if columns.oracle in turns.lists(columns):
        return read(raw, columns, clean, answered=False).answer or ""
    said = list(turns.said(raw.get(columns.oracle), "assistant", columns.oracle, clean))
    return said[-1][1] if said and said[-1][0] == "assistant" else ""


def arrange(given: Iterable[Turn], *, answered: bool) -> Chat:
    """Return turns as a chat in which user and assistant alternate, beginning and ending with the user."""
    system: list[str] = []
    body: list[list[str]] = []  # role, content
    notes: dict[str, None] = {}
    given = list(given)
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
