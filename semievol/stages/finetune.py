"""The final fine-tuning: M_evol = SFT on labeled rows and selected pseudo-labels.

It starts from the base or the warm weights; after round 0, from the last evolved ones. Writes rows/ (what was trained on, as
chat messages) and what the trainer makes: adapter/ and the merged model/, or model.json with the name of a model at an endpoint.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from semievol import trainers
from semievol.config import TrainConfig
from semievol.stages.base import Key, Place, Rows, Stage, StageContext, StageResult
from semievol.trainers.base import TrainSpec, headline
from semievol.trainers.render import Source, render


def run(ctx: StageContext) -> StageResult:
    """Train the model that the round evolves."""
    config = ctx.config.finetune
    sources = [Source(ctx.input("select"), selected_only=True, soft=config.targets == "soft")]
    if config.include_labeled:
        sources.append(Source(ctx.input("index") if "index" in ctx.inputs else ctx.input("ingest", "labeled")))
    result = train(ctx, config, ctx.weights(config.start_from), sources)
    writes = ctx.trainer(ctx.config).writes
    return replace(result, places={f"evolved {what}": path for what, path in writes.items()})


def train(ctx: StageContext, config: TrainConfig, base: str, sources: list[Source]) -> StageResult:
    """Render the rows of the sources, and train on them, from the weights `base`."""
    rows, metrics = fit(ctx, TrainSpec(base, ctx.out, config, ctx.config.seed, ctx.chat), sources)
    return StageResult(rows, metrics, headline(metrics))


def fit(ctx: StageContext, spec: TrainSpec, sources: list[Source]) -> tuple[Rows, dict[str, Any]]:
    """Render the rows of the sources, and train on them. Return what became of the rows, and the metrics."""
    trainer = ctx.trainer(ctx.config)
    rendered = render(sources, spec, ctx.prompts, tokens=trainer.needs_tokens)
    ctx.check_bad_fraction(rendered.quarantined, rendered.came_in, rendered.examples)
    metrics = trainer.train(ctx.name, spec, rendered.usable, ctx.emit) | {"cut_to_fit": rendered.cut}
    return Rows(rendered.came_in, rendered.usable, rendered.quarantined), metrics


def _inputs(place: Place) -> dict[str, Key]:
    indexed: dict[str, Key] = {"index": ("index", 0)} if place.config.task.lists_candidates else {}
    return {"ingest": ("ingest", 0), "warmup": place.warm, "select": ("select", place.number)} | indexed


STAGE = Stage(
    name="finetune",
    run=run,
    inputs=_inputs,
    verify=lambda checks: checks.rows_of({"ingest": "labeled", "select": "rows"}, checks.came_in),
    after=("select",),
    version=2,
    settings=("task", "finetune_prompt", "model.thinking", "finetune", "seed", "trainer.output_settings"),
    models=("base", "chat_template"),
    pool=lambda config: trainers.load(config).pool,
    makes="evolved",
)
