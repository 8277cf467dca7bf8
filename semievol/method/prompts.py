"""Build the chat messages for answering and for self-justification.

Solved examples go into the system message, the question into the user message (paper, section 3.2 and appendix).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from semievol.tasks import Row, Task

Messages = list[dict[str, str]]

# Prompt variants a collaborator can name: an instruction that opens the system message.
STYLES = {"plain": "", "careful": "Weigh every possible answer before you decide, and rule out the wrong ones first."}


def messages(
    task: Task, row: Row, *, examples: list[Row] | None = None, style: str = "plain", order: str = "nearest_last"
) -> Messages:
    """Return the prompt for a row: an optional system message with instruction and solved examples, then the question.

    Args:
        examples: labeled rows, most similar first.
        style: a key of `STYLES`.
        order: nearest_last puts the most similar example next to the question; nearest_first keeps the order.
    """
    parts = [STYLES[style]] if STYLES[style] else []
    if examples:
        parts.append("Here are solved examples.")
        shown = examples if order == "nearest_first" else examples[::-1]
        parts += [f"{_without_instruction(task, e)}\n{task.respond(e.answer or '')}" for e in shown]
    system = [{"role": "system", "content": "\n\n".join(parts)}] if parts else []
    return [*system, {"role": "user", "content": task.ask(row)}]


def shorter(row: Row, examples: list[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Yield the row and its examples, then shorter and shorter ones, for a prompt that must fit a context window.

    Examples are dropped first, the least similar ones before the others. Then the context loses its end, an eighth at a
    time. Then the question loses its beginning, because its end usually holds the actual question. Options stay whole.

    Args:
        examples: labeled rows, most similar first.
    """
    for count in range(len(examples), -1, -1):
        yield row, examples[:count]
    if row.context:
        for eighths in range(7, -1, -1):
            yield replace(row, context=row.context[: len(row.context) * eighths // 8] or None), []
    for eighths in range(7, 0, -1):
        kept = len(row.question) * eighths // 8
        yield replace(row, context=None, question=row.question[len(row.question) - kept :]), []


def justification(task: Task, row: Row, answers: list[str]) -> Messages:
    """Return the prompt of self-justification: the different answers, the request to decide, and the question."""
    prompt = messages(task, row)
    candidates = "\n".join(f"- {task.respond(answer)}" for answer in answers)
    question = prompt[-1]["content"]
    prompt[-1]["content"] = f"These answers were proposed:\n{candidates}\nDecide which one is right.\n\n{question}"
    return prompt


def without_system(prompt: Messages) -> Messages:
    """Return the prompt for a model without system messages: their text opens the user message that follows."""
    merged: Messages = []
    waiting: list[str] = []
    for message in prompt:
        if message["role"] in ("system", "developer"):
            waiting.append(text_of(message["content"]))
        elif message["role"] == "user" and waiting:
            merged.append(message | {"content": "\n\n".join([*waiting, text_of(message["content"])])})
            waiting = []
        else:
            merged.append(message)
    return [*merged, {"role": "user", "content": "\n\n".join(waiting)}] if waiting else merged


def text_of(content: Any) -> str:
    """Return the text of a message's content, which some clients send as a list of parts, or as null."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content)
    return content or ""


def completion(task: Task, answer: str) -> Messages:
    """Return the response that training teaches."""
    return [{"role": "assistant", "content": task.respond(answer)}]


def _without_instruction(task: Task, row: Row) -> str:
    # The last paragraph of `ask` is the instruction, which a solved example does not need.
    return task.ask(row).rpartition("\n\n")[0]
