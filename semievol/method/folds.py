"""Deal labeled rows into folds: each member of a committee leaves one of them out, and answers it afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from semievol.errors import UserError


def folds(ids: Sequence[int], answers: Sequence[str], members: int) -> dict[int, int]:
    """Return the fold of each row, from 0 to `members` - 1.

    Equal rows give equal folds in whatever order they come: a hash of the row id orders the rows of an answer. The folds
    of an answer differ in size by one row at most, and so do the folds as a whole.

    Args:
        ids, answers: of all labeled rows, side by side.
    """
    if members > len(ids):
        raise UserError(f"warmup.members: {members} members need a labeled row each, and there are {len(ids):,}")
    ranked = sorted(zip(ids, answers, strict=True), key=lambda row: (row[1], _rank(row[0])))
    return {row_id: place % members for place, (row_id, _) in enumerate(ranked)}


def _rank(row_id: int) -> bytes:
    return hashlib.blake2b(b"fold %d" % row_id, digest_size=8).digest()
