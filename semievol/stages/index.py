"""Index the labeled rows, once for all rounds: index/, and rows/ with each labeled row's own neighbors for warm-up prompts."""

from __future__ import annotations

from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.retrieval.search import SCORES, build_index
from semievol.stages.base import Rows, Scope, Stage, StageContext, StageResult

SETTINGS = ("embedding.max_length", "retrieve")


def run(ctx: StageContext) -> StageResult:
    import ray

    labeled, pool = storage.join(ctx.inputs["ingest"], "labeled"), ctx.config.resources.embed
    build = ray.remote(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus)(build_index)
    sha256, recall = ray.get(build.remote(labeled, ctx.out, ctx.config.embedding, ctx.config.retrieve))
    rows = Rows(came_in=storage.count_rows(labeled), out=storage.count_rows(storage.join(ctx.out, "rows")))
    how = "exact" if recall == 1.0 else f"recall {recall:.3f}"
    return StageResult(rows, {"index_sha256": sha256, "recall": recall}, f"{SCORES[ctx.config.retrieve.by]}, {how}")


def _verify(rows: RowChecks) -> None:
    rows.same_rows(storage.join(rows.inputs["ingest"], "labeled"))


STAGE = Stage(
    name="index",
    version=1,
    run=run,
    inputs=lambda place: {"ingest": ("ingest", 0)},
    verify=_verify,
    after=("ingest",),
    settings=SETTINGS,
    models=("embedding",),
    pool="embed",
    scope=Scope.ONCE,
)
