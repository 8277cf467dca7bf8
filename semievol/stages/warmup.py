"""Warm-up (in-weight propagation, paper section 3.1): M_warm = SFT(M, D_l). Writes what the final fine-tuning writes.

With `warmup.members` above 1 it trains a committee, one member after another: each on the labeled rows outside of a fold of
its own, with a seed and a style of its own. Writes member-m/ for each, folds/, and members.json, which names the best one.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import pyarrow as pa

from semievol import trainers
from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.data.tables import FOLDS
from semievol.method.folds import folds
from semievol.stages.base import Key, Place, Rows, Scope, Stage, StageContext, StageResult
from semievol.stages.finetune import fit, train
from semievol.trainers.base import MEMBERS, MODEL, TrainSpec, members
from semievol.trainers.render import Source, render

_RECORD = "member.json"  # of a member, written last: {"rows", "metrics"}
_MUCH_WORSE, _LEAST = 2.0, 4  # times the median of the other members' losses, each over so many rows at least


def run(ctx: StageContext) -> StageResult:
    """Train the base on the labeled rows, or each member of the committee on those outside of its fold."""
    if ctx.config.folds:
        return _committee(ctx, ctx.config.folds)
    return train(ctx, ctx.config.warmup, ctx.config.model.base, [_labeled(ctx)])


def _labeled(ctx: StageContext) -> Source:
    config = ctx.config.warmup
    if "index" in ctx.inputs:
        return Source(ctx.input("index"), context=config.context, k=config.k)
    return Source(ctx.input("ingest", "labeled"))


def _committee(ctx: StageContext, count: int) -> StageResult:
    import ray

    ray.get(ray.remote(_deal).remote(ctx.input("ingest", "labeled"), _folds(ctx), count))
    names = [f"member-{m}" for m in range(count)]
    found = [_member(ctx, m, name, ctx.config.seed + m) for m, name in enumerate(names)]
    fold = storage.count_rows(ctx.input("ingest", "labeled")) // count  # rows; of fewer, chance decides
    again = much_worse([loss(one["metrics"]) for one in found]) if fold >= _LEAST else []
    for m in again:
        other = _member(ctx, m, f"member-{m}-again", ctx.config.seed + count + m)
        better = loss(other["metrics"]) < loss(found[m]["metrics"])
        storage.delete(storage.join(ctx.out, names[m] if better else f"member-{m}-again", MODEL))
        if better:
            names[m], found[m] = f"member-{m}-again", other
    losses = [loss(one["metrics"]) for one in found]
    best = losses.index(min(losses))
    storage.write_text(storage.join(ctx.out, MEMBERS), json.dumps({"folders": names, "best": best}))
    measured = [value if math.isfinite(value) else None for value in losses]
    metrics = {
        **found[best]["metrics"],
        "members": [one["metrics"] for one in found],
        "held_out_loss": measured,
        "best": best,
        "trained_again": again,
    }
    rows = Rows(*(sum(one["rows"][what] for one in found) for what in ("came_in", "out", "quarantined")))
    shown = ", ".join("?" if value is None else f"{value:.3f}" for value in measured)
    headline = f"{count} members, loss on their folds {shown}"
    headline += "".join(f"; member {m} was trained again" for m in again)
    return StageResult(rows, metrics, headline)


def _member(ctx: StageContext, m: int, name: str, seed: int) -> dict[str, Any]:
    """Train a member, unless an earlier attempt has; return its record: what became of its rows, and its metrics."""
    config, out = ctx.config, storage.join(ctx.out, name)
    record = storage.join(out, _RECORD)
    if storage.exists(record):
        return dict(json.loads(storage.read_text(record)))
    source = replace(_labeled(ctx), style=config.member_styles[m], folds=_folds(ctx), fold=m)
    spec = TrainSpec(config.model.base, out, config.warmup, seed, ctx.chat)
    if ctx.trainer(config).needs_tokens:  # else an endpoint trains, and measures nothing
        held_out = replace(spec, out=storage.join(out, "held_out"))
        left = render([replace(source, held_out=True)], held_out, ctx.prompts, tokens=True)
        spec = replace(spec, held_out=held_out.rows if left.usable else None)

    def emit(stage: str, done: int, total: int, note: str) -> None:
        ctx.emit(stage, done, total, f"{name}, {note}" if note else name)

    rows, metrics = fit(replace(ctx, emit=emit), spec, [source])
    made = {"rows": asdict(rows), "metrics": metrics}
    storage.write_text(record, json.dumps(made))
    return made


def loss(metrics: dict[str, Any]) -> float:
    """Return a member's loss on the rows that it left out; infinite where it is no number or was not measured."""
    value = metrics.get("held_out_loss")
    return math.inf if value is None or math.isnan(value) else float(value)


def much_worse(losses: list[float]) -> list[int]:
    """Return the members whose loss is far above that of the others: one in several trainings goes wrong."""
    others = [median([*losses[:m], *losses[m + 1 :]]) for m in range(len(losses))]
    return [m for m, value in enumerate(losses) if value > _MUCH_WORSE * others[m]]


def _folds(ctx: StageContext) -> str:
    return storage.join(ctx.out, "folds")


def _deal(labeled: str, out: str, count: int) -> None:
    """Write the fold of each labeled row; a task, as the driver reads no rows."""
    table = storage.read_table(labeled, ["row_id", "answer"])
    dealt = folds(table["row_id"].to_pylist(), table["answer"].to_pylist(), count)
    rows = pa.table({"row_id": list(dealt), "fold": list(dealt.values())}, schema=FOLDS)
    storage.write_table(storage.join(out, "part-0.parquet"), rows)


def _inputs(place: Place) -> dict[str, Key]:
    """Return the labeled rows, as the index has them only where that is shown: else another embedding model would train again."""
    config = place.config
    indexed: dict[str, Key] = {"index": ("index", 0)}
    shown = config.warmup.context != "none" or config.task.lists_candidates
    return {"ingest": ("ingest", 0)} | (indexed if shown else {})


def _verify(checks: RowChecks) -> None:
    labeled = storage.join(checks.inputs["ingest"], "labeled")
    trained_on = [storage.join(folder, "rows") for folder in members(checks.uri)]
    if not trained_on:
        return checks.rows_of({"ingest": "labeled"}, checks.came_in)
    checks.count("rows written for members", trained_on, checks.came_in)
    for folder in trained_on:
        checks.ids(folder, within=[labeled])
    return None


STAGE = Stage(
    name="warmup",
    run=run,
    inputs=_inputs,
    verify=_verify,
    after=("index",),
    version=2,
    settings=("task", "warmup_prompt", "model.thinking", "warmup", "seed", "trainer.output_settings"),
    models=("base", "chat_template"),
    pool=lambda config: trainers.load(config).pool,
    scope=Scope.ONCE,
    makes="warm",
)
