"""Retrieve (in-context propagation, paper section 3.1): the k nearest labeled rows of every row.

The labeled side is the index, a stage of its own that is built once: it writes index/, and rows/ with each labeled row's
own neighbours (itself left out) for warm-up prompts. The unlabeled side streams past it through an actor pool to rows/.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.tables import LABELED_RETRIEVED, RETRIEVED, to_row
from semievol.inference.pool import ENGINES
from semievol.retrieval.dense import Hits, LabeledIndex, LexicalIndex
from semievol.retrieval.embedding import Embedder, text_of
from semievol.runtime.rows import run_rows, summarize
from semievol.stages.base import Rows, StageContext, StageResult
from semievol.tasks import Row

INDEX = "index"
_SCORES = {"embedding": "cosine", "bm25": "BM25 score"}


def run(ctx: StageContext) -> StageResult:
    source, out = (storage.join(ctx.inputs["ingest"], "unlabeled"), storage.join(ctx.out, "rows"))
    k = ctx.config.retrieve.k
    retrieve_rows(ctx, source=source, out=out, k=k, schema=RETRIEVED)
    parts = list(summarize(out, ["neighbor_scores"], _nearest))
    nearest, counted = sum(score for score, _ in parts), sum(rows for _, rows in parts)
    mean = nearest / counted if counted else 0.0
    rows = Rows(came_in=storage.count_rows(source), out=storage.count_rows(out))
    metrics = {"k": k, "mean_nearest_score": round(mean, 4)}
    return StageResult(rows, metrics, f"k = {k}, mean {_SCORES[ctx.config.retrieve.by]} of the nearest {mean:.2f}")


def retrieve_rows(ctx: StageContext, *, source: str, out: str, k: int, schema: pa.Schema) -> None:
    """Write the rows of `source` with their k nearest labeled rows; also what evaluation with examples begins with."""
    ENGINES.release()  # of the stage before, which this one may need the room of
    pool = ctx.config.resources.embed
    arguments = {"index": storage.join(ctx.inputs["index"], INDEX), "config": ctx.config, "k": k, "schema": schema}
    run_rows(ctx.row_job, source=source, out=out, actor=Retriever, arguments=arguments, pool=pool)


def run_index(ctx: StageContext) -> StageResult:
    import ray

    labeled, pool = storage.join(ctx.inputs["ingest"], "labeled"), ctx.config.resources.embed
    build = ray.remote(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus)(build_index)
    sha256, recall = ray.get(build.remote(labeled, ctx.out, ctx.config))
    rows = Rows(came_in=storage.count_rows(labeled), out=storage.count_rows(storage.join(ctx.out, "rows")))
    how = "exact" if recall == 1.0 else f"recall {recall:.3f}"
    return StageResult(rows, {"index_sha256": sha256, "recall": recall}, f"{_SCORES[ctx.config.retrieve.by]}, {how}")


def build_index(labeled: str, out: str, config: RunConfig) -> tuple[str, float]:
    """Index the labeled rows, write the index and their own neighbours.

    Returns:
        The SHA-256 of what is indexed, and the share of the exact neighbours that it finds.
    """
    table = storage.read_table(labeled)
    texts, ids = [text_of(to_row(record)) for record in table.to_pylist()], table["row_id"].to_numpy()
    k = config.retrieve.k
    if config.retrieve.by == "bm25":
        lexical, recall = LexicalIndex(texts, ids), 1.0
        found, sha256 = lexical.search(texts, k, ids), lexical.save(storage.join(out, INDEX))
    else:
        vectors = Embedder(config.embedding).encode(texts)
        index = LabeledIndex.build(vectors, ids, exact_up_to=config.retrieve.exact_up_to, k=k)
        recall = index.recall
        found, sha256 = index.search(vectors, k, ids), index.save(storage.join(out, INDEX))
    storage.write_table(storage.join(out, "rows", "part-0.parquet"), _with_neighbors(table, found, LABELED_RETRIEVED))
    return sha256, recall


class Searcher:
    """The index, with what makes a query of a row."""

    def __init__(self, index: str, config: RunConfig) -> None:
        self._lexical = LexicalIndex.load(index) if config.retrieve.by == "bm25" else None
        if not self._lexical:
            self._embedder, self._dense = Embedder(config.embedding), LabeledIndex.load(index)

    def nearest(self, rows: list[Row], k: int, exclude: npt.NDArray[np.int64]) -> Hits:
        """As `LabeledIndex.search`."""
        texts = [text_of(row) for row in rows]
        if self._lexical:
            return self._lexical.search(texts, k, exclude)
        return self._dense.search(self._embedder.encode(texts), k, exclude)


def _with_neighbors(rows: pa.Table, found: Hits, schema: pa.Schema) -> pa.Table:
    ids, scores = found
    rows = rows.append_column("neighbor_ids", pa.array(ids, pa.list_(pa.int64())))
    rows = rows.append_column("neighbor_scores", pa.array(scores, pa.list_(pa.float32())))
    return rows.select(schema.names).cast(schema)


def _nearest(block: pa.Table) -> tuple[float, int]:
    """The sum of the best scores, and of how many rows."""
    import pyarrow.compute as pc

    scores = block["neighbor_scores"]
    first = pc.list_element(scores.filter(pc.greater(pc.list_value_length(scores), 0)), 0)
    return float(pc.sum(first).as_py() or 0.0), len(first)


class Retriever:
    """Actor: rows in, rows with their neighbours out."""

    def __init__(self, index: str, config: RunConfig, k: int, schema: pa.Schema, progress: Any) -> None:
        self._searcher = Searcher(index, config) if k else None  # nobody asks for neighbours: embed nothing
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
