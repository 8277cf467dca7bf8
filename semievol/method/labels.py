"""Measure labels one by one: precision, recall and F1 of each, and which is taken for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from semievol.tasks import Row, Task

_CONFUSIONS = 50
_BLANK = Row("", [], None, None)


def by_label(task: Task, truths: Iterable[str | None], answers: Iterable[str | None]) -> dict[str, Any]:
    """Return `macro_f1`, `labels` (each with precision, recall, f1 and support) and `confusions` (most frequent first).

    The labels are those of the true and of the given answers; the macro mean is over all of them, and counts a label that
    is never right as 0. An answer that is missing is a wrong one. Of sets of labels there is a `micro_f1` too, and a
    confusion is between whole sets.
    """
    from sklearn.metrics import precision_recall_fscore_support
    from sklearn.preprocessing import MultiLabelBinarizer

    pairs = [(truth, answer) for truth, answer in zip(truths, answers, strict=True) if truth is not None]
    true = [task.parts(truth) for truth, _ in pairs]
    given = [[] if answer is None else task.parts(answer) for _, answer in pairs]
    names = sorted({name for parts in (*true, *given) for name in parts})
    if not names:
        return {}
    marks = MultiLabelBinarizer(classes=names, sparse_output=True)  # rows x labels
    expected, said = marks.fit_transform(true), marks.transform(given)
    each = precision_recall_fscore_support(expected, said, average=None, zero_division=0)
    figures = {
        name: {
            "precision": round(float(p), 4),
            "recall": round(float(r), 4),
            "f1": round(float(f), 4),
            "support": int(n),
        }
        for name, p, r, f, n in zip(names, *each, strict=True)
    }
    micro = precision_recall_fscore_support(expected, said, average="micro", zero_division=0)[2]
    wrong = Counter(
        (_words(task, true), _words(task, given))
        for true, given in pairs
        if given is None or not task.same(true, given)
    )
    return {
        "macro_f1": round(float(each[2].mean()), 4),
        **({"micro_f1": round(float(micro), 4)} if task.sets else {}),
        "labels": figures,
        "confusions": [
            {"true": truth, "answered": answer, "rows": n} for (truth, answer), n in wrong.most_common(_CONFUSIONS)
        ],
    }


def _words(task: Task, answer: str | None) -> str | None:
    """Return an answer as people read it, in the spelling of the label set."""
    return None if answer is None else task.in_words(task.transfer(answer, _BLANK, _BLANK) or answer, _BLANK)
