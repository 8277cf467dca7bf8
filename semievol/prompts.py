"""Chat messages: what the model is shown, for answering and for self-justification.

Solved examples stand in the system message, the question in the user message (paper, section 3.2 and appendix).
"""

from __future__ import annotations

from semievol.tasks import Row, Task

Messages = list[dict[str, str]]

# Prompt variants a collaborator can name: an instruction that opens the system message.
STYLES = {"plain": "", "careful": "Read every option before you decide, and rule out the wrong ones first."}


def messages(task: Task, row: Row, *, examples: list[Row] | None = None, style: str = "plain") -> Messages:
    """The prompt for one row: an optional system message with the instruction and solved examples, then the question.

    Args:
        examples: labeled rows, most similar first. They are shown in reverse, so that the nearest one stands next to
            the question.
        style: a key of `STYLES`.
    """
    parts = [STYLES[style]] if STYLES[style] else []
    if examples:
        parts.append("Here are solved examples.")
        parts += [f"{_without_instruction(task, e)}\n{task.respond(e.answer or '')}" for e in reversed(examples)]
    system = [{"role": "system", "content": "\n\n".join(parts)}] if parts else []
    return [*system, {"role": "user", "content": task.ask(row)}]


def justification(task: Task, row: Row, answers: list[str]) -> Messages:
    """The prompt of self-justification: the question, the differing answers, and the request to decide.

    Args:
        answers: the distinct canonical answers that the collaborators gave, in the order of first mention.
    """
    prompt = messages(task, row)
    candidates = "\n".join(f"- {task.respond(answer)}" for answer in answers)
    question = prompt[-1]["content"]
    prompt[-1]["content"] = f"These answers were proposed:\n{candidates}\nDecide which one is right.\n\n{question}"
    return prompt


def completion(task: Task, answer: str) -> Messages:
    """The response a model is trained to give."""
    return [{"role": "assistant", "content": task.respond(answer)}]


def _without_instruction(task: Task, row: Row) -> str:
    # The last paragraph of `ask` tells what to do; a solved example needs it no more.
    return task.ask(row).rpartition("\n\n")[0]
