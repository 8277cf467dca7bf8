"""Search among the labeled rows: build the index, load it, and find the nearest of them for other rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol.config import EmbeddingConfig, RetrieveConfig
from semievol.data import storage
from semievol.data.tables import LABELED_RETRIEVED, to_row
from semievol.retrieval.dense import LabeledIndex
from semievol.retrieval.embedding import Embedder, text_of
from semievol.retrieval.hits import Hits
from semievol.retrieval.lexical import LexicalIndex
from semievol.tasks import Row

INDEX = "index"  # its folder in that of the stage which builds it
SCORES = {"embedding": "cosine", "bm25": "BM25 score"}  # what `retrieve.by` compares by


def build_index(labeled: str, out: str, embedding: EmbeddingConfig, retrieve: RetrieveConfig) -> tuple[str, float]:
    """Index the labeled rows. Write the index, and the rows with their own neighbors, themselves left out.

    Returns:
        The SHA-256 of what is indexed, and the share of the exact neighbors that the index finds.
    """
    table = storage.read_table(labeled)
    texts, ids = [text_of(to_row(record)) for record in table.to_pylist()], table["row_id"].to_numpy()
    if retrieve.by == "bm25":
        lexical, recall = LexicalIndex(texts, ids), 1.0
        found, sha256 = lexical.search(texts, retrieve.k, ids), lexical.save(storage.join(out, INDEX))
    else:
        vectors = Embedder(embedding).encode(texts)
        index = LabeledIndex.build(vectors, ids, exact_up_to=retrieve.exact_up_to, k=retrieve.k)
        recall = index.recall
        found, sha256 = index.search(vectors, retrieve.k, ids), index.save(storage.join(out, INDEX))
    storage.write_table(storage.join(out, "rows", "part-0.parquet"), _with_neighbors(table, found, LABELED_RETRIEVED))
    return sha256, recall


class Searcher:
    """The index, with the model that makes queries of rows.

    Args:
        index: URI of the index's folder.
    """

    def __init__(self, index: str, embedding: EmbeddingConfig, retrieve: RetrieveConfig) -> None:
        self._lexical = LexicalIndex.load(index) if retrieve.by == "bm25" else None
        if not self._lexical:
            self._embedder, self._dense = Embedder(embedding), LabeledIndex.load(index)

    def nearest(self, rows: list[Row], k: int, exclude: npt.NDArray[np.int64]) -> Hits:
        """Return the k nearest labeled rows of each row, as `LabeledIndex.search` does."""
        texts = [text_of(row) for row in rows]
        if self._lexical:
            return self._lexical.search(texts, k, exclude)
        return self._dense.search(self._embedder.encode(texts), k, exclude)


class Retriever:
    """Actor: rows in, rows with their k nearest labeled rows out.

    Args:
        searcher: the arguments of `Searcher`, which nobody loads for k = 0.
        progress: the actor of `semievol.runtime.progress`.
    """

    def __init__(self, searcher: dict[str, Any], k: int, schema: pa.Schema, progress: Any) -> None:
        self._searcher = Searcher(**searcher) if k else None
        self._k = k
        self._schema = schema
        self._progress = progress

    def __call__(self, batch: pa.Table) -> pa.Table:
        if len(batch) == 0:
            return self._schema.empty_table()
        found: Hits = ([[]] * len(batch), [[]] * len(batch))
        if self._searcher:
            rows = [to_row(record) for record in batch.to_pylist()]
            found = self._searcher.nearest(rows, self._k, batch["row_id"].to_numpy())
        self._progress.add.remote(len(batch))
        return _with_neighbors(batch, found, self._schema)


def _with_neighbors(rows: pa.Table, found: Hits, schema: pa.Schema) -> pa.Table:
    ids, scores = found
    rows = rows.append_column("neighbor_ids", pa.array(ids, pa.list_(pa.int64())))
    rows = rows.append_column("neighbor_scores", pa.array(scores, pa.list_(pa.float32())))
    return rows.select(schema.names).cast(schema)
