"""The task kind `multiple_choice`: one of 2 to 10 options."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal

from semievol.tasks.base import Row, Task
from semievol.tasks.parsing.reading import ANSWER, stated, without_latex

LETTERS = "ABCDEFGHIJ"

# A letter that only a blank follows must be a capital one or close the line: "the answer is a cat" names no option. An
# "I" before a small letter is a pronoun.
_LETTER = r"(?:([A-Ja-j])\s{0,20}(?=[)\].:,;*\n\"`$}>]|$)|([A-HJ])(?=\s)|(I)(?=\s+[^a-z\s]))"
_OPENING = r"[\s:*(\[\"'`$<]{0,20}"  # bounded: backtracking stays linear
# In the order in which they are believed.
_STATEMENTS = (
    # "Answer: B", "The answer is (B).", "answer - b", "#### B", {"answer": "B"}; the last one counts, as models
    # correct themselves.
    re.compile(
        rf"(?:(?i:{ANSWER})[\"*]{{0,4}}\s{{0,4}}(?i:is|:|=|-|–|—|是|은)?|####)"
        rf"{_OPENING}(?:(?i:option|choice){_OPENING})?{_LETTER}"
    ),
    re.compile(rf"(?i:\b(?:option|choice)\s*(?:is|:|=)){_OPENING}{_LETTER}"),
    re.compile(rf"(?i:\bI(?:'d| would)? (?:choose|chose|pick|select|go with))\s+(?i:option\s+)?{_OPENING}{_LETTER}"),
)
# A bare "B", "(B)", "b.", "B) text" at the start of the response; "B" as its last line.
_FIRST = re.compile(r"^[\s*(\[\"`]*([A-Ja-j])(?:[)\].:*\"`]|\s*(?:\n|$))")
_LAST = re.compile(r"\n[ \t*(\[\"`]*([A-J])[)\].*\"`]*\s*$")
# "B is correct", "Option B"; believed where the response speaks of one letter only.
_IN_PASSING = re.compile(
    r"(?:(?<![\w'])\(?([A-J])\)?[\"*]*\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
    r"|\b(?i:option|choice)\s+[*(\[\"]*([A-J])\b(?![\"*)\]]*\s+(?:is|are|was)\s+(?:not|wrong|incorrect|false)\b))"
)
# "A and C", "A, B", "(A) or (B)" after the first letter: two options are not an answer.
_ANOTHER = re.compile(r"[)\].*\"]*\s*(?:,|/|&|\+|and|or)\s*(?:and |or )?[*(\[\"]*(?:[A-HJ]\b(?!')|I\b(?!['\s]*[a-z]))")


class MultipleChoice(Task):
    """One of 2 to 10 options. The canonical answer is the option's letter.

    A response that can be read in two ways gives no answer.
    """

    closed = True
    needs = ("options",)
    transfers = True
    instruction = "Answer with the letter of the correct option."

    kind: Literal["multiple_choice"] = "multiple_choice"

    def problem(self, row: Row) -> str | None:
        if not 2 <= len(row.options) <= len(LETTERS):
            return f"{len(row.options)} options; multiple choice takes 2 to {len(LETTERS)}"
        return None

    def gold(self, text: str, row: Row) -> str | None:
        options = _lettered(row)
        readings = {letter for letter, option in options.items() if option == text}
        if text.upper() in options:
            readings.add(text.upper())
        return readings.pop() if len(readings) == 1 else None  # two readings are none: "A" of ["C", "B", "A"]

    def expects(self, row: Row) -> str:
        return (
            f"a letter from A to {max(_lettered(row), default='')}, or the text of one option, and never both at odds"
        )

    def ask(self, row: Row) -> str:
        listed = "\n".join(f"{letter}. {option}" for letter, option in _lettered(row).items())
        context = f"{row.context}\n\n" if row.context else ""
        return f"{context}{row.question}\n\n{listed}"

    def _read(self, response: str, row: Row) -> str | None:
        text = without_latex(unicodedata.normalize("NFKC", response))
        # First, as an option may begin like a letter: "The answer is A gas takes the shape of its container."
        repeated = _option(text, row) or _option(stated(text) or "", row)
        if repeated:
            return repeated
        match = self._statement(text)
        if match is not None:
            letter = next(group for group in match.groups() if group).upper()
            return letter if letter in _lettered(row) and not _ANOTHER.match(text, match.end()) else None
        passing = {(a or b) for a, b in _IN_PASSING.findall(text)}
        return passing.pop() if len(passing) == 1 and passing <= _lettered(row).keys() else None

    def _statement(self, text: str) -> re.Match[str] | None:
        for pattern in _STATEMENTS:
            if found := list(pattern.finditer(text)):
                return found[-1]
        return _FIRST.search(text) or _LAST.search(text)

    def in_words(self, answer: str, row: Row) -> str:
        return _lettered(row).get(answer) or answer

    def choices(self, row: Row) -> list[str] | None:
        return list(_lettered(row))

    def transfer(self, answer: str, solved: Row, row: Row) -> str | None:
        text = _lettered(solved).get(answer)
        return next((letter for letter, option in _lettered(row).items() if option == text), None)


def _lettered(row: Row) -> dict[str, str]:
    return dict(zip(LETTERS, row.options, strict=False))


@lru_cache(maxsize=1024)  # the options of a row are compared with each of its responses
def _bare(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", without_latex(text)).casefold().split()).strip(" .*\"'`:;,")


def _option(text: str, row: Row) -> str | None:
    """Return the letter of the one option that a text repeats, in any case and with any punctuation around it."""
    said = _bare(text)
    if (
        not said or said.upper() in LETTERS
    ):  # letters were asked for, so it is one even where an option has the text "B"
        return None
    found = [letter for letter, option in _lettered(row).items() if _bare(option) == said]
    return found[0] if len(found) == 1 else None
