"""Intervals and tests for accuracies, and how well a confidence separates right answers from wrong ones."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def wilson_interval(correct: float, total: int, level: float) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson 1927).

    The closed form stands here because open-ended tasks have fractional scores, and scipy takes whole counts only.
    """
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p, z2n = correct / total, z * z / total
    center = (p + z2n / 2) / (1 + z2n)
    half = z / (1 + z2n) * math.sqrt(p * (1 - p) / total + z2n / (4 * total))
    return max(0.0, center - half), min(1.0, center + half)


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided exact p-value of McNemar's test, from the rows that only one of two models got right."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired_interval(differences: npt.NDArray[np.float64], level: float) -> tuple[float, float]:
    """Return the interval of the mean difference of two models' scores on the same rows.

    For right and wrong this is the adjusted Wald interval of Bonett and Price (2012, J. Educ. Behav. Stat. 37:479): the normal
    interval with one row more that is won and one that is lost. It stands here as scipy has no interval for paired proportions.

    Args:
        differences: score of the one model minus that of the other, from -1 to 1, for each row; shape (rows,).
    """
    padded = np.append(differences, [1.0, -1.0])
    half = NormalDist().inv_cdf(0.5 + level / 2) * padded.std() / math.sqrt(len(padded))
    return max(-1.0, float(padded.mean() - half)), min(1.0, float(padded.mean() + half))


def auroc(right: Counts, wrong: Counts) -> float | None:
    """Return how often a right row is more confident than a wrong one (ties count half): the area under the ROC curve.

    None where all rows are right, or all wrong.

    Args:
        right, wrong: rows at each level of confidence, the most confident level first; shape (levels,).
    """
    from sklearn.metrics import roc_auc_score

    if not (right.any() and wrong.any()):
        return None
    confidence = -np.arange(len(right))
    labels = np.repeat([True, False], len(right))
    return float(roc_auc_score(labels, np.tile(confidence, 2), sample_weight=np.concatenate([right, wrong])))


def risks(right: Counts, wrong: Counts, coverages: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the risk-coverage curve: the share of wrong rows among the most confident ones, for each share that is kept.

    Rows of one level count as if in random order (El-Yaniv and Wiener 2010 define the curve).

    Args:
        right, wrong: as for `auroc`, at least one row.
        coverages: in (0, 1], shape (points,); the result has the same shape.
    """
    occupied = right + wrong > 0
    rows, errors = (np.append(0, np.cumsum(counts[occupied])) for counts in (right + wrong, wrong))
    kept = coverages * rows[-1]
    return np.asarray(np.interp(kept, rows, errors) / kept)
