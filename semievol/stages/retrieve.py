"""Retrieve (in-context propagation, paper section 3.1): write rows with their k nearest labeled rows.

One stage does it for the unlabeled rows. Others do it for the test and validation rows, once for all models that `evaluate.k`
shows them to. Where prompts list the likeliest labels of a row, these stages find those too. Where a collaborator is a probe,
unlabeled rows get its shares.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.data.tables import LABELED_RETRIEVED, RETRIEVED
from semievol.retrieval.search import INDEX, SCORES, Retriever
from semievol.runtime.rows import run_rows, summarize
from semievol.stages.base import Rows, Scope, Stage, StageContext, StageResult
from semievol.stages.index import SETTINGS


def _retrieve(ctx: StageContext, split: str, k: int, schema: pa.Schema, *, probed: bool = False) -> StageResult:
    source, config = ctx.input("ingest", split), ctx.config
    searcher = {"index": ctx.input("index", INDEX), "embedding": config.embedding, "retrieve": config.retrieve}
    if ctx.task.lists_candidates:
        searcher |= {"rows": ctx.input("index"), "task": ctx.task}
    arguments = {"searcher": searcher, "k": k, "schema": schema, "probed": probed}
    run_rows(
        ctx.row_job, source=source, out=ctx.rows, actor=Retriever, arguments=arguments, pool=config.resources.embed
    )
    parts = list(summarize(ctx.rows, ["neighbor_scores"], _nearest))
    nearest, counted = sum(score for score, _ in parts), sum(rows for _, rows in parts)
    mean = nearest / counted if counted else 0.0
    rows = Rows(came_in=storage.count_rows(source), out=storage.count_rows(ctx.rows))
    metrics = {"k": k, "mean_nearest_score": round(mean, 4)}
    return StageResult(rows, metrics, f"k = {k}, mean {SCORES[config.retrieve.by]} of the nearest {mean:.2f}")


def _nearest(block: pa.Table) -> tuple[float, int]:
    """Return the sum of the best scores, and of how many rows they are."""
    scores = block["neighbor_scores"]
    first = pc.list_element(scores.filter(pc.greater(pc.list_value_length(scores), 0)), 0)
    return float(pc.sum(first).as_py() or 0.0), len(first)


def _declare(name: str, split: str, **more: Any) -> Stage:
    def verify(checks: RowChecks) -> None:
        checks.same_rows("ingest", split)
        checks.neighbors(storage.join(checks.inputs["index"], "rows"))

    return Stage(name, verify=verify, models=("embedding",), pool="embed", **more)


UNLABELED = _declare(
    "retrieve",
    "unlabeled",
    run=lambda ctx: _retrieve(ctx, "unlabeled", ctx.config.retrieve.k, RETRIEVED, probed=bool(ctx.config.probe)),
    inputs=lambda place: {"ingest": ("ingest", place.rows), "index": ("index", 0)},
    after=("warmup",),
    settings=SETTINGS,
    scope=Scope.NEW_ROWS,
)


def _held_out(name: str, split: str) -> Stage:
    return _declare(
        name,
        split,
        run=lambda ctx: _retrieve(ctx, split, ctx.config.evaluate.k, LABELED_RETRIEVED),
        inputs=lambda place: {"ingest": ("ingest", 0), "index": ("index", 0)},
        after=("retrieve",),
        settings=("evaluate.k", *SETTINGS),
        scope=Scope.ONCE,
        wanted=lambda config: (
            (config.evaluate.k > 0 or config.task.lists_candidates) and getattr(config.data, split) is not None
        ),
    )


TEST = _held_out("evaluate/retrieve", "test")
VALIDATION = _held_out("validate/retrieve", "validation")
