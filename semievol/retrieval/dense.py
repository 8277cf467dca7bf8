"""An index over embeddings: FAISS with the inner product of unit vectors, which is the cosine."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from semievol.data import storage

_RECALL, _CELLS, _SAMPLE, _VECTORS_PER_CELL = 0.95, 8, 1_000, 64
_INDEX, _IDS = "index.faiss", "ids.i64"  # ids: little-endian int64, no header

Hits = tuple[list[list[int]], list[list[float]]]  # for each query the row ids and their scores, best first


class LabeledIndex:
    """Vectors with the row ids that they belong to."""

    def __init__(self, index: Any, ids: npt.NDArray[np.int64], recall: float = 1.0) -> None:
        assert index.ntotal == len(ids)
        self._index = index
        self._ids = ids
        self.recall = recall  # share of the exact neighbors that it found for a sample when it was built

    @staticmethod
    def build(
        vectors: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], *, exact_up_to: int = 100_000, k: int = 3
    ) -> LabeledIndex:
        """Index vectors, shape (rows, dimensions), with ids, shape (rows,).

        Args:
            exact_up_to: more rows get an inverted file (IVF, about 4 sqrt(rows) cells). A search looks into as many
                cells as it takes to find 95 % of the k exact neighbors of a sample.
        """
        import faiss

        exact = faiss.IndexFlatIP(vectors.shape[1])
        exact.add(vectors)
        if len(ids) <= exact_up_to:
            return LabeledIndex(exact, ids)
        cells = min(round(4 * len(ids) ** 0.5), len(ids))
        inverted = faiss.index_factory(vectors.shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
        inverted.train(vectors[:: max(1, len(ids) // (_VECTORS_PER_CELL * cells))])
        inverted.add(vectors)
        sample = vectors[:: max(1, len(ids) // _SAMPLE)]
        _, nearest = exact.search(sample, k + 1)  # the first one is the query itself, which any index finds
        inverted.nprobe = _CELLS
        while (
            recall := _overlap(nearest[:, 1:], inverted.search(sample, k + 1)[1])
        ) < _RECALL and inverted.nprobe < cells:
            inverted.nprobe = min(2 * inverted.nprobe, cells)
        return LabeledIndex(inverted, ids, round(recall, 4))

    def save(self, folder: str) -> str:
        """Write the index to a URI. Return the SHA-256 of its bytes, for the manifest."""
        import faiss

        content = faiss.serialize_index(self._index).tobytes()
        storage.write_bytes(storage.join(folder, _INDEX), content)
        storage.write_bytes(storage.join(folder, _IDS), self._ids.astype("<i8").tobytes())
        return hashlib.sha256(content).hexdigest()

    @staticmethod
    def load(folder: str) -> LabeledIndex:
        import faiss

        local = storage.local_copy(folder)
        index = faiss.read_index(f"{local}/{_INDEX}", faiss.IO_FLAG_MMAP_IFC)  # the actors of a node share its pages
        if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
            index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
        return LabeledIndex(index, np.fromfile(f"{local}/{_IDS}", dtype="<i8"))

    def search(self, queries: npt.NDArray[np.float32], k: int, exclude: npt.NDArray[np.int64]) -> Hits:
        """Return up to k nearest labeled rows of each query, shape (queries, dimensions), with their cosines.

        Args:
            exclude: the row id of each query, shape (queries,): a row never retrieves itself.
        """
        scores, places = self._index.search(queries, min(k + 1, len(self._ids)))
        return without_itself(self._ids[places], scores, k, exclude, above=-2.0)  # FAISS pads with lower scores


def without_itself(
    ids: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], k: int, exclude: npt.NDArray[np.int64], above: float
) -> Hits:
    """Return the first k hits of each query that are not the query itself; ids and scores have shape (queries, hits)."""
    found_ids, found_scores = [], []
    for itself, row_ids, row_scores in zip(exclude, ids.tolist(), scores.tolist(), strict=True):
        hits = [(i, s) for i, s in zip(row_ids, row_scores, strict=True) if i != itself and s > above][:k]
        found_ids.append([i for i, _ in hits])
        found_scores.append([s for _, s in hits])
    return found_ids, found_scores


def _overlap(exact: npt.NDArray[np.int64], found: npt.NDArray[np.int64]) -> float:
    """Return the share of the places in `exact`, shape (queries, k), that are also in its row of `found`."""
    return float((exact[:, :, None] == found[:, None, :]).any(axis=2).mean())
