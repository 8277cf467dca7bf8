"""Search among the labeled rows: build the index, load it, and find the nearest of them for other rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol.config import EmbeddingConfig, RetrieveConfig
from semievol.data import storage
from semievol.data.tables import LABELED_RETRIEVED, to_row
from semievol.retrieval.dense import Hits, LabeledIndex
from semievol.retrieval.embedding import Embedder, text_of
from semievol.retrieval.lexical import LexicalIndex
from semievol.tasks import Row

INDEX = "index"  # its folder in that of the stage which builds it
SCORES = {"embedding": "cosine", "bm25": "BM25 score"}  # what `retrieve.by` compares by


def build_index(labeled: str, out: str, embedding: EmbeddingConfig, retrieve: RetrieveConfig) -> tuple[str, float]:
    """Index the labeled rows, and write them with their own neighbors. Return the index's SHA-256 and recall."""
    table = storage.read_table(labeled)
    ids = table["row_id"].to_numpy()
    queries: Any = [text_of(to_row(record)) for record in table.to_pylist()]
    index: Any
    if retrieve.by == "bm25":
        index = LexicalIndex(queries, ids)
    else:
        queries = Embedder(embedding).encode(queries)
        index = LabeledIndex.build(queries, ids, exact_up_to=retrieve.exact_up_to, k=retrieve.k)
    found, sha256 = index.search(queries, retrieve.k, ids), index.save(storage.join(out, INDEX))
    storage.write_table(storage.join(out, "rows", "part-0.parquet"), _with_neighbors(table, found, LABELED_RETRIEVED))
    return sha256, index.recall


class Searcher:
    """The index at a URI, with the model that makes queries of rows."""

    def __init__(self, index: str, embedding: EmbeddingConfig, retrieve: RetrieveConfig) -> None:
        lexical = retrieve.by == "bm25"
        self._encode: Any = list if lexical else Embedder(embedding).encode
        self._index: Any = (LexicalIndex if lexical else LabeledIndex).load(index)

    def nearest(self, rows: list[Row], k: int, exclude: npt.NDArray[np.int64]) -> Hits:
        """Return the k nearest labeled rows of each row, as `LabeledIndex.search` does."""
        hits: Hits = self._index.search(self._encode([text_of(row) for row in rows]), k, exclude)
        return hits


class Retriever:
    """Actor: rows in, rows with their k nearest labeled rows out."""

    def __init__(self, searcher: dict[str, Any], k: int, schema: pa.Schema, progress: Any) -> None:
        self._searcher = Searcher(**searcher) if k else None  # nothing is loaded for k = 0
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
