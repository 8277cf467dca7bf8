import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from semievol.method.metrics import auroc, mcnemar, risks, wilson_interval


def test_wilson_against_published_values() -> None:
    # Newcombe (1998), table I, method 3: 81/263 and 0/20 at 95 %.
    assert wilson_interval(81, 263, 0.95) == pytest.approx((0.2553, 0.3662), abs=5e-4)
    assert wilson_interval(0, 20, 0.95) == pytest.approx((0.0, 0.1611), abs=5e-4)
    assert wilson_interval(0, 0, 0.95) == (0.0, 1.0)


def test_mcnemar_is_the_exact_binomial() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 1024)
    assert mcnemar(9, 1) == mcnemar(1, 9)
    assert 0 <= mcnemar(10_000, 11_000) < 1e-9
    assert math.isfinite(mcnemar(0, 5000))


def counts(confidences: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    levels = np.unique(-confidences, return_inverse=True)[1]
    return tuple(np.bincount(levels[side], minlength=levels.max() + 1) for side in (right, ~right))  # type: ignore[return-value]


@pytest.mark.parametrize("decimals", [1, 2, 6])
def test_auroc_is_that_of_scikit_learn_with_and_without_ties(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    right = rng.random(500) < 0.7
    confidences = (rng.normal(size=500) + right).round(decimals)
    assert auroc(*counts(confidences, right)) == pytest.approx(roc_auc_score(right, confidences))


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
