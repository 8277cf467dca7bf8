"""Find the names of labels in text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from semievol.tasks.parsing.reading import ANSWER, refuses

# "Answer: x", "The label is x", {"label": "x"}, "I would classify this as x".
_STATED = re.compile(
    rf"(?:{ANSWER}|\b(?:label|class|category|categorie|kategorie|categoría|catégorie|topic|intent|sentiment|etikett)(?:s|es)?\b"
    r"|标签|类别|ラベル|метка)[\s\"'*_`]*(?:\bis\b|\bare\b|[:=：]|是|は)+|\b(?:classif(?:y|ied)|label(?:l?ed)?)\b[^.\n]{0,40}?\bas\b|####",
    re.IGNORECASE,
)
# What turns a label that a response mentions into one that it does not give.
_DENIED = re.compile(
    r"\b(?:not|no|nor|neither|never|cannot|without|rather|instead|isn t|doesn t|wasn t|except|wrong|incorrect|nicht|kein\w*"
    r"|ni|pas|ne|sin|non|не|нет)\b|[不非没]|ない|아니"
)
# Writing without blanks between words.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")

_WHOLE = re.compile(r"\A(-?\d+)\.0+\Z")
_SIGNS = 20  # around a label, at most
_AROUND = " \t\r\n*`\"'“”‘’«».:,;!-–—()[]{}<>#"


def folded(text: str) -> str:
    """Return what stays of a label if case and white space do not count, nor whether a program wrote 1 as 1.0."""
    return _WHOLE.sub(r"\1", " ".join(unicodedata.normalize("NFC", text).casefold().split()))


def _loose(text: str) -> str:
    """Return the letters and digits of a text, in lower case, with a blank for each run of other characters."""
    return " ".join(re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).split())


class Names:
    """The labels of a set, looked up in text. Where labels contain each other, the longest counts."""

    def __init__(self, labels: Iterable[str]) -> None:
        self._folded = {folded(name): name for name in labels}
        self.places = {key: place for place, key in enumerate(self._folded)}
        # Labels that only punctuation tells apart (C, C++) are found as a whole answer, and not inside a sentence.
        loose: dict[str, list[str]] = {}
        for name in self._folded.values():
            loose.setdefault(_loose(name), []).append(name)
        self._loose = {key: names[0] for key, names in loose.items() if key and len(names) == 1}
        inside = sorted((key for key in self._loose if _stands_alone(key)), key=len, reverse=True)
        self._unspaced = [key for key in inside if _UNSPACED.search(key)]
        self._by_first_word: dict[str, list[list[str]]] = {}
        for words in (key.split() for key in inside if not _UNSPACED.search(key)):
            self._by_first_word.setdefault(words[0], []).append(words)

    def exactly(self, text: str) -> str | None:
        """Return the label that a text is, in any case and white space."""
        return self._folded.get(folded(text))

    def one_in(self, response: str) -> str | None:
        """Return the label that a response gives; None if it gives none, or two, or says that it is not one."""
        if alone := self._alone(response):
            return alone
        if stated := list(_STATED.finditer(response)):
            said = response[stated[-1].end() :].lstrip().partition("\n")[0]
            if alone := self._alone(said):
                return alone
            if found := self._mentioned(said):
                return found[0] if len(found) == 1 else None
        lines = [line for line in response.splitlines() if line.strip()]
        of_lines = dict.fromkeys(filter(None, map(self._alone, lines)))
        if len(of_lines) > 1:
            return None
        if of_lines and (self._alone(lines[0]) or self._alone(lines[-1])):
            return next(iter(of_lines))
        found = self._mentioned(response)
        return found[0] if found and len(found) == 1 else None

    def all_in(self, response: str, *, nothing: str) -> list[str] | None:
        """Return the labels that a response gives; None if that is not clear. `nothing` says that there is none."""
        stated = list(_STATED.finditer(response))
        said = response[stated[-1].end() :].strip() if stated else response.strip()
        if _loose(said) == _loose(nothing):
            return []
        pieces = [piece for piece in re.split(r"[;,|\n]|\band\b", said) if _loose(piece)]
        alone = [self._alone(piece) for piece in pieces]
        if alone and None not in alone:
            return [name for name in alone if name]
        return self._mentioned(said) or None

    def _alone(self, text: str) -> str | None:
        """Return the label that a text is, with any punctuation around and inside it."""
        for said in (text.strip(), text.lstrip(_AROUND)):
            for _ in range(_SIGNS):  # a sign at a time: "C#." is C# and not C
                if name := self.exactly(said):
                    return name
                if said[-1:] not in _AROUND:
                    break
                said = said[:-1]
        return self._loose.get(_loose(text))

    def _mentioned(self, text: str) -> list[str]:
        """Return the different labels in a sentence; none if it denies something or asks."""
        if refuses(text) or "?" in text or "？" in text:
            return []
        said, found, others = _loose(text), dict[str, None](), []
        for key in self._unspaced:
            if key in said:
                found[key] = None
                said = said.replace(key, " ")
        words, place = said.split(), 0
        while place < len(words):
            known = self._by_first_word.get(words[place], [])
            longest = next((key for key in known if words[place : place + len(key)] == key), None)
            if longest is None:
                others.append(words[place])
            else:
                found[" ".join(longest)] = None
            place += len(longest or " ")
        return [] if _DENIED.search(" ".join(others)) else [self._loose[key] for key in found]


def _stands_alone(loose: str) -> bool:
    """Tell whether a label is long enough to be told from other words of a sentence: not "a" or "1"."""
    return _UNSPACED.search(loose) is not None or (len(loose) > 1 and not loose.isdigit())
