"""Retrieve (in-context propagation, paper section 3.1): the k nearest labeled rows of every unlabeled row.

The labeled side is the index and is built once; the unlabeled side streams past it through an actor pool.
Writes index/ and rows/.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from semievol import storage
from semievol.config import EmbeddingConfig
from semievol.embedding import Embedder, text_of
from semievol.index import LabeledIndex
from semievol.runfolder import Rows, StageResult
from semievol.schema import RETRIEVED
from semievol.stages.context import StageContext, run_rows, summarize, to_row


def run(ctx: StageContext) -> StageResult:
    import pyarrow.compute as pc
    import ray

    from semievol import cluster

    config = ctx.config
    source = storage.join(ctx.inputs["ingest"], "unlabeled")
    labeled = storage.join(ctx.inputs["ingest"], "labeled")
    index, out = storage.join(ctx.out, "index"), storage.join(ctx.out, "rows")
    pool = config.resources.embed
    cluster.require("embed", pool.actors, pool.num_cpus, pool.num_gpus)
    build = ray.remote(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus)(build_index)
    sha256 = ray.get(build.remote(labeled, index, config.embedding))
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
    metrics = {"k": config.retrieve.k, "mean_nearest_cosine": round(mean, 4), "index_sha256": sha256}
    return StageResult(rows, metrics, f"k = {config.retrieve.k}, mean cosine of the nearest {mean:.2f}")


def build_index(labeled: str, folder: str, config: EmbeddingConfig) -> str:
    """Embed the labeled rows and write their index; returns its SHA-256."""
    table = storage.read_table(labeled)
    vectors = Embedder(config).encode([text_of(to_row(record)) for record in table.to_pylist()])
    return LabeledIndex.build(vectors, table["row_id"].to_numpy()).save(folder)


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
        ids, scores = self._index.search(vectors, self._k, np.asarray(batch["row_id"].to_numpy()))
        batch = batch.append_column("neighbor_ids", pa.array(ids, pa.list_(pa.int64())))
        batch = batch.append_column("neighbor_scores", pa.array(scores, pa.list_(pa.float32())))
        self._progress.add.remote(len(batch))
        return batch.select(RETRIEVED.names).cast(RETRIEVED)
