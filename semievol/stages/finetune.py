"""The final fine-tuning: M_evol = SFT on labeled rows and selected pseudo-labels.

It starts from the base or the warm weights; after round 0, from the last evolved ones. Writes what the warm-up writes.
"""

from __future__ import annotations

from semievol import trainers
from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.stages.base import Key, Place, Rows, Stage, StageContext, StageResult, check_bad_fraction
from semievol.trainers.base import TrainSpec, headline
from semievol.trainers.render import Source, render


def run(ctx: StageContext) -> StageResult:
    """Train the model that the round evolves."""
    config, trainer = ctx.config.finetune, ctx.trainer(ctx.config)
    sources = [Source(storage.join(ctx.inputs["select"], "rows"), selected_only=True)]
    if config.include_labeled:
        sources.append(Source(storage.join(ctx.inputs["ingest"], "labeled")))
    spec = TrainSpec(ctx.weights(config.start_from), ctx.out, config, ctx.config.seed)
    rendered = render(sources, spec, ctx.config.task, tokens=trainer.needs_tokens)
    check_bad_fraction(ctx, rendered.quarantined, rendered.came_in, rendered.examples)
    metrics = trainer.train(ctx.name, spec, rendered.usable, ctx.emit) | {"cut_to_fit": rendered.cut}
    rows = Rows(rendered.came_in, rendered.usable, rendered.quarantined)
    places = {f"evolved {what}": path for what, path in trainer.writes.items()}
    return StageResult(rows, metrics, headline(metrics), places)


def _inputs(place: Place) -> dict[str, Key]:
    return {"ingest": ("ingest", 0), "warmup": place.warm, "select": ("select", place.number)}


def _verify(checks: RowChecks) -> None:
    rows = storage.join(checks.uri, "rows")
    checks.count("rows rendered", [rows], checks.came_in)
    sources = [storage.join(checks.inputs["ingest"], "labeled"), storage.join(checks.inputs["select"], "rows")]
    checks.ids(rows, within=sources)


STAGE = Stage(
    name="finetune",
    version=1,
    run=run,
    inputs=_inputs,
    verify=_verify,
    after=("select",),
    settings=("task", "finetune", "seed", "trainer.output_settings"),
    models=("base",),
    pool=lambda config: trainers.load(config).pool,
    makes="evolved",
)
