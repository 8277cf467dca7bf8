"""The FAISS index of the labeled rows: exact inner product over unit vectors, which is the cosine."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from semievol import storage

_INDEX, _IDS = "index.faiss", "ids.i64"  # ids: little-endian int64, no header


class LabeledIndex:
    """Vectors with the row ids they belong to."""

    def __init__(self, index: Any, ids: npt.NDArray[np.int64]) -> None:
        assert index.ntotal == len(ids)
        self._index = index
        self._ids = ids

    @staticmethod
    def build(vectors: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]) -> LabeledIndex:
        """Index of vectors, shape (rows, dimensions), with ids, shape (rows,)."""
        import faiss

        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return LabeledIndex(index, ids)

    def save(self, folder: str) -> str:
        """Write the index to a URI; returns the SHA-256 of its bytes, for the manifest."""
        import faiss

        content = faiss.serialize_index(self._index).tobytes()
        storage.write_bytes(storage.join(folder, _INDEX), content)
        storage.write_bytes(storage.join(folder, _IDS), self._ids.astype("<i8").tobytes())
        return hashlib.sha256(content).hexdigest()

    @staticmethod
    def load(folder: str) -> LabeledIndex:
        import faiss

        local = storage.local_copy(folder)
        return LabeledIndex(faiss.read_index(f"{local}/{_INDEX}"), np.fromfile(f"{local}/{_IDS}", dtype="<i8"))

    def search(
        self, queries: npt.NDArray[np.float32], k: int, exclude: npt.NDArray[np.int64]
    ) -> tuple[list[list[int]], list[list[float]]]:
        """The k nearest labeled rows of each query, nearest first, without the query itself.

        Args:
            queries: shape (queries, dimensions).
            exclude: the row id of each query, shape (queries,): a row never retrieves itself.

        Returns:
            Row ids and cosines; fewer than k where there are not so many labeled rows.
        """
        if k == 0:
            return [[] for _ in queries], [[] for _ in queries]
        scores, places = self._index.search(queries, min(k + 1, len(self._ids)))
        found_ids, found_scores = [], []
        for row, (row_scores, row_places) in enumerate(zip(scores, places, strict=True)):
            hits = [(int(self._ids[p]), float(s)) for s, p in zip(row_scores, row_places, strict=True)]
            hits = [hit for hit in hits if hit[0] != exclude[row]][:k]
            found_ids.append([i for i, _ in hits])
            found_scores.append([s for _, s in hits])
        return found_ids, found_scores
