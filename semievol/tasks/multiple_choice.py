"""The task kind `multiple_choice`: one of 2 to 10 options."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal

from semievol.tasks.base import Row, Task
from semievol.tasks.parsing.reading import ANSWER, IS, first_question, stated, without_latex

LETTERS = "ABCDEFGHIJ"

# A letter that only a blank follows must be a capital one or close the line: "the answer is a cat" names no option. An
# "I" before a small letter is a pronoun.
_LETTER = r"(?:([A-Ja-j])\s{0,20}(?=[)\].:,;*\n\"'`$}<>。、]|$)|([A-HJ])(?=[\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3])|(I)(?=\s+[^a-z\s]))"
_OPENING = r"[\s:*(\[{\"'`$<]{0,20}"  # bounded: backtracking stays linear
# In the order in which they are believed.
_STATEMENTS = (
    # "Answer: B", "The answer is (B).", "answer - b", "#### B", {"answer": "B"}; the last one counts, as models
    # correct themselves.
    re.compile(
        rf"(?:(?<!wrong )(?<!incorrect )(?i:{ANSWER}(?: corr[eé]c?t[aoe])?)[\"'*]{{0,4}}\s{{0,4}}(?P<says>(?i:{IS}|[-–—])|)|####)"
        rf"{_OPENING}(?:(?i:option|choice|letter|opción|opção|opzione|la|die|das|a|选项){_OPENING})?{_LETTER}"
    ),
    re.compile(rf"(?<!wrong )(?<!incorrect )(?i:\b(?:option|choice)\s*(?:is|:|=)){_OPENING}{_LETTER}"),
    re.compile(rf"(?i:\bI(?:'d| would)? (?:choose|chose|pick|select|go with))\s+(?i:option\s+)?{_OPENING}{_LETTER}"),
)
# A bare "B", "(B)", "b.", "B) text", "Option B" at the start of the response; "B" as its last line.
_FIRST = re.compile(
    r"^[\s*(\[\"`]*(?:(?i:option|choice)[\s*(\[\"]+([A-Ja-j])\b|([A-Ja-j])(?:[)\].:*\"`。、]|(?=[ \t]*(?:\n|$))))"
)
_BEFORE_ITS_TEXT = re.compile(r"[\s*(\[\"`]*([A-J])[\s)\].:*–—-]+(?=\S)")  # "B - text", "B text"
_LAST = re.compile(r"\n[ \t*(\[\"`]*([A-J])[)\].*\"`]*\s*$")
# "B is correct", "Option B seems right"; believed where the response says it of one letter only.
_IN_PASSING = re.compile(
    r"(?<![\w'])\(?([A-J])\)?[\"*]*\s+(?:is|seems|looks|must be|has to be)\s+(?:the\s+)?(?:correct|right|best)\b(?!\s*\?)"
)
# "A. ...", "(B) ...", "Option C ..." where an item of a list begins.
_ITEM = re.compile(
    r"(?:(?:^|\n)\s*|[.;,!?:]\s+)(?:[-*(\[\"`]{1,4}\s?)?(?:(?i:option|choice|answer)\s+[*(\[\"]*)?([A-J])(?:[)\].:*]|(?=\s*(?:\n|$)))"
    r"|\b(?i:option|choice)\s+[*(\[\"]*([A-J])\b"
)
_MARKED = re.compile(r"[(\[]?([A-Ja-j])(?:[)\].:]{1,2}\s*(.*)|)", re.DOTALL)
# What says of a letter before it that it is not the answer, or weighs it.
_DISMISSED = re.compile(
    r"\?|\b(?:no|not|nor|never|cannot|wrong|incorrect|false|unlikely|impossible|implausible|eliminat\w+|rul(?:e|ed|ing) out"
    r"|reject\w*|exclud\w+|discard\w*|but|however|though|would|could|might|may|falsch|nicht|nein|kein\w*|aber|falso|falsa"
    r"|incorrect[oae]\w*|errad[oa]|n[ãa]o|pero|mas|faux|fausse|pas|non|mais|sbagliat[oa]|err[ao]t[oa]|не|нет|неверн\w*"
    r"|неправильн\w*)\b|n['’]t\b|[不错錯误誤非]|排除|間違|ない|아니|아닌|틀[린렸]|않",
    re.IGNORECASE,
)
_BECAUSE = re.compile(
    r"\W*(?:because|since|as|for|due|is (?:the )?(?:correct|right|best)|weil|porque|parce|car|因为|потому)\b",
    re.IGNORECASE,
)
_COMPLETE = re.compile(r"[.!。！\"'”)\]$`*]\s*$")
# "A and C", "A, B", "(A) or (B)" after the first letter: two options are not an answer.
_ANOTHER = re.compile(r"[)\].*\"]*\s*(?:,|/|&|\+|and|or)\s*(?:and |or )?[*(\[\"]*(?:[A-HJ]\b(?!')|I\b(?!['\s]*[a-z]))")


class MultipleChoice(Task):
    """One of 2 to 10 options. The canonical answer is the option's letter.

    A response that can be read in two ways gives no answer.
    """

    needs = ("options",)
    transfers = True
    instruction = "Answer with the letter of the correct option."

    kind: Literal["multiple_choice"] = "multiple_choice"

    @property
    def closed(self) -> bool:
        return True

    def problem(self, row: Row) -> str | None:
        if not 2 <= len(row.options) <= len(LETTERS):
            return f"{len(row.options)} options; multiple choice takes 2 to {len(LETTERS)}"
        return None

    def gold(self, text: str, row: Row) -> str | None:
        options = _lettered(row)
        readings = {letter for letter, option in options.items() if option == text}
        if text.upper() in options:
            readings.add(text.upper())
        if not readings:
            readings = set(filter(None, [_marked(text, row)]))
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
        text = first_question(without_latex(unicodedata.normalize("NFKC", response)))
        # First, as an option may begin like a letter: "The answer is A gas takes the shape of its container."
        repeated = _option(text, row) or _option(stated(text) or "", row)
        if repeated:
            return repeated
        for pattern in _STATEMENTS:
            found = [match for match in pattern.finditer(text) if _stands(match, row)]
            if found:
                letter = _letter(found[-1])
                return letter if letter in _lettered(row) and not _ANOTHER.match(text, found[-1].end()) else None
        passing = set(_IN_PASSING.findall(text))
        given = _first(text, row) or _last(text) or (passing.pop() if len(passing) == 1 else None)
        return given if given in _lettered(row) else None

    def in_words(self, answer: str, row: Row) -> str:
        return _lettered(row).get(answer) or answer

    def choices(self, row: Row) -> list[str] | None:
        return list(_lettered(row))

    def transfer(self, answer: str, solved: Row, row: Row) -> str | None:
        text = _lettered(solved).get(answer)
        return next((letter for letter, option in _lettered(row).items() if option == text), None)


def _marked(text: str, row: Row) -> str | None:
    """Return the letter that a cell gives in the way of lists, as in "(b)", "B." and "B) text", or by an option in another case."""
    found = _MARKED.fullmatch(unicodedata.normalize("NFKC", text).strip())
    letter = found[1].upper() if found else None
    if found is None or letter not in _lettered(row):
        return _option(text, row)
    return letter if not found[2] or _option(found[2], row) == letter else None


def _letter(match: re.Match[str]) -> str:
    return next(group.upper() for group in match.groups() if group and group.upper() in LETTERS)


def _stands(match: re.Match[str], row: Row) -> bool:
    """Tell whether a statement is meant: not "answer A is wrong", and not "Answer: A. this" where "B. that" follows."""
    letter, options = _letter(match), _lettered(row)
    rest = match.string[match.end() :]
    said = _sentence(rest)
    if match.groupdict().get("says") == "":  # "Answer B" may be an item of a list
        return not _items(match.string[: match.start()]) and _leads(letter, rest, row)
    if re.match(r"\W*(?:is|are|was|seems|can|could|would|does|cannot)\b", said) and _DISMISSED.search(said):
        return False
    listed = ((line[:1].upper(), _bare(line[2:])) for line in (part.strip(' *(["`') for part in rest.split("\n")[1:]))
    return not any(name in options and name != letter and text == _bare(options[name]) for name, text in listed)


def _first(text: str, row: Row) -> str | None:
    """Return the letter that a response begins with, if that is its answer and does not open a list of the options."""
    match = _FIRST.search(text)
    if match is None:
        named = _BEFORE_ITS_TEXT.match(text)
        return named[1] if named and _option(text[named.end() :], row) == named[1] else None
    letter = _letter(match)
    return letter if _leads(letter, text[match.end() :], row) and not _ANOTHER.match(text, match.end()) else None


def _leads(letter: str, rest: str, row: Row) -> bool:
    """Tell whether a letter is an answer by what follows it: the option, a reason, a whole sentence that stands by it."""
    if set(_items(rest)) - {letter}:
        return False
    said, _, after = rest.strip(' \t)]*"`.:').partition("\n")
    if not said.strip():
        return not (
            re.match(r"\W*(?:this|that|it|option|not|no)\b", after, re.IGNORECASE)
            and _DISMISSED.search(_sentence(after))
        )
    option = _bare(_lettered(row).get(letter, ""))
    reason = said[len(option) :] if option and said.casefold().startswith(option) else said
    if _bare(said) == option or _BECAUSE.match(reason):
        return True
    return not _DISMISSED.search(said) and _COMPLETE.search(rest) is not None


def _last(text: str) -> str | None:
    """Return the letter that is the last line, unless it is the next item of a list that was cut off."""
    match = _LAST.search(text)
    before = text[: match.start()] if match else ""
    items = _items(before)
    if match is None or before.rstrip().endswith(":") or (items and ord(match[1]) == ord(items[-1]) + 1):
        return None
    return match[1]


def _items(text: str) -> list[str]:
    return [marked or named for marked, named in _ITEM.findall(text)]


def _sentence(text: str) -> str:
    return re.split(r"[.!\n]", text.lstrip(' )]*"`'), maxsplit=1)[0]


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
