"""Intervals and tests for accuracies, and how well a confidence tells right from wrong; exact and without a statistics library."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def wilson_interval(correct: float, total: int, level: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927): well-behaved for few rows and near 0 and 1."""
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p, z2n = correct / total, z * z / total
    center = (p + z2n / 2) / (1 + z2n)
    half = z / (1 + z2n) * math.sqrt(p * (1 - p) / total + z2n / (4 * total))
    return max(0.0, center - half), min(1.0, center + half)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value of McNemar's test between two models on the same rows.

    Args:
        only_a: rows that only model a got right; `only_b` likewise.
    """
    n, k = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    # In logarithms: 2 ** -n underflows for large n.
    terms = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)]
    return min(1.0, 2 * sum(math.exp(term) for term in terms))


def auroc(right: Counts, wrong: Counts) -> float | None:
    """How often a right row is more confident than a wrong one (ties count half): the area under the ROC curve.

    The Mann-Whitney U statistic over its maximum (Hanley and McNeil 1982). None where all rows are right, or all wrong.

    Args:
        right, wrong: rows at each level of confidence, the most confident level first; shape (levels,).
    """
    pairs = int(right.sum()) * int(wrong.sum())
    if not pairs:
        return None
    less_confident = wrong.sum() - np.cumsum(wrong)
    return float((right * (less_confident + wrong / 2)).sum() / pairs)


def risks(right: Counts, wrong: Counts, coverages: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Share of wrong rows among the most confident ones, for each share of the rows that is kept: the risk-coverage curve.

    Rows of one level count as if in random order (El-Yaniv and Wiener 2010 define the curve).

    Args:
        right, wrong: as of `auroc`, at least one row.
        coverages: in (0, 1], shape (points,), as is what is returned.
    """
    occupied = right + wrong > 0
    rows, errors = (np.append(0, np.cumsum(counts[occupied])) for counts in (right + wrong, wrong))
    kept = coverages * rows[-1]
    return np.asarray(np.interp(kept, rows, errors) / kept)
