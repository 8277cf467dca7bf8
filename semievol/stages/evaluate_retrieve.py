"""Retrieve the k nearest labeled rows of the test rows, once for all models that `evaluate.k` shows them to."""

from __future__ import annotations

from semievol.data import storage
from semievol.data.tables import LABELED_RETRIEVED
from semievol.stages.base import Scope, Stage, StageContext, StageResult
from semievol.stages.index import SETTINGS
from semievol.stages.retrieve import retrieve_rows, verify_neighbors


def run(ctx: StageContext) -> StageResult:
    return retrieve_rows(ctx, storage.join(ctx.inputs["ingest"], "test"), ctx.config.evaluate.k, LABELED_RETRIEVED)


STAGE = Stage(
    name="evaluate/retrieve",
    version=1,
    run=run,
    inputs=lambda place: {"ingest": ("ingest", 0), "index": ("index", 0)},
    verify=lambda rows: verify_neighbors(rows, "test"),
    after=("retrieve",),
    settings=("evaluate.k", *SETTINGS),
    models=("embedding",),
    pool="embed",
    scope=Scope.ONCE,
    wanted=lambda config: config.evaluate.k > 0,
)
