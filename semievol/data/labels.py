"""The labels of labeled and test rows: count them, and say what looks wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pyarrow as pa

from semievol.errors import UserError
from semievol.tasks import Row, Task

MOST = 10_000
_SHARE_OF_ROWS, _FROM_ROWS = 0.7, 20  # more texts than this share of so many rows are not labels
_NAMED = 10  # in a note


def count(block: pa.Table, task: Task) -> Counter[str]:
    """Count the labels of some rows as they are spelled there; with sets, each label of a row."""
    return Counter(label for answer in block["answer"].to_pylist() for label in task.parts(answer))


def check(task: Task, found: Counter[str], rows: int) -> None:
    """Raise if what should be a label set is something else: more and more texts, or a single one."""
    if len(found) > MOST or (rows >= _FROM_ROWS and len(found) > _SHARE_OF_ROWS * rows):
        some = ", ".join(f"'{label[:60]}'" for label, _ in found.most_common(3))
        raise UserError(
            f"data.columns.answer: {len(found):,} different texts in {rows:,} labeled rows do not look like labels: {some}, ... "
            f"If they are answers in words, use task.kind: free_text; if they are labels, list them in task.labels"
        )
    if len(_all(task.learned(found))) < 2 - task.sets:
        raise UserError(
            f"data.columns.answer: all labeled rows have the label '{next(iter(found), '')}'. Give rows of each label, or list "
            f"all of them in task.labels"
        )


def notes(task: Task, labeled: Counter[str], test: Counter[str]) -> dict[str, int]:
    """Return remarks on labels, with how many rows each is about; `task` knows the label set."""
    spelled: dict[str, list[str]] = {}
    for label in labeled:
        spelled.setdefault(_canonical(task, label), []).append(label)
    said = {}
    for name, spellings in sorted(spelled.items()):
        others = [label for label in spellings if label != name]
        if others and len(spellings) > 1:
            what = f"labeled: {_quoted(others)} and '{name}' differ in case or white space only, and count as one label"
            said[what] = sum(labeled[label] for label in others)
    unseen = {label: n for label, n in test.items() if _canonical(task, label) not in spelled}
    if unseen:
        fate = "are seldom right" if unseen.keys() <= set(_all(task)) else "can never be right"
        what = f"test: {_quoted(unseen)} never labels a labeled row (rows kept; their answers {fate})"
        said[what] = sum(unseen.values())
    if without := [name for name in _all(task) if name not in spelled]:
        said[f"labeled: {_quoted(without)} of task.labels labels no row"] = 0
    return said


def merged(task: Task, found: Counter[str]) -> Counter[str]:
    """Return counts of labels as the set spells them."""
    counts: Counter[str] = Counter()
    for label, n in found.items():
        counts[_canonical(task, label)] += n
    return counts


def _canonical(task: Task, label: str) -> str:
    """Return a label as the set spells it."""
    return next(iter(task.parts(task.joined([label]) if task.sets else label)), label)


def _all(task: Task) -> list[str]:
    return task.listed(Row("", [], None, None))


def _quoted(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f", ... ({len(listed):,} labels)" if len(listed) > _NAMED else ""
    return ", ".join(f"'{name[:60]}'" for name in listed[:_NAMED]) + more
