"""Build the chat messages of a row: for answering, for self-justification and for training.

Solved examples go into the system message, the question into the user message (paper, section 3.2 and appendix).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from semievol.config.prompting import PromptConfig
from semievol.errors import UserError
from semievol.tasks import Row, Task

Messages = list[dict[str, Any]]  # role and content; a client's content may be a list of parts


@dataclass(frozen=True)
class Prompts:
    """The prompts of a run: its kind of task, and the `prompt` section of its config."""

    task: Task
    config: PromptConfig = field(default_factory=PromptConfig)

    def messages(
        self, row: Row, *, examples: Sequence[Row] = (), style: str = "plain", order: str = "nearest_last"
    ) -> Messages:
        """Return the prompt for a row: a system message if there is text for it, earlier turns, then the question.

        Args:
            examples: labeled rows, most similar first.
            style: a key of `prompt.styles`.
            order: nearest_last puts the most similar example next to the question; nearest_first keeps the order.
        """
        earlier = [turn for turn in row.history if turn["role"] != "system"]
        parts = [self.config.system, *(turn["content"] for turn in row.history if turn["role"] == "system")]
        parts.append(self.config.styles[style])
        if examples:
            shown = examples if order == "nearest_first" else examples[::-1]
            parts += ["Here are solved examples.", *map(self._example, shown)]
        text = "\n\n".join(filter(None, parts))
        system = [{"role": "system", "content": text}] if text else []
        return [*system, *earlier, {"role": "user", "content": self._question(row)}]

    def justification(self, row: Row, answers: list[str]) -> Messages:
        """Return the prompt of self-justification: the different answers, the request to decide, and the question."""
        prompt = self.messages(row)
        candidates = "\n".join(f"- {self.task.respond(answer)}" for answer in answers)
        question = prompt[-1]["content"]
        prompt[-1]["content"] = f"These answers were proposed:\n{candidates}\n{self.task.decision}\n\n{question}"
        return prompt

    def completion(self, answer: str) -> Messages:
        """Return the response that training teaches."""
        return [{"role": "assistant", "content": self.task.respond(answer)}]

    def _question(self, row: Row) -> str:
        instruction = self.task.instruct(row) if self.config.instruction is None else self.config.instruction
        return self._shown(row, "\n".join(filter(None, (instruction, self.task.listing(row)))))

    def _example(self, row: Row) -> str:
        row = replace(row, candidates=None)  # what was found for it as a question, which not every stage knows
        response = self.task.respond(row.answer or "")
        if self.config.example_template is not None:
            return _render(self.config.example_template, self.task, row, answer=response, instruction="")
        dialogue = [f"{turn['role']}: {turn['content']}" for turn in row.history if turn["role"] != "system"]
        question = self._shown(row, "")
        if self.task.conversational:
            question, response = f"user: {question}", f"assistant: {response}"
        return "\n".join([*dialogue, question, response])

    def _shown(self, row: Row, instruction: str) -> str:
        if self.config.template is not None:
            return _render(self.config.template, self.task, row, instruction=instruction).strip()
        return "\n\n".join(filter(None, (self.task.ask(row), instruction)))


def shorter(row: Row, examples: list[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Yield the row and its examples, then shorter and shorter ones, for a prompt that must fit a context window.

    Examples are dropped first, the least similar ones before the others. Then a chat loses its oldest turns, two at a time.
    Then the context loses its end, an eighth at a time. Then the question loses its beginning, because its end usually
    holds the actual question. Options and the system message stay whole.

    Args:
        examples: labeled rows, most similar first.
    """
    for count in range(len(examples), -1, -1):
        yield row, examples[:count]
    system = [turn for turn in row.history if turn["role"] == "system"]
    turns = row.history[len(system) :]
    for dropped in range(2, len(turns) + 1, 2):
        row = replace(row, history=[*system, *turns[dropped:]])
        yield row, []
    if row.context:
        for eighths in range(7, -1, -1):
            yield replace(row, context=row.context[: len(row.context) * eighths // 8] or None), []
    for eighths in range(7, 0, -1):
        kept = len(row.question) * eighths // 8
        yield replace(row, context=None, question=row.question[len(row.question) - kept :]), []


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


def _render(template: str, task: Task, row: Row, **more: str) -> str:
    from jinja2 import TemplateError

    own: dict[str, Any] = {"question": row.question, "context": row.context or "", "options": row.options}
    own["labels"] = task.listed(row)
    values = row.fields | own | more
    try:
        return str(_compiled(template).render(values, row=values))
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"prompt: a template cannot be filled in: {error}. The template: {template[:200]}") from None


@lru_cache(maxsize=64)
def _compiled(template: str) -> Any:
    """Return a Jinja2 template that can neither change what it is given nor reach beyond it."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(template)
