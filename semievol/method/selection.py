"""Select the pseudo-labels to learn from (paper, section 3.3), without all of them in memory at once.

The theta-quantile is exact. A 64-bit key orders the rows: the entropy, then 32 bits of the row id, so ties are very
unlikely. A radix search over mergeable histograms, 16 bits per pass, finds the key of a given rank in constant memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Strings = npt.NDArray[np.object_]
LEVELS = 4  # 64-bit keys, 16 bits per level
_BINS = 1 << 16


def order_keys(entropy: Floats, row_id: npt.NDArray[np.int64]) -> Keys:
    """Return keys that sort like (entropy, row id); all shapes are (rows,). NaN sorts last."""
    bits = np.ascontiguousarray(entropy, dtype=np.float32).view(np.uint32)
    # To sort IEEE 754 floats as unsigned integers: flip all bits of negatives, the sign bit of the rest.
    ordered = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
    return (ordered << np.uint64(32)) | (row_id.astype(np.uint64) & np.uint64(0xFFFFFFFF))


def histogram(keys: Keys, *, prefix: int, level: int) -> npt.NDArray[np.int64]:
    """Count the digits at `level` of the keys whose higher digits equal `prefix`; shape (65536,)."""
    shift = np.uint64(16 * (LEVELS - 1 - level))
    if level > 0:
        keys = keys[(keys >> (shift + np.uint64(16))) == np.uint64(prefix)]
    digits = ((keys >> shift) & np.uint64(_BINS - 1)).astype(np.int64)
    return np.bincount(digits, minlength=_BINS)


def descend(prefix: int, rank: int, counts: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return the prefix one level down of the `rank`-th smallest key (1-based), and its rank below it.

    From prefix 0, `LEVELS` descents find the key. `counts` is the histogram of the prefix, summed over all parts.
    """
    cumulative = np.cumsum(counts)
    digit = int(np.searchsorted(cumulative, rank))
    assert digit < _BINS, "the rank exceeds the number of rows"
    return (prefix << 16) | digit, rank - (int(cumulative[digit - 1]) if digit else 0)


def quantile_rank(rows: int, theta: float) -> int:
    """Return how many rows are at or below the theta-quantile: ceil(theta * rows), 0 for no rows."""
    # Rounded first: a product such as 3.0000000000000004 must not become 4.
    return math.ceil(round(theta * rows, 9))


def entropy_of(key: int) -> float:
    """Return the entropy in an order key."""
    ordered = np.uint32(key >> 32)
    bits = ordered & np.uint32(0x7FFFFFFF) if ordered >> 31 else ~ordered
    return float(np.array([bits], dtype=np.uint32).view(np.float32)[0])


def sampled(ids: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.bool_]:
    """Tell which rows are in a sample of this share. Row ids are hashes, so their first 32 bits fix the sample."""
    return (ids.astype(np.uint64) >> np.uint64(32)) < np.uint64(round(share * 2**32))


@dataclass(frozen=True)
class Candidates:
    """The columns of pseudo-labeled rows that selection needs; all shapes (rows,)."""

    keys: Keys
    measured: npt.NDArray[np.bool_]  # the row has the measure that its key is made of
    ids: npt.NDArray[np.int64]
    agreement: Floats
    answers: Strings
    strata: Strings

    def groups(self, per: str) -> Strings:
        """Return the group of each row: its answer, its stratum ("" if it has none), or one group for all."""
        if per == "all":
            return np.full(len(self.keys), "", dtype=object)
        return self.answers if per == "answer" else np.where(self.strata == None, "", self.strata)  # noqa: E711


@dataclass(frozen=True)
class Bounds:
    """The conditions of selection. `upto`, once known, is the largest key that passes in each group of `per`."""

    per: str = "all"
    min_agreement: float = 0.0
    sample: float = 1.0
    keep_unanimous: bool = False
    upto: dict[str, int] | None = None

    def sampled(self, rows: Candidates) -> npt.NDArray[np.bool_]:
        return sampled(rows.ids, self.sample)

    def agreeing(self, rows: Candidates) -> npt.NDArray[np.bool_]:
        return rows.agreement >= np.float32(self.min_agreement)

    def below(self, rows: Candidates) -> npt.NDArray[np.bool_]:
        assert self.upto is not None
        return rows.keys <= _lookup(self.upto, rows.groups(self.per))

    def exempt(self, rows: Candidates) -> npt.NDArray[np.bool_]:
        """Tell which rows need not be below the quantile; they do not count for it either."""
        return (rows.agreement >= 1) & self.keep_unanimous

    def mask(self, rows: Candidates) -> npt.NDArray[np.bool_]:
        """Tell which rows pass. Before `upto` is known: the rows over which the quantile is computed."""
        eligible = self.sampled(rows) & self.agreeing(rows) & rows.measured
        if self.upto is None:
            return eligible & ~self.exempt(rows)
        return eligible & (self.below(rows) | self.exempt(rows))


def rejections(rows: Candidates, bounds: Bounds, caps: dict[str, int]) -> list[str | None]:
    """Return the reason why each row is not selected, or None for a selected row.

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
    """Return the limit of each row's group; a group without an entry has none."""
    return np.array([limits.get(group, 2**64 - 1) for group in groups], dtype=np.uint64)
