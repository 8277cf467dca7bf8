"""Carve test and validation rows off the labeled ones, where the config gives a fraction in place of files.

A hash of the row id ranks the rows of each label: the first become test rows, the last validation rows. So equal content
gives equal parts in whatever files, a new row moves few others, and each fraction may change without the other part.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semievol.data import storage
from semievol.errors import UserError
from semievol.tasks import Task


def choose(
    answers: Mapping[int, str], shares: Mapping[str, float], task: Task
) -> tuple[dict[str, set[int]], dict[str, int]]:
    """Choose the rows of each part, label by label where the answers of the task are labels.

    Every label keeps at least one labeled row.

    Args:
        answers: of all labeled rows, by row id.
        shares: of the rows that each part takes, such as {"test": 0.2}.

    Returns:
        The row ids of each part, and the number of labels that are in no row of it.
    """
    strata: dict[str, list[int]] = defaultdict(list)
    labels = _rarest([task.parts(answer) for answer in answers.values()]) if _by_label(task) else [""] * len(answers)
    for row, label in zip(answers, labels, strict=True):
        strata[label].append(row)
    ranked = {label: sorted(strata[label], key=_rank) for label in sorted(strata)}
    spare = {label: len(rows) - 1 for label, rows in ranked.items()}
    chosen, absent = {}, {}
    for part, share in shares.items():
        taken = _quotas({label: len(rows) for label, rows in ranked.items()}, share, spare)
        spare = {label: room - taken[label] for label, room in spare.items()}
        first = part == "test"
        chosen[part] = {
            row
            for label, rows in ranked.items()
            for row in (rows[: taken[label]] if first else rows[len(rows) - taken[label] :])
        }
        absent[part] = sum(not rows for rows in taken.values())
        if not chosen[part]:
            raise UserError(
                f"data.{part}: {share:g} of {len(answers):,} labeled rows is no row, as each label keeps one. Take a larger "
                f"fraction, or name a file of {part} rows"
            )
    return chosen, absent


def write(out: str, shares: Mapping[str, float], task: Task) -> tuple[dict[str, int], dict[str, int]]:
    """Move the chosen rows from labeled/ to the folder of their part.

    It may be repeated after a kill: labeled/ is written last, so that every row stays in one of the folders.

    Returns:
        The number of rows of labeled/ and of each part, and what is worth telling, with counts.
    """
    files = [file.uri for split in ("labeled", *shares) for file in storage.find(storage.join(out, split))]
    known = pa.concat_tables(storage.read_table(file, ["row_id", "answer"]) for file in files)
    answers = dict(zip(known["row_id"].to_pylist(), known["answer"].to_pylist(), strict=True))
    chosen, absent = choose(answers, shares, task)
    for part, rows in chosen.items():
        table = pa.concat_tables(_filtered(file, rows) for file in files)
        _, once = np.unique(table["row_id"].to_numpy(), return_index=True)
        storage.write_table(storage.join(out, part, "part-00000.parquet"), table.take(once))
    moved = set().union(*chosen.values())
    for entry in storage.find(storage.join(out, "labeled")):
        if len(left := _filtered(entry.uri, moved, keep=False)):
            storage.write_table(entry.uri, left)
        else:
            storage.delete_file(entry.uri)
    counts = {part: len(rows) for part, rows in chosen.items()}
    notes = {
        f"{part}: labels with no row, as they have too few": n for part, n in absent.items() if n and _by_label(task)
    }
    return counts | {"labeled": len(answers) - len(moved)}, notes


def _by_label(task: Task) -> bool:
    return task.closed or task.sets


def _rarest(labels: Sequence[list[str]]) -> list[str]:
    """Return the label of each row; of several labels, the one that the fewest rows have."""
    rows = Counter(label for of_row in labels for label in set(of_row))
    return [min(of_row, key=lambda label: (rows[label], label), default="") for of_row in labels]


def _quotas(sizes: Mapping[str, int], share: float, spare: Mapping[str, int]) -> dict[str, int]:
    """Return how many rows to take of each label: its share, by largest remainders, as far as it has rows to spare."""
    exact = {label: share * size for label, size in sizes.items()}
    quotas = {label: min(int(rows), spare[label]) for label, rows in exact.items()}
    missing = round(share * sum(sizes.values())) - sum(map(int, exact.values()))
    with_room = [label for label in exact if quotas[label] < spare[label]]
    for label in sorted(with_room, key=lambda label: (int(exact[label]) - exact[label], label))[:missing]:
        quotas[label] += 1
    return quotas


def _rank(row: int) -> bytes:
    return hashlib.blake2b(row.to_bytes(8, "big", signed=True), digest_size=8, person=b"held out").digest()


def _filtered(file: str, rows: Collection[Any], *, keep: bool = True) -> pa.Table:
    """Return the rows of a file whose ids are among some, or with `keep=False` the others."""
    table = storage.read_table(file)
    among = pc.is_in(table["row_id"], value_set=pa.array(list(rows), pa.int64()))
    return table.filter(among if keep else pc.invert(among))
