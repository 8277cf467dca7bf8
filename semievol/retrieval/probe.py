"""Answer without an engine: a linear probe, scikit-learn's logistic regression on the embeddings of the labeled rows."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from semievol.data import storage
from semievol.data.responses import listed

_FILE = "probe.npz"  # in the folder of the index
_STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-2, 8))  # scikit-learn's C, for vectors of unit length
_MOST_ROWS, _MOST_TRIED = 20_000, 2_000  # to fit the coefficients, and to choose their regularisation
_KEPT = (
    31  # of a large label set, the most answers that a row keeps; with None, for the rest, as many as `listed` keeps
)
_LEAST_SHARE = 1e-6  # of an answer that no row of the other folds has

Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


class Probe:
    """Shares of answers, linear in the vectors before the softmax.

    Args:
        answers: shape (answers,).
        coefficients: shape (answers, dimensions + 1); the last column is the intercept.
    """

    def __init__(self, answers: Sequence[str], coefficients: Floats) -> None:
        self._answers = list(answers)
        self._coefficients = coefficients

    @staticmethod
    def fit(vectors: Vectors, answers: Sequence[str], strength: float) -> Probe:
        """Fit to vectors, shape (rows, dimensions), and their answers. `strength` is scikit-learn's C."""
        from sklearn.linear_model import LogisticRegression

        some = _spread(len(answers), _MOST_ROWS)
        vectors, names = vectors[some], np.array(answers)[some]
        if len(set(names)) == 1:  # scikit-learn wants two
            return Probe(names[:1].tolist(), np.zeros((1, vectors.shape[1] + 1)))
        model = LogisticRegression(C=strength, max_iter=200).fit(vectors, names)
        coefficients = np.column_stack([model.coef_, model.intercept_])
        if len(model.classes_) == 2:  # the logit of the second one
            coefficients = np.vstack([np.zeros_like(coefficients), coefficients])
        return Probe(model.classes_.tolist(), coefficients)

    def save(self, index: str) -> None:
        """Write the probe into the folder of an index."""
        content = io.BytesIO()
        np.savez(content, answers=np.array(self._answers), coefficients=self._coefficients)
        storage.write_bytes(storage.join(index, _FILE), content.getvalue())

    @staticmethod
    def load(index: str) -> Probe:
        with np.load(f"{storage.local_copy(index)}/{_FILE}", allow_pickle=False) as saved:
            return Probe(saved["answers"].tolist(), saved["coefficients"])

    def predict(self, vectors: Vectors) -> list[dict[str | None, float]]:
        """Return the share of each answer, for vectors of shape (rows, dimensions); of many answers the likeliest."""
        from scipy.special import softmax

        shares = softmax(vectors @ self._coefficients[:, :-1].T + self._coefficients[:, -1], axis=1)
        if len(self._answers) <= _KEPT:
            return [dict(zip(self._answers, of, strict=True)) for of in shares.tolist()]
        places = np.argpartition(-shares, _KEPT, axis=1)[:, :_KEPT]
        kept = np.take_along_axis(shares, places, axis=1)
        rest = np.maximum(1 - kept.sum(axis=1), 0.0)
        return [
            {self._answers[i]: share for i, share in zip(at, of, strict=True)} | {None: left}
            for at, of, left in zip(places.tolist(), kept.tolist(), rest.tolist(), strict=True)
        ]

    def records(self, vectors: Vectors) -> list[list[dict[str, Any]]]:
        """Return what `predict` does as records of the tables."""
        return list(map(listed, self.predict(vectors)))


def cross_fitted(
    vectors: Vectors, answers: Sequence[str], folds: npt.NDArray[np.int32]
) -> tuple[float, list[dict[str | None, float]]]:
    """Return the regularisation that predicts rows of other folds best, and its shares for every row.

    A row's shares are of a probe that has seen the other folds only. All of them have one regularisation, so that a row takes
    part in the choice of one among ten numbers.

    Args:
        vectors: shape (rows, dimensions).
        folds: of each row, shape (rows,).
    """
    some = _spread(len(answers), _MOST_TRIED)
    tried = [_of_others(vectors[some], answers[some], folds[some], strength) for strength in _STRENGTHS]
    losses = [_loss(shares, answers[some]) for shares in tried]
    best = int(np.argmin(losses))
    return _STRENGTHS[best], tried[best] if some.step == 1 else _of_others(vectors, answers, folds, _STRENGTHS[best])


def _spread(rows: int, most: int) -> slice:
    """Return at most so many places, evenly spread: a file may be sorted by its labels."""
    return slice(None, None, max(1, -(-rows // most)))


def _of_others(
    vectors: Vectors, answers: Sequence[str], folds: npt.NDArray[np.int32], strength: float
) -> list[dict[str | None, float]]:
    """Return the shares of each row, by a probe that is fitted to the other folds."""
    found: list[dict[str | None, float]] = [{} for _ in answers]
    for fold in np.unique(folds):
        (inside,), (outside,) = np.nonzero(folds == fold), np.nonzero(folds != fold)
        if not len(outside):
            continue  # a single labeled row
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of convergence: a probe that is not quite the best one is one all the same
            probe = Probe.fit(vectors[outside], [answers[i] for i in outside], strength)
        for i, shares in zip(inside, probe.predict(vectors[inside]), strict=True):
            found[i] = shares
    return found


def _loss(shares: Sequence[dict[str | None, float]], answers: Sequence[str]) -> float:
    right = [max(of.get(answer, 0.0), _LEAST_SHARE) for of, answer in zip(shares, answers, strict=True)]
    return -float(np.log(right).mean())
