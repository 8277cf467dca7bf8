"""A row as the method sees it, and the base class of all kinds of task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from semievol.tasks.parsing.thoughts import own_turn, without_thought


@dataclass
class Row:
    """A question as the method sees it.

    Attributes:
        answer: canonical; None on unlabeled rows.
        history: of a chat, the turns before the question, with `role` and `content`; a system message is the first.
        fields: further columns of the input that the prompt's templates name.
        candidates: the answers that the prompt lists, likeliest first; None where the kind of task decides.
    """

    question: str
    options: list[str]
    context: str | None
    answer: str | None
    history: list[dict[str, str]] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    candidates: list[str] | None = None


class Task(BaseModel, ABC):
    """A kind of task with its settings, which are the `task` section of a config.

    A kind sets `kind: Literal["name"] = "name"`, adds its settings as fields, and overrides what is its own. Answers are
    canonical strings. No method raises, for any text.

    Attributes:
        needs: Keys of `data.columns` without which rows cannot be asked.
        ignores: Keys of `data.columns` whose cells are not read.
        transfers: The answer of a solved row can mean something for another row.
        unread: Settings that the reading of input files does not depend on.
        conversational: Rows are chats, in the layouts of `semievol.data.chats`.
        names_labels: Answers are labels that mean the same in every row, so that reports count each.
        instruction: The last paragraph of the user message. It says how to answer.
        decision: What self-justification asks for, below the proposed answers.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, defer_build=True
    )

    kind: str

    needs: ClassVar[tuple[str, ...]] = ()
    ignores: ClassVar[tuple[str, ...]] = ()
    unread: ClassVar[frozenset[str]] = frozenset()
    transfers: ClassVar[bool] = False
    conversational: ClassVar[bool] = False
    names_labels: ClassVar[bool] = False
    instruction: ClassVar[str] = ""
    decision: ClassVar[str] = "Decide which one is right."

    @property
    def closed(self) -> bool:
        """Tell whether all answers of a row are known beforehand, so that `choices` returns them."""
        return False

    @property
    def scored(self) -> bool:
        """Tell whether `label.mode: auto` and `evaluate.mode: auto` score all answers, and generate none."""
        return self.closed and self.names_labels

    @property
    def descriptions(self) -> dict[str, str]:
        """Return what labels mean, where the config says it."""
        return {}

    @property
    def sets(self) -> bool:
        """Tell whether an answer is a set of `parts`, each of which is believed by itself."""
        return False

    @property
    def learns(self) -> bool:
        """Tell whether the labeled rows say which answers there are; `learned` takes them."""
        return False

    @property
    def lists_candidates(self) -> bool:
        """Tell whether prompts list the answers that are likeliest for a row, which retrieval finds."""
        return False

    @property
    def longest(self) -> int:
        """Return the tokens that a response of this kind may need, whatever `max_tokens` says; 0 if nothing is known."""
        return 0

    @property
    def cosine(self) -> float | None:
        """The cosine of their embeddings from which two answers agree; None where `same` decides."""
        return None

    @property
    def all_turns(self) -> bool:
        """Tell whether training teaches every turn of the assistant in a chat, and not the answer alone."""
        return False

    @property
    def cell_settings(self) -> dict[str, Any]:
        """Return the settings that the reading of input files depends on."""
        return self.model_dump(exclude=set(self.unread))

    def learned(self, labels: dict[str, int]) -> Task:
        """Return the task that knows the answers of the labeled rows, given with their counts; others need no such thing."""
        return self

    def problem(self, row: Row) -> str | None:
        """Return why this row cannot be asked, or None."""
        return None

    def gold(self, text: str, row: Row) -> str | None:
        """Return a cell of an answer column as a canonical answer, or None if it is not an answer."""
        return self.parse(text, row)

    def expects(self, row: Row) -> str:
        """Return what `gold` would have taken, for an error message."""
        return "a text"

    def refusal(self, text: str, row: Row) -> str:
        """Return why `gold` does not take a cell, for an error message."""
        return f"expected {self.expects(row)}"

    def ask(self, row: Row) -> str:
        """Return the question as the model reads it, with all that belongs to it."""
        # The options of a row whose kind of task has none are part of the question.
        parts = [row.context, row.question, "\n".join(f"- {option}" for option in row.options)]
        return "\n\n".join(filter(None, parts))

    def instruct(self, row: Row) -> str:
        """Return the sentences that say how to answer. `prompt.instruction` replaces them."""
        return self.instruction

    def listing(self, row: Row) -> str:
        """Return the answers that the prompt lists below the instruction, also below one of `prompt.instruction`."""
        return ""

    def respond(self, answer: str) -> str:
        """Return the assistant message that gives this answer: what models are trained to say."""
        return f"Answer: {answer}"

    def parse(self, response: str, row: Row) -> str | None:
        """Return the canonical answer in a response, or None if there is none.

        A thought is never an answer, one without an end is no answer, and neither is a further turn that a model invents.
        """
        said = without_thought(own_turn(response))
        return None if said is None else self._read(said, row)

    @abstractmethod
    def _read(self, response: str, row: Row) -> str | None:
        """Return the canonical answer in a response that holds no thoughts, or None if there is none."""

    def choices(self, row: Row) -> list[str] | None:
        """Return all canonical answers of a row of a closed task; None for the others."""
        return None

    def listed(self, row: Row) -> list[str]:
        """Return the answers that a template may list as `labels`."""
        return row.candidates or self.choices(row) or []

    def shortlist(self, likely: Iterable[str]) -> list[str]:
        """Return as many of these answers, likeliest first, as a prompt may list."""
        return list(likely)

    def parts(self, answer: str) -> list[str]:
        """Return the labels in an answer: itself, or those of a set."""
        return [answer]

    def joined(self, parts: Iterable[str]) -> str:
        """Return the answer that is made of these parts."""
        return next(iter(parts))

    def in_words(self, answer: str, row: Row) -> str:
        """Return a canonical answer as people read it."""
        return answer

    def same(self, a: str, b: str) -> bool:
        """Return whether two canonical answers agree."""
        return a == b

    def score(self, answer: str, gold: str) -> float:
        """Return how right an answer is, from 0 to 1; the mean over the test rows is the accuracy."""
        return float(self.same(answer, gold))

    def transfer(self, answer: str, solved: Row, row: Row) -> str | None:
        """Map the answer of a solved row onto another row, or return None where it means nothing there."""
        return None
