"""An index over the words of texts: BM25."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import numpy.typing as npt

from semievol.data import storage
from semievol.errors import UserError
from semievol.retrieval.dense import Hits, without_itself

_TEXTS = "texts.parquet"


class LexicalIndex:
    """BM25 over the words of texts (Robertson et al. 1994; Lucene's variant, of bm25s), lower case, no stop words."""

    recall = 1.0

    def __init__(self, texts: list[str], ids: npt.NDArray[np.int64]) -> None:
        from bm25s import BM25

        words = _words(texts)
        if not any(words):
            raise UserError("retrieve.by: bm25 finds no word in any labeled row; use embedding")
        self._texts = texts
        self._ids = ids
        self._index = BM25(backend="numpy")
        self._index.index(words, show_progress=False)

    def save(self, folder: str) -> str:
        """Write the texts to a URI, because rebuilding the index is faster than loading it. Return their SHA-256."""
        import pyarrow as pa

        storage.write_table(storage.join(folder, _TEXTS), pa.table({"row_id": self._ids, "text": self._texts}))
        return hashlib.sha256(json.dumps(self._texts).encode()).hexdigest()

    @staticmethod
    def load(folder: str) -> LexicalIndex:
        table = storage.read_table(storage.join(folder, _TEXTS))
        return LexicalIndex(table["text"].to_pylist(), table["row_id"].to_numpy())

    def search(self, queries: list[str], k: int, exclude: npt.NDArray[np.int64]) -> Hits:
        """Search as `LabeledIndex.search` does, by BM25 score; rows that share no word with a query are not found."""
        k_found = min(k + 1, len(self._ids))
        places, scores = self._index.retrieve(_words(queries), k=k_found, show_progress=False)
        return without_itself(self._ids[places], scores, k, exclude, above=0.0)


def _words(texts: list[str]) -> list[list[str]]:
    from bm25s import tokenize

    settings = {"token_pattern": r"(?u)\b\w+\b", "stopwords": None, "return_ids": False, "show_progress": False}
    return list(tokenize(texts, **settings))
