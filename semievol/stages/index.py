"""Index the labeled rows, once for all rounds: index/, and rows/ with each labeled row's own neighbors for warm-up prompts.

For a committee also crossfit/: the labeled rows with their folds, and with neighbors from the other folds only.
"""

from __future__ import annotations

from semievol.data import storage
from semievol.retrieval.search import SCORES, build_index
from semievol.stages.base import Rows, Scope, Stage, StageContext, StageResult

SETTINGS = ("embedding.max_length", "retrieve", "candidates_task")


def run(ctx: StageContext) -> StageResult:
    import ray

    labeled, pool = ctx.input("ingest", "labeled"), ctx.config.resources.embed
    build = ray.remote(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus)(build_index)
    task = ctx.task if ctx.task.lists_candidates else None
    config = ctx.config
    about = (config.embedding, config.retrieve, task, config.warmup.members)
    sha256, recall = ray.get(build.remote(labeled, ctx.out, *about))
    rows = Rows(came_in=storage.count_rows(labeled), out=storage.count_rows(ctx.rows))
    how = "exact" if recall == 1.0 else f"recall {recall:.3f}"
    return StageResult(rows, {"index_sha256": sha256, "recall": recall}, f"{SCORES[ctx.config.retrieve.by]}, {how}")


STAGE = Stage(
    name="index",
    run=run,
    inputs=lambda place: {"ingest": ("ingest", 0)},
    verify=lambda checks: checks.same_rows("ingest", "labeled"),
    after=("ingest",),
    settings=SETTINGS,
    if_set=("folds",),
    models=("embedding",),
    pool="embed",
    scope=Scope.ONCE,
)
