"""Evaluate a model on the held-out rows: it answers them greedily, with `evaluate.k` after solved examples.

Each model has a stage of its own, so that only what has changed is asked again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from semievol.config import Collaborator
from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.data.tables import PREDICTED
from semievol.inference.bulk import Request, answer_rows, count_answers, engine_figures
from semievol.inference.labeler import Panel, Pass
from semievol.method.metrics import wilson_interval
from semievol.stages.base import (
    ENGINE_SETTINGS,
    Key,
    Place,
    Rows,
    Scope,
    Stage,
    StageContext,
    StageResult,
    check_bad_fraction,
)
from semievol.tasks import Task
from semievol.trainers.base import trained

MODELS = {"base": None, "warm": "warmup", "evolved": "finetune"}  # and the stage that trains each


def run(ctx: StageContext) -> StageResult:
    """Let one model (the last part of the stage's name) answer the test rows."""
    import pyarrow.compute as pc

    trained_by = MODELS[ctx.name.rpartition("/")[2]]
    config = ctx.config
    source, out = (storage.join(ctx.inputs["ingest"], "test"), storage.join(ctx.out, "rows"))
    retrieved = ctx.inputs.get("evaluate/retrieve")
    greedy = Collaborator(name="greedy", k=config.evaluate.k, temperature=0.0)
    panel = Panel(
        task=ctx.task,
        collaborators=(greedy,),
        labeled=storage.join(ctx.inputs["ingest"], "labeled"),
        embedding=config.embedding,
        max_tokens=config.evaluate.max_tokens,
        seed=config.seed,
    )
    weights = trained(ctx.inputs[trained_by]) if trained_by else config.model.base
    request = Request(
        job=ctx.row_job,
        source=storage.join(retrieved, "rows") if retrieved else source,
        out=out,
        schema=PREDICTED,
        panel=panel,
        passes=[Pass(weights, None, (0,), last=True)],
        engine=config.engine,
        resources=config.resources.label,
        no_progress_s=config.limits.no_progress_s,
        columns={"answer": "gold"},
    )
    actors = answer_rows(ctx.engines, request)
    scored = storage.read_table(out, ["gold", "answer", "likelihood"])
    totals, reasons = count_answers(out, paid=[])
    refused = totals["failed:greedy"]  # no wrong answers: the model was never heard
    check_bad_fraction(ctx, refused, len(scored), (f"{n:,} rows: {reason}" for reason, n in reasons.most_common()))
    scores = _scores(scored, ctx.task)
    correct = float(scores.sum())
    unparsable = scored["answer"].null_count
    low, high = wilson_interval(correct, len(scored), config.evaluate.confidence_level)
    metrics = {
        "accuracy": round(correct / len(scored), 4),  # of open-ended tasks the mean score
        "interval": [round(low, 4), round(high, 4)],
        "correct": round(correct, 4),
        "unparsable": round(unparsable / len(scored), 4),
        "refused": refused,
        "engine": engine_figures(actors),
    }
    if scored["likelihood"].null_count < len(scored):
        metrics["likelihood"] = round(pc.mean(scored["likelihood"]).as_py(), 4)  # nats a token, of open-ended tasks
    # An unparsable answer is a wrong answer, not a lost row.
    rows = Rows(came_in=storage.count_rows(source), out=len(scored))
    return StageResult(rows, metrics, f"accuracy {metrics['accuracy']:.3f} ({low:.3f} to {high:.3f})")


def scores_by_row(rows: str, task: Task) -> dict[int, float]:
    """Return how right a model's answer to each test row is, from the rows/ of its stage."""
    table = storage.read_table(rows, ["row_id", "gold", "answer"])
    return dict(zip(table["row_id"].to_pylist(), _scores(table, task).tolist(), strict=True))


def _scores(table: pa.Table, task: Task) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Score each row from 0 to 1; a row without an answer is wrong."""
    pairs = zip(table["gold"].to_pylist(), table["answer"].to_pylist(), strict=True)
    return np.array([0.0 if answer is None else task.score(answer, gold) for gold, answer in pairs])


def _inputs(place: Place, **trained_by: Key) -> dict[str, Key]:
    retrieved: dict[str, Key] = {"evaluate/retrieve": ("evaluate/retrieve", 0)} if place.config.evaluate.k else {}
    return {"ingest": ("ingest", 0)} | trained_by | retrieved


def _verify(rows: RowChecks) -> None:
    rows.same_rows(storage.join(rows.inputs["ingest"], "test"))


def _declare(model: str, **more: Any) -> Stage:
    settings = (*ENGINE_SETTINGS, "evaluate.max_tokens", "evaluate.k", "evaluate.confidence_level")
    name = f"evaluate/{model}"
    return Stage(name, version=1, run=run, verify=_verify, settings=settings, pool="label", evaluates=model, **more)


BASE = _declare("base", inputs=_inputs, after=("retrieve", "evaluate/retrieve"), models=("base",), scope=Scope.ONCE)
WARM = _declare(
    "warm", inputs=lambda place: _inputs(place, warmup=("warmup", 0)), after=("evaluate/base",), scope=Scope.ONCE
)
EVOLVED = _declare(
    "evolved", inputs=lambda place: _inputs(place, finetune=("finetune", place.number)), after=("finetune",)
)
