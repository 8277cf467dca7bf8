import math

import numpy as np
import pytest
from scipy.stats import binomtest

from semievol.method.metrics import auroc, mcnemar, paired_interval, risks, wilson_interval


def test_wilson_against_published_values() -> None:
    # Newcombe (1998), table I, method 3: 81/263 and 0/20 at 95 %.
    assert wilson_interval(81, 263, 0.95) == pytest.approx((0.2553, 0.3662), abs=5e-4)
    assert wilson_interval(0, 20, 0.95) == pytest.approx((0.0, 0.1611), abs=5e-4)
    assert wilson_interval(0, 0, 0.95) == (0.0, 1.0)


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (3, 7), (7, 7), (900, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.99])
def test_wilson_is_that_of_scipy_and_takes_fractions(correct: int, total: int, level: float) -> None:
    published = binomtest(correct, total).proportion_ci(level, method="wilson")
    assert wilson_interval(correct, total, level) == pytest.approx((published.low, published.high))
    if correct < total:
        assert published.low < wilson_interval(correct + 0.5, total, level)[0] < 1


def test_mcnemar_is_the_exact_binomial() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 1024)
    assert mcnemar(9, 1) == mcnemar(1, 9)
    assert 0 <= mcnemar(10_000, 11_000) < 1e-9
    assert math.isfinite(mcnemar(0, 5000))


def test_the_interval_of_a_paired_difference_is_the_published_one() -> None:
    # Cavo et al. (2012), the example of Fagerland, Lydersen and Laake (2017), chapter 8: Bonett and Price, 95 %.
    won, lost, same = 6, 16, 139
    differences = np.repeat([1.0, -1.0, 0.0], [won, lost, same])
    assert paired_interval(differences, 0.95) == pytest.approx((-0.1195, -0.0032), abs=5e-5)
    low, high = paired_interval(differences, 0.99)
    assert low < -0.1195 and high > 0
    assert paired_interval(np.zeros(0), 0.95) == (-1.0, 1.0)  # nothing is known
    low, high = paired_interval(np.ones(3), 0.95)
    assert low < 0 < high == 1.0  # three rows of three are not enough


@pytest.mark.parametrize("decimals", [1, 2, 6])
def test_auroc_is_the_share_of_pairs_in_the_right_order(decimals: int) -> None:
    """Compare with its definition, the Mann-Whitney U statistic over all pairs (Hanley and McNeil 1982)."""
    rng = np.random.default_rng(decimals)
    right = rng.random(500) < 0.7
    confidence = (rng.normal(size=500) + right).round(decimals)
    levels = np.unique(-confidence, return_inverse=True)[1]
    above = confidence[right][:, None] - confidence[~right][None, :]
    counts = [np.bincount(levels[side], minlength=levels.max() + 1) for side in (right, ~right)]
    assert auroc(*counts) == pytest.approx(((above > 0) + (above == 0) / 2).mean())


def test_auroc_at_the_edges() -> None:
    assert auroc(np.array([3, 0]), np.array([0, 2])) == 1.0
    assert auroc(np.array([0, 3]), np.array([2, 0])) == 0.0
    assert auroc(np.array([3]), np.array([2])) == 0.5
    assert auroc(np.array([3, 1]), np.array([0, 0])) is None
    assert auroc(np.array([0]), np.array([0])) is None


def test_risks_are_shares_of_wrong_rows_among_the_most_confident() -> None:
    right, wrong = np.array([4, 0, 2, 1]), np.array([0, 0, 2, 1])
    shares = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
    # The third level has two right and two wrong rows, so half of each step into it is wrong.
    assert risks(right, wrong, shares) == pytest.approx([0, 0, 1 / 6, 2 / 8, 3 / 10])
