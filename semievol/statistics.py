"""Intervals and tests for accuracies, exact and without a statistics library."""

from __future__ import annotations

import math
from statistics import NormalDist


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
