"""Read the options of a row, in the ways that data sets hold them. What is read is a list of texts, still to be cleaned."""

from __future__ import annotations

import re
from typing import Any

from semievol.tasks.parsing.lists import as_list, literal

_LETTERS = "ABCDEFGHIJ"
_TEXTS = ("text", "content", "value", "option", "choice")  # the key of the text, where each option is a mapping
_MARK = re.compile(r"(?:(?<=[\s,;|])|\A)[(\[]?([A-Ja-j])\s?[).:\]]\s*(?=\S)")


def read(value: Any) -> list[Any] | None:
    """Return a cell as a list of options; None if it is none.

    Lists; texts that write down a list or a mapping; mappings of letters to texts, or of `text` to all of them; lists of
    mappings; "A) x B) y", also on lines of their own. Letters before all of the texts are left out: prompts have their own.
    """
    if isinstance(value, str):
        value = _of_text(value)
    if isinstance(value, dict):
        value = _of_mapping(value)
    if not isinstance(value, (list, tuple)):
        return None
    options = [_text(option) for option in value]
    marks = [_MARK.match(option) if isinstance(option, str) else None for option in options]
    if len(marks) > 1 and "".join(mark[1].upper() for mark in marks if mark) == _LETTERS[: len(marks)]:
        return [option[mark.end() :] for option, mark in zip(options, marks, strict=True) if mark]
    return options


def _of_text(text: str) -> Any:
    if (items := as_list(text)) is not None:
        return items
    if text.lstrip()[:1] == "{":
        return literal(text.strip())
    marks: list[re.Match[str]] = []
    for mark in _MARK.finditer(text):
        if mark[1].upper() == _LETTERS[len(marks) : len(marks) + 1]:
            marks.append(mark)
    if len(marks) < 2 or text[: marks[0].start()].strip():
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [text[mark.end() : end].strip(" \t\r\n,;|") for mark, end in zip(marks, ends, strict=True)]


def _of_mapping(value: dict[str, Any]) -> Any:
    for name in _TEXTS:
        if isinstance(value.get(name), list):  # {"text": [...], "label": [...]}
            return value[name]
    named = {str(key).strip("()[].").upper(): text for key, text in value.items()}
    for keys in (_LETTERS, "0123456789", "123456789"):
        if len(named) == len(value) and set(named) == set(keys[: len(named)]):
            return [named[key] for key in keys[: len(named)]]
    return None


def _text(option: Any) -> Any:
    if not isinstance(option, dict):
        return option
    return next((option[name] for name in _TEXTS if isinstance(option.get(name), str)), option)
