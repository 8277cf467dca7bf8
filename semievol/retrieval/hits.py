"""What a search returns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hits = tuple[list[list[int]], list[list[float]]]  # for each query the row ids and their scores, best first


def without_itself(
    ids: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    k: int,
    exclude: npt.NDArray[np.int64],
    above: float = -np.inf,
) -> Hits:
    """Return the first k hits of each query that are not the query itself; ids and scores have shape (queries, hits)."""
    found_ids, found_scores = [], []
    for itself, row_ids, row_scores in zip(exclude, ids.tolist(), scores.tolist(), strict=True):
        hits = [(i, s) for i, s in zip(row_ids, row_scores, strict=True) if i != itself and s > above][:k]
        found_ids.append([i for i, _ in hits])
        found_scores.append([s for _, s in hits])
    return found_ids, found_scores
