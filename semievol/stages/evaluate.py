"""Evaluate a model on the held-out rows: it answers them greedily or by exact scores, with `evaluate.k` after solved examples.

A committee is one model here: all members answer, and count the same.

Each model has a stage of its own, so that only what has changed is asked again. Test rows are only reported on. Where there are
validation rows, the models that a run decides about answer these too, in stages of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semievol.config import Collaborator, RunConfig
from semievol.data import storage
from semievol.data.tables import PREDICTED
from semievol.inference.bulk import answer_rows, count_answers, engine_figures
from semievol.inference.labeler import Pass
from semievol.method.labels import by_label
from semievol.method.metrics import wilson_interval
from semievol.runtime.rows import summarize
from semievol.stages.base import Key, Place, Rows, Scope, Stage, StageContext, StageResult
from semievol.stages.label import ENGINE_SETTINGS, GOLD, request
from semievol.tasks import Task
from semievol.trainers.base import trained

MODELS = {"base": None, "warm": "warmup", "control": "control", "evolved": "finetune"}  # and the stage that trains each
SPLIT = {"evaluate": "test", "validate": "validation"}
Texts = Iterable[str | None]


def run(ctx: StageContext) -> StageResult:
    """Let one model (the last part of the stage's name) answer the test rows, or as `validate/...` the validation rows."""
    what, _, model = ctx.name.partition("/")
    config = ctx.config.evaluate
    source, out = ctx.input("ingest", SPLIT[what]), ctx.rows
    shown = ctx.input(f"{what}/retrieve") if f"{what}/retrieve" in ctx.inputs else source
    asked, passes = _panel(ctx, model)
    how = ctx.config.evaluate_how
    actors = answer_rows(ctx.engines, request(ctx, shown, out, asked, passes, PREDICTED, how, GOLD))
    scored = storage.read_table(out, ["gold", "answer", "likelihood"])
    totals, reasons = count_answers(out, paid=[])
    refused = max(totals[f"failed:{who.name}"] for who in asked)  # no wrong answers: a model was never heard
    ctx.check_bad_fraction(refused, len(scored), (f"{n:,} rows: {reason}" for reason, n in reasons.most_common()))
    correct = float(scores(ctx.task, scored["answer"].to_pylist(), scored["gold"].to_pylist()).sum())
    unparsable = scored["answer"].null_count
    low, high = wilson_interval(correct, len(scored), config.confidence_level)
    metrics = {
        "accuracy": round(correct / len(scored), 4),  # of open-ended tasks the mean score
        "interval": [round(low, 4), round(high, 4)],
        "correct": round(correct, 4),
        "unparsable": round(unparsable / len(scored), 4),
        "refused": refused,
        "engine": engine_figures(actors),
    }
    if scored["likelihood"].null_count < len(scored):
        likelihood = pc.mean(scored["likelihood"]).as_py()  # of open-ended tasks in nats a token
        metrics |= {"nll": round(-likelihood, 4)} if how["mode"] == "score" else {"likelihood": round(likelihood, 4)}
    if ctx.task.names_labels:
        metrics |= by_label(ctx.task, scored["gold"].to_pylist(), scored["answer"].to_pylist())
    if len(asked) > 1:
        metrics["members"] = _accuracies(ctx)
    # An unparsable answer is a wrong answer, not a lost row.
    rows = Rows(came_in=storage.count_rows(source), out=len(scored))
    return StageResult(rows, metrics, f"accuracy {metrics['accuracy']:.3f} ({low:.3f} to {high:.3f})")


def _panel(ctx: StageContext, model: str) -> tuple[list[Collaborator], list[Pass]]:
    """Return who answers and in which passes: one model, or each member of the committee in its own style."""
    trained_by = MODELS[model]
    greedy = Collaborator(name="greedy", k=ctx.config.evaluate.k, temperature=0.0)
    if model == "warm" and ctx.config.folds:
        styles = enumerate(ctx.config.member_styles)
        asked = [greedy.model_copy(update={"name": f"warm-{m}", "prompt": style}) for m, style in styles]
        weights = [ctx.weights(who.name) for who in asked]
    else:
        asked = [greedy]
        weights = [trained(ctx.inputs[trained_by]) if trained_by else ctx.config.model.base]
    # The engine of the first one stays, and labels next.
    return asked, [Pass(each, None, (m,), last=m == 0, chat=ctx.chat) for m, each in reversed([*enumerate(weights)])]


def _accuracies(ctx: StageContext) -> dict[str, float]:
    """Return the accuracy of each member by itself."""
    totals: Counter[str] = Counter()
    for right in summarize(ctx.rows, ["gold", "responses"], _right, task=ctx.task):
        totals.update(right)
    rows = totals.pop("")
    return {member: round(right / rows, 4) for member, right in sorted(totals.items())}


def _right(block: pa.Table, task: Task) -> dict[str, float]:
    """Return the sum of each member's scores, and under "" the number of rows."""
    given: dict[str, list[str | None]] = {}
    for responses in block["responses"].to_pylist():
        for response in responses:
            given.setdefault(response["collaborator"], []).append(response["answer"])
    truths = block["gold"].to_pylist()
    found = {member: float(scores(task, answers, truths).sum()) for member, answers in given.items()}
    return found | {"": float(len(block))}


def scores_by_row(rows: str, task: Task) -> dict[int, float]:
    """Return how right a model's answer to each held-out row is, from the rows/ of its stage."""
    table = storage.read_table(rows, ["row_id", "gold", "answer"])
    found = scores(task, table["answer"].to_pylist(), table["gold"].to_pylist())
    return dict(zip(table["row_id"].to_pylist(), found.tolist(), strict=True))


def scores(task: Task, answers: Texts, truths: Texts) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Score answers from 0 to 1; one that is missing, or whose truth is, has 0."""
    pairs = zip(answers, truths, strict=True)
    return np.array([0.0 if answer is None or truth is None else task.score(answer, truth) for answer, truth in pairs])


def _declare(what: str, model: str, **more: Any) -> Stage:
    def inputs(place: Place) -> dict[str, Key]:
        trained_by, retrieve = MODELS[model], f"{what}/retrieve"
        training = {trained_by: (trained_by, 0 if model == "warm" else place.number)} if trained_by else {}
        shown = place.config.evaluate.k or place.config.task.lists_candidates
        return {"ingest": ("ingest", 0)} | training | ({retrieve: (retrieve, 0)} if shown else {})

    def wanted(config: RunConfig) -> bool:
        asked = what == "evaluate" or config.data.validation is not None
        return asked and (model != "control" or config.evaluate.control)

    return Stage(
        f"{what}/{model}",
        run=run,
        inputs=inputs,
        verify=lambda checks: checks.same_rows("ingest", SPLIT[what]),
        version=2,
        settings=(*ENGINE_SETTINGS, "evaluate_prompt", "evaluate_how", "evaluate.k", "evaluate.confidence_level"),
        pool="label",
        evaluates=model if what == "evaluate" else "",
        validates=model if what == "validate" else "",
        wanted=wanted,
        **more,
    )


# The stages of a model follow each other, as its engine is loaded.
BASE = _declare(
    "evaluate", "base", after=("retrieve", "evaluate/retrieve"), models=("base", "chat_template"), scope=Scope.ONCE
)
VALIDATE_BASE = _declare(
    "validate", "base", after=("evaluate/base", "validate/retrieve"), models=("base", "chat_template"), scope=Scope.ONCE
)
WARM = _declare("evaluate", "warm", after=("validate/base",), scope=Scope.ONCE)
VALIDATE_WARM = _declare("validate", "warm", after=("evaluate/warm",), scope=Scope.ONCE)
EVOLVED = _declare("evaluate", "evolved", after=("finetune",))
VALIDATE_EVOLVED = _declare("validate", "evolved", after=("evaluate/evolved",))
CONTROL = _declare("evaluate", "control", after=("control",))
