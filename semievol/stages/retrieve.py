"""Retrieve (in-context propagation, paper section 3.1): write the unlabeled rows with their k nearest labeled rows."""

from __future__ import annotations

import pyarrow as pa

from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.data.tables import RETRIEVED
from semievol.retrieval.search import INDEX, SCORES, Retriever
from semievol.runtime.rows import run_rows, summarize
from semievol.stages.base import Rows, Scope, Stage, StageContext, StageResult
from semievol.stages.index import SETTINGS


def run(ctx: StageContext) -> StageResult:
    return retrieve_rows(ctx, storage.join(ctx.inputs["ingest"], "unlabeled"), ctx.config.retrieve.k, RETRIEVED)


def retrieve_rows(ctx: StageContext, source: str, k: int, schema: pa.Schema) -> StageResult:
    """Write the rows of `source` with their k nearest labeled rows, and report on the scores."""
    out, config = storage.join(ctx.out, "rows"), ctx.config
    searcher = {
        "index": storage.join(ctx.inputs["index"], INDEX),
        "embedding": config.embedding,
        "retrieve": config.retrieve,
    }
    arguments = {"searcher": searcher, "k": k, "schema": schema}
    run_rows(ctx.row_job, source=source, out=out, actor=Retriever, arguments=arguments, pool=config.resources.embed)
    parts = list(summarize(out, ["neighbor_scores"], _nearest))
    nearest, counted = sum(score for score, _ in parts), sum(rows for _, rows in parts)
    mean = nearest / counted if counted else 0.0
    rows = Rows(came_in=storage.count_rows(source), out=storage.count_rows(out))
    metrics = {"k": k, "mean_nearest_score": round(mean, 4)}
    return StageResult(rows, metrics, f"k = {k}, mean {SCORES[config.retrieve.by]} of the nearest {mean:.2f}")


def _nearest(block: pa.Table) -> tuple[float, int]:
    """Return the sum of the best scores, and of how many rows they are."""
    import pyarrow.compute as pc

    scores = block["neighbor_scores"]
    first = pc.list_element(scores.filter(pc.greater(pc.list_value_length(scores), 0)), 0)
    return float(pc.sum(first).as_py() or 0.0), len(first)


def verify_neighbors(rows: RowChecks, split: str) -> None:
    """Check that the rows of a split of the ingest stage are all there, with labeled rows as neighbors."""
    rows.same_rows(storage.join(rows.inputs["ingest"], split))
    rows.neighbors(storage.join(rows.uri, "rows"), storage.join(rows.inputs["index"], "rows"))


STAGE = Stage(
    name="retrieve",
    version=1,
    run=run,
    inputs=lambda place: {"ingest": ("ingest", place.rows), "index": ("index", 0)},
    verify=lambda rows: verify_neighbors(rows, "unlabeled"),
    after=("warmup",),
    settings=SETTINGS,
    models=("embedding",),
    pool="embed",
    scope=Scope.NEW_ROWS,
)
