"""Warm-up (in-weight propagation, paper section 3.1): M_warm = SFT(M, D_l). Writes what the final fine-tuning writes."""

from __future__ import annotations

from semievol import trainers
from semievol.stages.base import Key, Place, Scope, Stage, StageContext, StageResult
from semievol.stages.finetune import train
from semievol.trainers.render import Source


def run(ctx: StageContext) -> StageResult:
    """Train the base on the labeled rows."""
    config = ctx.config.warmup
    if "index" in ctx.inputs:
        source = Source(ctx.input("index"), context=config.context, k=config.k)
    else:
        source = Source(ctx.input("ingest", "labeled"))
    return train(ctx, config, ctx.config.model.base, [source])


def _inputs(place: Place) -> dict[str, Key]:
    """Return the labeled rows, as the index has them only where that is shown: else another embedding model would train again."""
    config = place.config
    indexed: dict[str, Key] = {"index": ("index", 0)}
    shown = config.warmup.context != "none" or config.task.lists_candidates
    return {"ingest": ("ingest", 0)} | (indexed if shown else {})


STAGE = Stage(
    name="warmup",
    run=run,
    inputs=_inputs,
    verify=lambda checks: checks.rows_of({"ingest": "labeled"}, checks.came_in),
    after=("index",),
    version=2,
    settings=("task", "warmup_prompt", "model.thinking", "warmup", "seed", "trainer.output_settings"),
    models=("base", "chat_template"),
    pool=lambda config: trainers.load(config).pool,
    scope=Scope.ONCE,
    makes="warm",
)
