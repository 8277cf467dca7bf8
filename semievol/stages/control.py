"""The control: SFT of as many steps. What the evolved model has over it is what the unlabeled rows have brought.

It is trained as the evolved model of its round: same start, settings, prompts and number of steps; but on the labeled rows
alone. After round 0 it starts from the last control, so its steps add up over the rounds as those of the evolved model do.
"""

from __future__ import annotations

import json

from semievol import trainers
from semievol.data import storage
from semievol.stages.base import Key, Place, Stage, StageContext, StageResult
from semievol.stages.finetune import labeled, train
from semievol.trainers.base import METRICS


def run(ctx: StageContext) -> StageResult:
    """Train on the labeled rows for as many steps as the final fine-tuning took."""
    config = ctx.config.finetune
    steps = json.loads(storage.read_text(ctx.input("finetune", METRICS)))["steps"]
    return train(ctx, config, ctx.weights(config.start_from), [labeled(ctx)], steps=steps)


def _inputs(place: Place) -> dict[str, Key]:
    indexed: dict[str, Key] = {"index": ("index", 0)} if place.config.task.lists_candidates else {}
    start = ("control", place.number - 1) if place.number else place.warm
    return {"ingest": ("ingest", 0), "warmup": start, "finetune": ("finetune", place.number)} | indexed


STAGE = Stage(
    name="control",
    run=run,
    inputs=_inputs,
    verify=lambda checks: checks.rows_of({"ingest": "labeled"}, checks.came_in),
    after=("validate/evolved",),
    settings=("task", "finetune_prompt", "model.thinking", "finetune", "seed", "trainer.output_settings"),
    models=("base", "chat_template"),
    pool=lambda config: trainers.load(config).pool,
    wanted=lambda config: config.evaluate.control,
    makes="control",
)
