"""Multiple choice: one of 2 to 10 options."""

from __future__ import annotations

import re

from semievol.tasks.base import Row

LETTERS = "ABCDEFGHIJ"


class MultipleChoice:
    """The canonical answer is the option's letter."""

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

    def choices(self, row: Row) -> list[str] | None:
        return list(LETTERS[: len(row.options)])

    def same(self, a: str, b: str) -> bool:
        return a == b

    def score(self, answer: str, gold: str) -> float:
        return float(answer == gold)

    def transfer(self, answer: str, solved: Row, row: Row) -> str | None:
        text = solved.options[LETTERS.index(answer)]
        return LETTERS[row.options.index(text)] if text in row.options else None
