"""Retrieve (in-context propagation, paper section 3.1): the k nearest labeled rows of every row.

The labeled side is the index, a stage of its own that is built once: it writes index/, and rows/ with each labeled row's
own neighbours (itself left out) for warm-up prompts. The unlabeled side streams past it through an actor pool to rows/.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol import storage
from semievol.config import EmbeddingConfig
from semievol.embedding import Embedder, text_of
from semievol.index import LabeledIndex
from semievol.runfolder import Rows, StageResult
from semievol.schema import LABELED_RETRIEVED, RETRIEVED
from semievol.stages.context import StageContext, run_rows, summarize, to_row

INDEX = "index"


def run(ctx: StageContext) -> StageResult:
    import pyarrow.compute as pc

    from semievol import cluster

    config = ctx.config
    source, out = (storage.join(ctx.inputs["ingest"], "unlabeled"), storage.join(ctx.out, "rows"))
    index = storage.join(ctx.inputs["index"], INDEX)
    pool = config.resources.embed
    cluster.require("embed", pool.actors, pool.num_cpus, pool.num_gpus)
    run_rows(
        ctx,
        source=source,
        out=out,
        actor=Retriever,
        arguments={"index": index, "embedding": config.embedding, "k": config.retrieve.k},
        pool=pool,
    )
    partials = pa.concat_tables(summarize(out, ["neighbor_scores"], _nearest))
    nearest, counted = (pc.sum(partials["cosine"]).as_py() or 0.0, pc.sum(partials["rows"]).as_py() or 0)
    mean = nearest / counted if counted else 0.0
    rows = Rows(came_in=storage.count_rows(source), out=storage.count_rows(out))
    metrics = {"k": config.retrieve.k, "mean_nearest_cosine": round(mean, 4)}
    return StageResult(rows, metrics, f"k = {config.retrieve.k}, mean cosine of the nearest {mean:.2f}")


def run_index(ctx: StageContext) -> StageResult:
    import ray

    from semievol import cluster

    labeled, pool = storage.join(ctx.inputs["ingest"], "labeled"), ctx.config.resources.embed
    cluster.require("embed", 1, pool.num_cpus, pool.num_gpus)
    build = ray.remote(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus)(build_index)
    sha256 = ray.get(build.remote(labeled, ctx.out, ctx.config.embedding, ctx.config.retrieve.k))
    rows = Rows(came_in=storage.count_rows(labeled), out=storage.count_rows(storage.join(ctx.out, "rows")))
    return StageResult(rows, {"index_sha256": sha256}, "flat, exact")


def build_index(labeled: str, out: str, config: EmbeddingConfig, k: int) -> str:
    """Embed the labeled rows, write their index and their own neighbours; returns the index's SHA-256."""
    table = storage.read_table(labeled)
    vectors = Embedder(config).encode([text_of(to_row(record)) for record in table.to_pylist()])
    index = LabeledIndex.build(vectors, table["row_id"].to_numpy())
    storage.write_table(storage.join(out, "rows", "part-0.parquet"), _with_neighbors(table, index, vectors, k))
    return index.save(storage.join(out, INDEX))


def _with_neighbors(rows: pa.Table, index: LabeledIndex, vectors: npt.NDArray[np.float32], k: int) -> pa.Table:
    """The rows with their neighbours; a row is never its own."""
    ids, scores = index.search(vectors, k, np.asarray(rows["row_id"].to_numpy()))
    rows = rows.append_column("neighbor_ids", pa.array(ids, pa.list_(pa.int64())))
    rows = rows.append_column("neighbor_scores", pa.array(scores, pa.list_(pa.float32())))
    schema = LABELED_RETRIEVED if "answer" in rows.column_names else RETRIEVED
    return rows.select(schema.names).cast(schema)


def _nearest(block: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    scores = block["neighbor_scores"]
    first = pc.list_element(scores.filter(pc.greater(pc.list_value_length(scores), 0)), 0)
    return pa.table({"cosine": [float(pc.sum(first).as_py() or 0.0)], "rows": [len(first)]})


class Retriever:
    """Actor: unlabeled rows in, rows with their neighbours out (`RETRIEVED`)."""

    def __init__(self, index: str, embedding: EmbeddingConfig, k: int, progress: Any) -> None:
        self._index = LabeledIndex.load(index)
        self._embedder = Embedder(embedding)
        self._k = k
        self._progress = progress

    def __call__(self, batch: pa.Table) -> pa.Table:
        if len(batch) == 0:
            return RETRIEVED.empty_table()
        vectors = self._embedder.encode([text_of(to_row(record)) for record in batch.to_pylist()])
        found = _with_neighbors(batch, self._index, vectors, self._k)
        self._progress.add.remote(len(batch))
        return found
