"""The task kind `classification`: labels from one set, the same for all rows."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from semievol.tasks.base import Row, Task
from semievol.tasks.parsing.lists import as_list
from semievol.tasks.parsing.naming import Names, folded
from semievol.tasks.parsing.reading import without_latex

_NOTHING = ("none", "no label")  # the response of an empty set; the second where a label has the first one's name
_SHOWN_IN_MESSAGES = 5
_LABELS_OF_A_ROW = 5  # of a response, the most that is provided for


class Classification(Task):
    """One label of a set, or with `multiple` any number of them. Labels may have any length and language.

    The canonical answer is the label as the set spells it, and the response is that text alone. With `multiple` the
    canonical answer is a JSON list in the order of the set, the response joins its labels by the separator, and `none`
    stands for no label. A cell may hold a list, a text that writes one down, or separated labels; `[]` says that the row has no label,
    while an empty cell says nothing, and the row cannot be used.

    Cells match labels in any case and white space. A number is a label of that name, never a place in the set. Options
    in the data are ignored.

    Prompts list the labels as `show` says. With one label, all of them are scored, listed or not, so a long list is no
    help to a model that has learned the labels in the warm-up: above `show_tokens`, `auto` lists none, in all prompts of
    a run alike. Sets of labels are generated, and each label is believed by the share of responses that have it.
    """

    transfers = True
    names_labels = True
    ignores = ("options",)
    unread = frozenset({"show", "show_tokens"})

    kind: Literal["classification"] = "classification"
    labels: list[str] | dict[str, str] | None = None
    """The label set: a list, or a mapping of labels to descriptions. Default: the labels of the labeled rows."""
    multiple: bool = False
    """A row may have several labels, or none."""
    separator: str = Field(";", min_length=1)
    """What separates the labels of a cell and of a response, with `multiple`."""
    show: Literal["auto", "all", "likeliest", "none"] = "auto"
    """The labels that prompts list. `likeliest`: those of the nearest labeled rows, then those whose names are nearest.
    `auto`: all up to `show_tokens`, else none."""
    show_tokens: PositiveInt = 256
    """Length of the list of labels, at about four bytes a token, up to which `auto` and `likeliest` go."""

    @field_validator("labels", mode="before")
    @classmethod
    def _as_text(cls, labels: Any) -> Any:
        """Take whole numbers as text, and say what YAML does to yes and no."""
        names = list(labels) if isinstance(labels, (list, dict)) else []
        if any(isinstance(name, bool) for name in names):
            raise ValueError("put quotes around yes, no, on, off, true and false: YAML reads them as true or false")
        if isinstance(labels, dict):
            return {str(name) if isinstance(name, int) else name: text for name, text in labels.items()}
        return [str(name) if isinstance(name, int) else name for name in names] if names else labels

    @model_validator(mode="after")
    def _check(self) -> Classification:
        if self.labels is None:
            return self
        known: dict[str, str] = {}
        for name in self.labels:
            if not folded(name):
                raise ValueError("labels: a label is empty")
            if folded(name) in known:
                raise ValueError(f"labels: '{known[folded(name)]}' and '{name}' differ in case and white space at most")
            known[folded(name)] = name
            if self.multiple and (self.separator in name or name.startswith("[")):
                raise ValueError(f"labels: '{name}' holds the separator '{self.separator}', or begins with a bracket")
        if len(known) < 2 - self.multiple:
            raise ValueError("labels: at least two are needed")
        return self

    @property
    def closed(self) -> bool:
        return not self.multiple

    @property
    def descriptions(self) -> dict[str, str]:
        return self.labels if isinstance(self.labels, dict) else {}

    @property
    def sets(self) -> bool:
        return self.multiple

    @property
    def lists_candidates(self) -> bool:
        return self.show == "likeliest"

    @property
    def learns(self) -> bool:
        return self.labels is None

    @property
    def cell_settings(self) -> dict[str, Any]:
        return super().cell_settings | {"labels": self.labels and list(self.labels)}  # without their descriptions

    def learned(self, labels: dict[str, int]) -> Classification:
        if not self.learns or not labels:
            return self
        spelled: dict[str, str] = {}
        for name in sorted(labels, key=lambda name: (-labels[name], name)):
            spelled.setdefault(folded(name), name)  # the most frequent spelling stands
        names = sorted(spelled.values(), key=lambda name: (folded(name), name))
        return self.model_construct(**self.model_dump() | {"labels": names})  # a copy would keep what is cached

    def gold(self, text: str, row: Row) -> str | None:
        if not self.multiple:
            return self._known(text)
        found = [None if self.separator in part else self._known(part) for part in self._separated(text)]
        return None if None in found or not (found or _is_list(text)) else self.joined(filter(None, found))

    def expects(self, row: Row) -> str:
        names = list(self.labels or ())
        if not names:
            return "a label"
        shown = ", ".join(f"'{name}'" for name in names[:_SHOWN_IN_MESSAGES])
        more = f", ... ({len(names):,} in task.labels)" if len(names) > _SHOWN_IN_MESSAGES else ""
        return f"one of the labels {shown}{more}"

    def refusal(self, text: str, row: Row) -> str:
        wrong = [part for part in self._separated(text) if self._known(part) is None] if self.multiple else [text]
        if not self.multiple and _is_list(text):
            return "a list of labels needs task.multiple: true"
        if self.multiple and (torn := next((part for part in self._separated(text) if self.separator in part), None)):
            return f"'{torn[:60]}' holds the separator '{self.separator}'; set task.separator to a sign that no label holds"
        at = {folded(name): name for name in self.labels or ()}
        nearest = difflib.get_close_matches(folded(wrong[0]), at, n=1, cutoff=0.0) if wrong and at else []
        near = f"; the nearest is '{at[nearest[0]]}'" if nearest else ""
        which = f"'{wrong[0][:60]}' is not a label; " if self.multiple and wrong else ""
        return f"{which}expected {self.expects(row)}{near}"

    def instruct(self, row: Row) -> str:
        if self.multiple:
            return f'Answer with all labels that fit, separated by "{self.separator}", or with "{self._nothing}".'
        return "Answer with one of these labels alone." if self.listing(row) else "Answer with the label alone."

    def listing(self, row: Row) -> str:
        shown = self._shown(row)
        return f"Labels:\n{shown}" if shown else ""

    def respond(self, answer: str) -> str:
        if not self.multiple:
            return self._known(answer) or answer
        names = self._parts(answer)
        return f"{self.separator} ".join(names) if names else self._nothing

    def _read(self, response: str, row: Row) -> str | None:
        text = without_latex(response)
        if not self.multiple:
            if self.labels is None:
                return response.strip() or None
            return self._known(response) or self._names.one_in(text)
        said = self.gold(response, row)
        if self.labels is None or said is not None:
            return said
        if folded(response).strip(" .") == self._nothing:
            return "[]"
        several = self._names.all_in(text, nothing=self._nothing)
        return None if several is None else self.joined(several)

    def choices(self, row: Row) -> list[str] | None:
        return None if self.multiple else list(self.labels) if self.labels else None

    def listed(self, row: Row) -> list[str]:
        return row.candidates or list(self.labels or ())

    def in_words(self, answer: str, row: Row) -> str:
        return (", ".join(self._parts(answer)) or self._nothing) if self.multiple else answer

    def same(self, a: str, b: str) -> bool:
        return a == b or set(map(folded, self._parts(a))) == set(map(folded, self._parts(b)))

    def transfer(self, answer: str, solved: Row, row: Row) -> str | None:
        return self.gold(answer, row)

    @property
    def longest(self) -> int:
        sizes = sorted(len(name.encode(errors="replace")) for name in self.labels or ())
        return sum(size // 2 + 4 for size in sizes[-_LABELS_OF_A_ROW if self.multiple else -1 :])

    def parts(self, answer: str) -> list[str]:
        return [self._known(name) or name for name in self._parts(answer)]

    def joined(self, parts: Iterable[str]) -> str:
        order = self._names.places
        unique = {folded(name): name for name in parts}
        at = sorted(unique, key=lambda key: (order.get(key, len(order)), key))
        return json.dumps([unique[key] for key in at], ensure_ascii=False)

    def shortlist(self, likely: Iterable[str]) -> list[str]:
        chosen: list[str] = []
        left = 4 * self.show_tokens
        for name in dict.fromkeys(known for label in likely if (known := self._known(label))):
            left -= len(self._line(name).encode(errors="replace")) + 1
            if left < 0 and chosen:
                break
            chosen.append(name)
        return chosen

    @cached_property
    def _names(self) -> Names:
        return Names(self.labels or ())

    @property
    def _nothing(self) -> str:
        return _NOTHING[self.labels is not None and self._known(_NOTHING[0]) is not None]

    @cached_property
    def _all(self) -> str:
        """The list of all labels, as prompts show it."""
        return "\n".join(map(self._line, self.labels or ()))

    def _shown(self, row: Row) -> str:
        if self.show == "likeliest":
            return "\n".join(map(self._line, row.candidates or ()))
        fits = len(self._all.encode(errors="replace")) <= 4 * self.show_tokens
        return self._all if self.show == "all" or (self.show == "auto" and fits) else ""

    def _line(self, name: str) -> str:
        text = self.labels.get(name) if isinstance(self.labels, dict) else None
        return f"- {name}: {text}" if text else f"- {name}"

    def _known(self, text: str) -> str | None:
        """Return a label as the set spells it; without a set, any text is one."""
        return (text.strip() or None) if self.labels is None else self._names.exactly(text)

    def _separated(self, text: str) -> list[str]:
        parts = map(str, as_list(text) or ()) if _is_list(text) else text.split(self.separator)
        return [part.strip() for part in parts if part.strip()]

    def _parts(self, answer: str) -> list[str]:
        return self._separated(answer) if self.multiple else [answer]


def _is_list(text: str) -> bool:
    """Tell whether a text is a list of labels."""
    items = as_list(text)
    return items is not None and all(isinstance(item, (str, int)) and not isinstance(item, bool) for item in items)
