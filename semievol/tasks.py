"""What a row asks for: how its question is put, how a response is read, when two answers are the same.

A new kind of task is a class with the members of `Task` (tests/unit/test_tasks.py adds a numeric one in 30 lines) and
an entry in `TASKS`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

LETTERS = "ABCDEFGHIJ"


@dataclass
class Row:
    """A question as the method sees it. `answer` is None on unlabeled rows."""

    question: str
    options: list[str]
    context: str | None
    answer: str | None


class Task(Protocol):
    """Pure functions over rows; answers are canonical strings."""

    def problem(self, row: Row) -> str | None:
        """Why this row cannot be asked, or None."""

    def gold(self, text: str, row: Row) -> str | None:
        """A cell of an answer column as a canonical answer; None if it is none."""

    def expects(self, row: Row) -> str:
        """What `gold` would have taken, for an error message."""

    def ask(self, row: Row) -> str:
        """The user message."""

    def respond(self, answer: str) -> str:
        """The assistant message that gives this answer: what models are trained to say."""

    def parse(self, response: str, row: Row) -> str | None:
        """The canonical answer in a response; None if there is none. Never raises."""

    def in_words(self, answer: str, row: Row) -> str:
        """A canonical answer as people read it."""

    def same(self, a: str, b: str) -> bool:
        """Whether two canonical answers agree."""

    def transfer(self, answer: str, solved: Row, row: Row) -> str | None:
        """The answer of a solved row in the terms of another row; None where it means nothing there."""


class MultipleChoice:
    """One of 2 to 10 options; the canonical answer is the option's letter."""

    # "Answer: B", "The answer is (B).", "answer - b"; the last one counts, as models correct themselves. A letter that
    # only a blank follows must be a capital one or close the line: "the answer is a cat" names no option.
    _STATED = re.compile(
        r"(?i:answer)\s*(?i:is|:|=|-)?[\s:*]*[(\[]?\s*(?:([A-Ja-j])\s*(?=[)\].:,;*\n]|$)|([A-J])(?=\s))",
    )
    # A bare "B", "(B)", "b.", "B) text" at the start of the response.
    _BARE = re.compile(r"^[\s*(\[]*([A-Ja-j])(?:[)\].:*]|\s*$)")

    def problem(self, row: Row) -> str | None:
        if not 2 <= len(row.options) <= len(LETTERS):
            return f"{len(row.options)} options; multiple choice takes 2 to {len(LETTERS)}"
        return None

    def gold(self, text: str, row: Row) -> str | None:
        letters = LETTERS[: len(row.options)]
        readings = {letter for letter, option in zip(letters, row.options, strict=True) if option == text}
        if len(text) == 1 and text.upper() in letters:
            readings.add(text.upper())
        return readings.pop() if len(readings) == 1 else None  # two readings are none: "A" of ["C", "B", "A"]

    def expects(self, row: Row) -> str:
        return f"a letter from A to {LETTERS[len(row.options) - 1]}, or the text of one option, and never both at odds"

    def ask(self, row: Row) -> str:
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, row.options, strict=False))
        context = f"{row.context}\n\n" if row.context else ""
        return f"{context}{row.question}\n\n{listed}\n\nAnswer with the letter of the correct option."

    def respond(self, answer: str) -> str:
        return f"Answer: {answer}"

    def parse(self, response: str, row: Row) -> str | None:
        stated = self._STATED.findall(response)
        bare = self._BARE.match(response)
        letter = "".join(stated[-1]) if stated else bare.group(1) if bare else None
        if letter and letter.upper() in LETTERS[: len(row.options)]:
            return letter.upper()
        return None

    def in_words(self, answer: str, row: Row) -> str:
        return row.options[LETTERS.index(answer)]

    def same(self, a: str, b: str) -> bool:
        return a == b

    def transfer(self, answer: str, solved: Row, row: Row) -> str | None:
        text = solved.options[LETTERS.index(answer)]
        return LETTERS[row.options.index(text)] if text in row.options else None


TASKS: dict[str, Task] = {"multiple_choice": MultipleChoice()}
