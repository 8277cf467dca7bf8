"""A row as the method sees it, and what it wants of a kind of task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass
class Row:
    """A question as the method sees it. `answer` is canonical, and None on unlabeled rows."""

    question: str
    options: list[str]
    context: str | None
    answer: str | None


class Task(Protocol):
    """Pure functions over rows; answers are canonical strings. Nothing here raises, whatever the text.

    Attributes:
        similarity: cosine of their embeddings from which two answers agree, for responses without an exact form; None
            where `same` tells.
    """

    similarity: float | None

    def problem(self, row: Row) -> str | None:
        """Why this row cannot be asked, or None."""

    def gold(self, text: str, row: Row) -> str | None:
        """A cell of an answer column as a canonical answer; None if it is none."""

    def expects(self, row: Row) -> str:
        """What `gold` would have taken, for an error message."""

    def ask(self, row: Row) -> str:
        """The user message. Its last paragraph says how to answer; what stands before it is the question itself."""

    def respond(self, answer: str) -> str:
        """The assistant message that gives this answer: what models are trained to say."""

    def parse(self, response: str, row: Row) -> str | None:
        """The canonical answer in a response; None if there is none."""

    def choices(self, row: Row) -> list[str] | None:
        """All canonical answers of a row where they are known beforehand (a closed answer set); None where they are not."""

    def in_words(self, answer: str, row: Row) -> str:
        """A canonical answer as people read it."""

    def same(self, a: str, b: str) -> bool:
        """Whether two canonical answers agree."""

    def score(self, answer: str, gold: str) -> float:
        """How right an answer is, from 0 to 1; the mean over the test rows is the accuracy."""

    def transfer(self, answer: str, solved: Row, row: Row) -> str | None:
        """The answer of a solved row in the terms of another row; None where it means nothing there."""
