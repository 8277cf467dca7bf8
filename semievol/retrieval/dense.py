"""The index of the labeled rows: FAISS with the exact inner product over unit vectors, which is the cosine, or BM25."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from semievol.data import storage
from semievol.errors import UserError

Hits = tuple[list[list[int]], list[list[float]]]
_TEXTS = "texts.parquet"
_WORD = r"(?u)\b\w+\b"
_RECALL, _CELLS, _SAMPLE, _VECTORS_PER_CELL = 0.95, 8, 1_000, 64
_INDEX, _IDS = "index.faiss", "ids.i64"  # ids: little-endian int64, no header


class LabeledIndex:
    """Vectors with the row ids they belong to.

    Attributes:
        recall: share of the exact neighbors that it finds, measured on a sample when it was built; 1 for an exact one.
    """

    def __init__(self, index: Any, ids: npt.NDArray[np.int64], recall: float = 1.0) -> None:
        assert index.ntotal == len(ids)
        self._index = index
        self._ids = ids
        self.recall = recall

    @staticmethod
    def build(
        vectors: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], *, exact_up_to: int = 100_000, k: int = 3
    ) -> LabeledIndex:
        """Index of vectors, shape (rows, dimensions), with ids, shape (rows,).

        Args:
            exact_up_to: more rows than these get an inverted file (FAISS's IVF, with about 4 sqrt(rows) cells), of which
                as many cells are searched as it takes to find 95 % of the k exact neighbors of a sample.
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
        index = faiss.read_index(f"{local}/{_INDEX}", faiss.IO_FLAG_MMAP_IFC)  # the actors of a node share its pages
        if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
            index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
        return LabeledIndex(index, np.fromfile(f"{local}/{_IDS}", dtype="<i8"))

    def search(self, queries: npt.NDArray[np.float32], k: int, exclude: npt.NDArray[np.int64]) -> Hits:
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
        return _without_itself(self._ids[places], scores, k, exclude, above=-2.0)  # where cells hold too few: no hit


def _overlap(exact: npt.NDArray[np.int64], found: npt.NDArray[np.int64]) -> float:
    """The share of the places in `exact`, shape (queries, k), that are found too, query by query."""
    return float((exact[:, :, None] == found[:, None, :]).any(axis=2).mean())


class LexicalIndex:
    """BM25 over the words of texts (Robertson et al. 1994; Lucene's variant, of bm25s), lower case, no stop words."""

    def __init__(self, texts: list[str], ids: npt.NDArray[np.int64]) -> None:
        """Index of texts with ids, shape (rows,).

        Raises:
            UserError: there is no word in any of them.
        """
        from bm25s import BM25

        words = _words(texts)
        if not any(words):
            raise UserError("retrieve.by: bm25 finds no word in any labeled row; use embedding")
        self._texts = texts
        self._ids = ids
        self._index = BM25(backend="numpy")
        self._index.index(words, show_progress=False)

    def save(self, folder: str) -> str:
        """Write the texts to a URI, from which the index is made anew in less time than it takes to read; returns their
        SHA-256."""
        import pyarrow as pa

        storage.write_table(storage.join(folder, _TEXTS), pa.table({"row_id": self._ids, "text": self._texts}))
        return hashlib.sha256(json.dumps(self._texts).encode()).hexdigest()

    @staticmethod
    def load(folder: str) -> LexicalIndex:
        table = storage.read_table(storage.join(folder, _TEXTS))
        return LexicalIndex(table["text"].to_pylist(), table["row_id"].to_numpy())

    def search(self, queries: list[str], k: int, exclude: npt.NDArray[np.int64]) -> Hits:
        """As `LabeledIndex.search`, with BM25 scores; rows that share no word with the query are not found."""
        if k == 0:
            return [[] for _ in queries], [[] for _ in queries]
        k_found = min(k + 1, len(self._ids))
        places, scores = self._index.retrieve(_words(queries), k=k_found, show_progress=False)
        return _without_itself(self._ids[places], scores, k, exclude, above=0.0)


def _words(texts: list[str]) -> list[list[str]]:
    from bm25s import tokenize

    found: list[list[str]] = tokenize(texts, token_pattern=_WORD, stopwords=None, return_ids=False, show_progress=False)
    return found


def _without_itself(
    ids: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    k: int,
    exclude: npt.NDArray[np.int64],
    above: float = -np.inf,
) -> Hits:
    """The first k hits of each query that are not the query itself; ids and scores have shape (queries, hits)."""
    found_ids, found_scores = [], []
    for itself, row_ids, row_scores in zip(exclude, ids.tolist(), scores.tolist(), strict=True):
        hits = [(i, s) for i, s in zip(row_ids, row_scores, strict=True) if i != itself and s > above][:k]
        found_ids.append([i for i, _ in hits])
        found_scores.append([s for _, s in hits])
    return found_ids, found_scores
