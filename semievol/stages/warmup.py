"""Warm-up (in-weight propagation, paper section 3.1): M_warm = SFT(M, D_l). Writes what the final fine-tuning writes."""

from __future__ import annotations

from semievol import trainers
from semievol.stages.base import Key, Place, Scope, Stage, StageContext, StageResult
from semievol.stages.finetune import train
from semievol.trainers.render import Source


def run(ctx: StageContext) -> StageResult:
    """Train the base on the labeled rows."""
    config = ctx.config.warmup
    if config.context == "none":
        source = Source(ctx.input("ingest", "labeled"))
    else:
        source = Source(ctx.input("index"), context=config.context, k=config.k)
    return train(ctx, config, ctx.config.model.base, [source])


def _inputs(place: Place) -> dict[str, Key]:
    """Return the labeled rows, with their neighbors only where they are shown: else another embedding model would train again."""
    with_neighbors: dict[str, Key] = {"index": ("index", 0)} if place.config.warmup.context != "none" else {}
    return {"ingest": ("ingest", 0)} | with_neighbors


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
