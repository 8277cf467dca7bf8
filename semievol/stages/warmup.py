"""Warm-up (in-weight propagation, paper section 3.1): M_warm = SFT(M, D_l).

Writes rows/ (what was trained on, as chat messages) and what the trainer makes: adapter/ and the merged model/, or
model.json with the name of a model at an endpoint.
"""

from __future__ import annotations

from semievol import trainers
from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.stages.base import Key, Place, Rows, Scope, Stage, StageContext, StageResult, check_bad_fraction
from semievol.trainers.base import TrainSpec, headline
from semievol.trainers.render import Source, render


def run(ctx: StageContext) -> StageResult:
    """Train the base on the labeled rows."""
    config, trainer = ctx.config.warmup, ctx.trainer(ctx.config)
    if config.context == "none":
        source = Source(storage.join(ctx.inputs["ingest"], "labeled"))
    else:
        source = Source(storage.join(ctx.inputs["index"], "rows"), context=config.context, k=config.k)
    spec = TrainSpec(ctx.config.model.base, ctx.out, config, ctx.config.seed)
    rendered = render([source], spec, ctx.config.task, tokens=trainer.needs_tokens)
    check_bad_fraction(ctx, rendered.quarantined, rendered.came_in, rendered.examples)
    metrics = trainer.train(ctx.name, spec, rendered.usable, ctx.emit) | {"cut_to_fit": rendered.cut}
    return StageResult(Rows(rendered.came_in, rendered.usable, rendered.quarantined), metrics, headline(metrics))


def _inputs(place: Place) -> dict[str, Key]:
    """Return the labeled rows, with their neighbors only where they are shown: else another embedding model would train again."""
    with_neighbors: dict[str, Key] = {"index": ("index", 0)} if place.config.warmup.context != "none" else {}
    return {"ingest": ("ingest", 0)} | with_neighbors


def _verify(checks: RowChecks) -> None:
    rows = storage.join(checks.uri, "rows")
    checks.count("rows rendered", [rows], checks.came_in)
    checks.ids(rows, within=[storage.join(checks.inputs["ingest"], "labeled")])


STAGE = Stage(
    name="warmup",
    version=1,
    run=run,
    inputs=_inputs,
    verify=_verify,
    after=("index",),
    settings=("task", "warmup", "seed", "trainer.output_settings"),
    models=("base",),
    pool=lambda config: trainers.load(config).pool,
    scope=Scope.ONCE,
    makes="warm",
)
