"""Adaptive selection (paper, section 3.3): which pseudo-labels to learn from, without ever holding all of them.

The theta-quantile is exact, in constant memory: rows are ordered by a 64-bit key (entropy, then 32 bits of the row id, so
that ties are all but ruled out), and the key of a given rank is found by a radix search, 16 bits a pass, over mergeable histograms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Strings = npt.NDArray[np.object_]
LEVELS = 4  # 64-bit keys, 16 bits a level
_BINS = 1 << 16


def order_keys(entropy: Floats, row_id: npt.NDArray[np.int64]) -> Keys:
    """Keys that sort like (entropy, row id). Shapes (rows,) both; NaN sorts last."""
    bits = np.ascontiguousarray(entropy, dtype=np.float32).view(np.uint32)
    # IEEE 754 order as unsigned order: flip every bit of negatives, the sign bit of the rest.
    ordered = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
    return (ordered << np.uint64(32)) | (row_id.astype(np.uint64) & np.uint64(0xFFFFFFFF))


def histogram(keys: Keys, *, prefix: int, level: int) -> npt.NDArray[np.int64]:
    """Counts, shape (65536,), of the digit at `level` among the keys whose higher digits equal `prefix`.

    Histograms of disjoint parts add up.
    """
    shift = np.uint64(16 * (LEVELS - 1 - level))
    if level > 0:
        keys = keys[(keys >> (shift + np.uint64(16))) == np.uint64(prefix)]
    digits = ((keys >> shift) & np.uint64(_BINS - 1)).astype(np.int64)
    return np.bincount(digits, minlength=_BINS)


class RankSearch:
    """Finds the key of the `rank`-th smallest row (1-based) from `LEVELS` summed histograms."""

    def __init__(self, rank: int) -> None:
        assert rank >= 1
        self.prefix = 0
        self.level = 0
        self._rank = rank

    def refine(self, counts: npt.NDArray[np.int64]) -> None:
        """Take the summed histogram of the current prefix and level, and descend one level."""
        cumulative = np.cumsum(counts)
        digit = int(np.searchsorted(cumulative, self._rank))
        assert digit < _BINS, "the rank exceeds the number of rows"
        self._rank -= int(cumulative[digit - 1]) if digit else 0
        self.prefix = (self.prefix << 16) | digit
        self.level += 1

    @property
    def key(self) -> int:
        """The key that was found; valid after `LEVELS` refinements."""
        assert self.level == LEVELS
        return self.prefix


def quantile_rank(rows: int, theta: float) -> int:
    """How many of `rows` lie at or below the theta-quantile: ceil(theta * rows), 0 for no rows."""
    # Rounded first, because 0.3 * 10 is 3.0000000000000004 in some orders of evaluation and must not become 4.
    return math.ceil(round(theta * rows, 9))


def entropy_of(key: int) -> float:
    """The entropy that an order key was made from."""
    ordered = np.uint32(key >> 32)
    bits = ordered & np.uint32(0x7FFFFFFF) if ordered >> 31 else ~ordered
    return float(np.array([bits], dtype=np.uint32).view(np.float32)[0])


@dataclass(frozen=True)
class Candidates:
    """Pseudo-labeled rows as selection sees them; all shapes (rows,)."""

    keys: Keys
    measured: npt.NDArray[np.bool_]  # have the measure that the keys are made of
    ids: npt.NDArray[np.int64]
    agreement: Floats
    answers: Strings
    strata: Strings

    def groups(self, per: str) -> Strings:
        """The group of each row: its answer, its stratum ("" where it has none), or one for all."""
        if per == "all":
            return np.full(len(self.keys), "", dtype=object)
        return self.answers if per == "answer" else np.where(self.strata == None, "", self.strata)  # noqa: E711


@dataclass(frozen=True)
class Bounds:
    """What a row must keep to. `upto` has the largest key that passes in each group of `per`, once it is known."""

    per: str = "all"
    min_agreement: float = 0.0
    sample: float = 1.0
    keep_unanimous: bool = False
    upto: dict[str, int] | None = None

    def sampled(self, rows: Candidates) -> npt.NDArray[np.bool_]:
        """Row ids are hashes of the content, so the first 32 bits of one draw a sample that never changes."""
        if self.sample == 1.0:
            return np.ones(len(rows.keys), dtype=bool)
        return (rows.ids.astype(np.uint64) >> np.uint64(32)) < np.uint64(round(self.sample * 2**32))

    def agreeing(self, rows: Candidates) -> npt.NDArray[np.bool_]:
        return rows.agreement >= np.float32(self.min_agreement)

    def below(self, rows: Candidates) -> npt.NDArray[np.bool_]:
        assert self.upto is not None
        return rows.keys <= _lookup(self.upto, rows.groups(self.per))

    def exempt(self, rows: Candidates) -> npt.NDArray[np.bool_]:
        """Rows that need not be below the quantile, and do not take part in it."""
        return (rows.agreement >= 1) & self.keep_unanimous

    def mask(self, rows: Candidates) -> npt.NDArray[np.bool_]:
        """Rows that pass; before the quantile is known, those that it is of."""
        taking_part = self.sampled(rows) & self.agreeing(rows) & rows.measured
        if self.upto is None:
            return taking_part & ~self.exempt(rows)
        return taking_part & (self.below(rows) | self.exempt(rows))


def rejections(rows: Candidates, bounds: Bounds, caps: dict[str, int]) -> list[str | None]:
    """Why each row is not selected, or None where it is.

    Args:
        caps: for each capped answer, the key up to which its rows are kept.
    """
    reasons = np.full(len(rows.keys), None, dtype=object)
    reasons[rows.keys > _lookup(caps, rows.answers)] = "over the cap of its answer"
    reasons[~(bounds.below(rows) | bounds.exempt(rows))] = "entropy above the theta-quantile"
    reasons[~rows.measured] = "without the measure that selects"
    reasons[~bounds.agreeing(rows)] = "agreement below the floor"
    reasons[~bounds.sampled(rows)] = "not in the sample"
    return list(reasons)


def _lookup(limits: dict[str, int], groups: Strings) -> Keys:
    """The limit of each row's group; none for a group that has no entry."""
    return np.array([limits.get(group, 2**64 - 1) for group in groups], dtype=np.uint64)
