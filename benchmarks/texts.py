"""Texts with labels, of which a study takes few as labeled: FPB and TREC from `../shared/data`.

Of FPB the three files are pooled, because a test set of 453 rows cannot tell methods apart; of TREC it is train.csv. A text
that stands there twice counts once.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

DATA = Path(__file__).parents[2] / "shared" / "data"
_FILES = {"fpb": (["labeled", "unlabeled", "test"], "question", "gt"), "trec": (["train"], "text", "label")}
SETS = tuple(_FILES)
TEST, UNLABELED = {"fpb": 1000, "trec": 1200}, 1200
BUDGETS = {"fpb": (64, 128, 256, 452), "trec": (64, 128, 256, 500)}

Texts = list[tuple[str, str]]


def read(name: str) -> Texts:
    """Return the texts of a data set with their labels."""
    files, text, label = _FILES[name]
    found: dict[str, str] = {}
    for file in files:
        with (DATA / name / f"{file}.csv").open(newline="") as lines:
            for record in csv.DictReader(lines):
                found.setdefault(record[text].strip(), record[label].strip())
    return list(found.items())


def split(name: str, seed: int, budget: int) -> dict[str, Texts]:
    """Return labeled, unlabeled and test rows. A seed has one set of test rows; the labeled ones of a larger budget hold those of
    a smaller one."""
    rows = read(name)
    random.Random(f"{name}-{seed}").shuffle(rows)
    test, rest = rows[: TEST[name]], rows[TEST[name] :]
    return {"labeled": rest[:budget], "unlabeled": rest[budget : budget + UNLABELED], "test": test}


def write(folder: Path, parts: dict[str, Texts]) -> None:
    """Write each part as a CSV of text and label, unless it is there: as a new file it would be another data set."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in parts.items():
        if (file := folder / f"{part}.csv").exists():
            continue
        with file.open("w", newline="") as out:
            csv.writer(out).writerows([("text", "label"), *rows])
