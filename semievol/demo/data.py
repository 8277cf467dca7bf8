"""Write the demo's data: synthetic support tickets, each with the queue that should handle it.

The labeled tickets are a sample of all of them, so a rare queue has a few. Duplicates, rows that are in test too, and
malformed rows give ingest something to report.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

from semievol.demo.phrases import QUEUES, ticket, zipf

Row = dict[str, Any]

SHARES = {
    "Payment": 0.22,
    "Delivery": 0.19,
    "Software": 0.16,
    "Returns": 0.13,
    "Hardware": 0.11,
    "Access": 0.09,
    "Sales": 0.06,
    "Legal": 0.04,
}
SETTLED = {0: 0.3, 1: 0.45, 2: 0.25}  # other matters in a ticket, and how often
DUPLICATE_SHARE = 0.02
SHARD_ROWS = 300


def write_dataset(
    folder: Path, *, seed: int, labeled: int = 80, unlabeled: int = 400, test: int = 300
) -> dict[str, int]:
    """Write labeled.jsonl, unlabeled/part-*.jsonl and test.jsonl; return the row counts of each kind.

    Unlabeled rows keep their true queue in `oracle`, which only measures pseudo-labels; nothing may learn from it.
    """
    rng = Random(f"tickets-{seed}")
    # Each queue is in the labeled rows, or there would be a label that nothing can learn.
    labeled_rows = [_row(rng, queue) for queue in SHARES] + [_row(rng) for _ in range(labeled - len(SHARES))]
    unlabeled_rows = [_row(rng) for _ in range(unlabeled)]
    test_rows = [_row(rng) for _ in range(test)]
    unlabeled_rows += rng.sample(unlabeled_rows, round(unlabeled * DUPLICATE_SHARE)) + rng.sample(test_rows, 2)
    labeled_rows.append(_row(rng) | {"queue": ""})
    unlabeled_rows = [_hide_answer(row) for row in unlabeled_rows] + [_hide_answer(_row(rng)) | {"ticket": " "}]
    rng.shuffle(labeled_rows)
    rng.shuffle(unlabeled_rows)

    _write_jsonl(folder / "labeled.jsonl", labeled_rows)
    for part, start in enumerate(range(0, len(unlabeled_rows), SHARD_ROWS)):
        _write_jsonl(folder / "unlabeled" / f"part-{part:03d}.jsonl", unlabeled_rows[start : start + SHARD_ROWS])
    _write_jsonl(folder / "test.jsonl", test_rows)
    return {"labeled": len(labeled_rows), "unlabeled": len(unlabeled_rows), "test": len(test_rows)}


def _row(rng: Random, queue: str | None = None) -> Row:
    """Return a ticket of a queue, or of one drawn by the shares, that may also mention matters of other queues."""
    queue = queue or rng.choices(list(SHARES), list(SHARES.values()))[0]
    [opened] = zipf(rng, QUEUES[queue], 1)
    count = rng.choices(list(SETTLED), list(SETTLED.values()))[0]
    others = rng.sample([name for name in SHARES if name != queue], count)
    settled = [term for other in others for term in zipf(rng, QUEUES[other], 1)]
    return {"ticket": ticket(rng, opened=opened, settled=settled), "queue": queue}


def _hide_answer(row: Row) -> Row:
    return {("oracle" if key == "queue" else key): value for key, value in row.items()}


def _write_jsonl(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
