"""The true answers of unlabeled rows, looked up to measure pseudo-labels and for the ceiling of a study, for nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semievol.data import storage


def true_answers(uri: str, ids: npt.NDArray[np.int64]) -> list[str | None]:
    """Return the true answer of each row id, or None, from the oracle/ folder of ingest, which is not empty."""
    known = storage.read_table(uri).sort_by("row_id")
    known_ids, answers = known["row_id"].to_numpy(), known["oracle"].to_pylist()
    places = np.minimum(np.searchsorted(known_ids, ids), len(known_ids) - 1)
    found = known_ids[places] == ids
    return [answers[place] if here else None for place, here in zip(places, found, strict=True)]
