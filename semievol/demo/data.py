"""Write the demo's data: synthetic support tickets to route to one of six queues.

About a hundred labeled tickets show the common terms of each queue. The many unlabeled ones also have rare terms, often
next to a common one of the same queue, so self-training can learn them. The labeled part is balanced; the others are not.
Duplicates, rows that are in test too, and malformed rows give ingest something to report.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

from semievol.demo.phrases import QUEUES, ticket, zipf

Row = dict[str, Any]

ASK = "Which queue should handle this ticket?"
OPTIONS = list(QUEUES)
SKEW = (0.30, 0.22, 0.17, 0.13, 0.10, 0.08)
DISTRACTOR_SHARE = 0.25
DUPLICATE_SHARE = 0.02
SHARD_ROWS = 300


def write_dataset(
    folder: Path, *, seed: int, labeled: int = 120, unlabeled: int = 1200, test: int = 500
) -> dict[str, int]:
    """Write labeled.jsonl, unlabeled/part-*.jsonl and test.jsonl; return the row counts of each kind.

    Unlabeled rows keep their true letter in `oracle`, which only measures pseudo-labels; nothing may learn from it.
    """
    rng = Random(f"tickets-{seed}")
    skew = rng.sample(SKEW, len(SKEW))
    queues = range(len(OPTIONS))
    labeled_rows = [_row(rng, at % len(OPTIONS)) for at in range(labeled)]
    unlabeled_rows = [_row(rng, rng.choices(queues, skew)[0]) for _ in range(unlabeled)]
    test_rows = [_row(rng, rng.choices(queues, skew)[0]) for _ in range(test)]
    unlabeled_rows += rng.sample(unlabeled_rows, round(unlabeled * DUPLICATE_SHARE)) + rng.sample(test_rows, 2)
    broken_labeled, broken_unlabeled = _broken(rng)
    labeled_rows += broken_labeled
    unlabeled_rows = [_hide_answer(row) for row in unlabeled_rows] + broken_unlabeled
    rng.shuffle(labeled_rows)
    rng.shuffle(unlabeled_rows)

    _write_jsonl(folder / "labeled.jsonl", labeled_rows)
    for part, start in enumerate(range(0, len(unlabeled_rows), SHARD_ROWS)):
        _write_jsonl(folder / "unlabeled" / f"part-{part:03d}.jsonl", unlabeled_rows[start : start + SHARD_ROWS])
    _write_jsonl(folder / "test.jsonl", test_rows)
    return {"labeled": len(labeled_rows), "unlabeled": len(unlabeled_rows), "test": len(test_rows)}


def _row(rng: Random, queue: int) -> Row:
    """Return a ticket of one queue; some also mention a settled matter of another queue."""
    opened = zipf(rng, QUEUES[OPTIONS[queue]], rng.choices((1, 2, 3), (0.15, 0.35, 0.5))[0])
    settled = []
    if rng.random() < DISTRACTOR_SHARE:
        other = rng.choice([name for name in OPTIONS if name != OPTIONS[queue]])
        settled = zipf(rng, QUEUES[other], 1)
    text = ticket(rng, opened=opened, settled=settled)
    return {"question": f"{text}\n{ASK}", "options": OPTIONS, "answer": "ABCDEF"[queue]}


def _broken(rng: Random) -> tuple[list[Row], list[Row]]:
    """Return malformed labeled and unlabeled rows: a letter without an option, no question, no options."""
    outside = _row(rng, 0) | {"answer": "Z"}
    no_question = _hide_answer(_row(rng, 1))
    del no_question["question"]
    return [outside], [no_question, _hide_answer(_row(rng, 2)) | {"options": []}]


def _hide_answer(row: Row) -> Row:
    return {("oracle" if key == "answer" else key): value for key, value in row.items()}


def _write_jsonl(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
