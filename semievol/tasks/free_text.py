"""The task kind `free_text`: a name, a date, a few words (DROP)."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Literal

from semievol.tasks.base import Row, Task
from semievol.tasks.parsing import decimals
from semievol.tasks.parsing.lists import as_list
from semievol.tasks.parsing.reading import first_question, refuses, stated, without_latex

_IGNORED = {"a", "an", "the", "percent"}  # "%" goes with the punctuation
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—−", "-"))
_AROUND_A_NUMBER = "$€£¥%()[]{}\"'“”‘’`*,;:!?"
_FENCED = re.compile(r"```\w*\s*(.*?)\s*```", re.DOTALL)
_KEYED = re.compile(r"\{\s*[\"'](?:final[_ ]?)?answer[\"']\s*:\s*(.*?)\s*\}", re.IGNORECASE | re.DOTALL)
_QUOTES = ('""', "''", "“”", "‘’", "«»")


class FreeText(Task):
    """A short text. The canonical answer is the text on one line, without quotes and emphasis around it.

    A gold answer may be several, as a JSON list: each of them is right. The first is what models are trained to say.
    A text that says that it gives no answer ("I don't know") is none.
    """

    transfers = True
    instruction = "Answer with a few words alone."

    kind: Literal["free_text"] = "free_text"

    def gold(self, text: str, row: Row) -> str | None:
        listed = _listed(text)
        if listed is None:
            return _one(text)
        answers = list(dict.fromkeys(answer for item in listed if (answer := _one(item))))
        return json.dumps(answers, ensure_ascii=False) if len(answers) > 1 else answers[0] if answers else None

    def expects(self, row: Row) -> str:
        return "a text, or a JSON list of texts that are all right; no refusal"

    def respond(self, answer: str) -> str:
        return f"Answer: {_alternatives(answer)[0]}"

    def _read(self, response: str, row: Row) -> str | None:
        response = _FENCED.sub(r"\1", first_question(response).strip())
        said = stated(response, own_line=True)
        if said is None:
            said = stated(without_latex(response))
        if said is None:  # reasoning ends in its result
            said = response.strip().rpartition("\n")[2]
        keyed = _KEYED.fullmatch(response)
        return _one(keyed[1] if keyed else said)

    def in_words(self, answer: str, row: Row) -> str:
        return " / ".join(_alternatives(answer))

    def same(self, a: str, b: str) -> bool:
        readings = [normalised(text) for text in _alternatives(b)]
        return any(normalised(text) in readings for text in _alternatives(a))

    def score(self, answer: str, gold: str) -> float:
        right = [normalised(text) for text in _alternatives(gold)]
        said = [normalised(text) for text in _alternatives(answer)]
        return float(any(_contains(words, wanted) for words in said for wanted in right))

    def transfer(self, answer: str, solved: Row, row: Row) -> str | None:
        return _alternatives(answer)[0]


def normalised(text: str) -> list[str]:
    """Return the words by which SQuAD and DROP compare texts: in lower case, without punctuation and articles.

    Compound words are taken apart, and numbers compared by value (1,000.0 is 1000).
    """
    words: list[str] = []
    for token in unicodedata.normalize("NFKC", text).casefold().translate(_DASHES).split():
        parts = [token] if _number(token) else token.replace("/", "-").split("-")
        words += filter(None, (_number(part) or _letters(part) for part in parts))
    # "The The" has nothing but articles, and "?!" nothing but punctuation: they are compared as they are.
    return [word for word in words if word not in _IGNORED] or words or [text]


def _number(token: str) -> str | None:
    return decimals.plain(token.strip(_AROUND_A_NUMBER).rstrip("."))


def _letters(token: str) -> str:
    return "".join(c for c in token if unicodedata.category(c)[0] not in "PSC")


def _contains(words: list[str], wanted: list[str]) -> bool:
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))


def _one(text: str) -> str | None:
    """Return a single answer as canonical text."""
    text = _tidy(text)
    while (listed := _listed(text)) is not None:  # a response that is a list is one answer
        text = _tidy(", ".join(listed))
    return None if not text or refuses(text) else text


def _tidy(text: str) -> str:
    """Return the text on one line, without emphasis, quotes and the full stop of a sentence around it."""
    text, before = " ".join(text.split()), None
    while text != before:
        before = text
        text = text.strip(" *`")
        if len(text) > 1 and text[0] + text[-1] in _QUOTES:
            text = text[1:-1]
        if text.endswith(".") and "." not in text.split(" ")[-1][:-1]:  # "U.S." keeps its point
            text = text[:-1]
    return text


def _alternatives(answer: str) -> list[str]:
    return _listed(answer) or [answer]


def _listed(text: str) -> list[str] | None:
    """Return the items of a list of texts or numbers; None if the text is not such a list."""
    items = as_list(text)
    if items is None:
        return None
    simple = all(isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in items)
    return [str(item) for item in items] if simple else None
