"""Evaluate: base, warm and evolved on the held-out rows, paired tests between them, and pseudo-labels against an oracle.

One model's answers are a stage of their own (evaluate/base, evaluate/warm, evaluate/evolved), so that what has not
changed is not asked again; `run` compares them.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa

from semievol.config import Collaborator, LabelConfig, RunConfig
from semievol.data import storage
from semievol.data.tables import LABELED_RETRIEVED, PREDICTED
from semievol.inference.labeler import Pass
from semievol.method.metrics import mcnemar, wilson_interval
from semievol.stages.base import Rows, StageContext, StageResult, check_bad_fraction
from semievol.stages.label import answer_rows, count_answers, engine_figures
from semievol.stages.oracle import measure_pseudo_labels
from semievol.stages.retrieve import retrieve_rows
from semievol.trainers.base import trained

MODELS = {"base": None, "warm": "warmup", "evolved": "finetune"}  # and the stage that trains each


def run_model(ctx: StageContext) -> StageResult:
    """Let one model (the last part of the stage's name) answer the test rows, greedily; with evaluate.k after examples."""
    import pyarrow.compute as pc

    model = ctx.name.rpartition("/")[2]
    trained_by = MODELS[model]
    weights = trained(ctx.inputs[trained_by]) if trained_by else ctx.config.model.base
    config = ctx.config.evaluate
    source, out = (storage.join(ctx.inputs["ingest"], "test"), storage.join(ctx.out, "rows"))
    asked = source
    if config.k:
        asked = storage.join(ctx.out, "retrieved")
        retrieve_rows(ctx, source=source, out=asked, k=config.k, schema=LABELED_RETRIEVED)
    answerer = Collaborator(name="greedy", k=config.k, temperature=0.0)
    actors = answer_rows(
        ctx,
        source=asked,
        out=out,
        schema=PREDICTED,
        passes=[Pass(weights, None, (0,), last=True)],
        settings=LabelConfig(collaborators=[answerer], justify=False, max_tokens=config.max_tokens),
        labeled=storage.join(ctx.inputs["ingest"], "labeled"),
        columns={"answer": "gold"},
    )
    scored = storage.read_table(out, ["gold", "answer", "likelihood"])
    totals, reasons = count_answers(out, paid=[])
    refused = totals["failed:greedy"]  # no wrong answers: the model was never heard
    check_bad_fraction(ctx, refused, len(scored), (f"{n:,} rows: {reason}" for reason, n in reasons.most_common()))
    scores = _scores(scored, ctx.config)
    correct = float(scores.sum())
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
        metrics["likelihood"] = round(pc.mean(scored["likelihood"]).as_py(), 4)  # nats a token, of open-ended tasks
    # An unparsable answer is a wrong answer, not a lost row.
    rows = Rows(came_in=storage.count_rows(source), out=len(scored))
    return StageResult(rows, metrics, f"accuracy {metrics['accuracy']:.3f} ({low:.3f} to {high:.3f})")


def run(ctx: StageContext) -> StageResult:
    """Compare the models row by row (after round 0 the previous evolved one too), and the pseudo-labels with the oracle."""
    models = [name for name in (*MODELS, "previous") if f"evaluate/{name}" in ctx.inputs]
    by_row = {m: scores_by_row(storage.join(ctx.inputs[f"evaluate/{m}"], "rows"), ctx.config) for m in models}
    ids = sorted(by_row["base"])
    assert all(sorted(of) == ids for of in by_row.values()), "the models answered different rows, so none can be paired"
    scores = {model: np.array([of[i] for i in ids]) for model, of in by_row.items()}
    correct = {model: given >= 0.5 for model, given in scores.items()}  # McNemar's test wants right or wrong
    tests = {}
    pairs = [*itertools.combinations(MODELS, 2), *((model, "evolved") for model in models if model == "previous")]
    for a, b in pairs:
        only_a, only_b = (int((correct[a] & ~correct[b]).sum()), int((correct[b] & ~correct[a]).sum()))
        tests[f"{b}_vs_{a}"] = {"gained": only_b, "lost": only_a, "p_value": float(f"{mcnemar(only_a, only_b):.3g}")}
    accuracy = {model: round(float(given.mean()), 4) for model, given in scores.items()}
    metrics = {"accuracy": accuracy, "paired": tests, "pseudo_labels": measure_pseudo_labels(ctx)}
    rows = storage.count_rows(storage.join(ctx.inputs["evaluate/evolved"], "rows"))
    rival = "previous" if "previous" in models else "warm"
    gain, p_value = accuracy["evolved"] - accuracy[rival], tests[f"evolved_vs_{rival}"]["p_value"]
    return StageResult(Rows(rows, len(ids)), metrics, f"evolved {gain:+.3f} over {rival}, p = {p_value:.3g}")


def scores_by_row(rows: str, config: RunConfig) -> dict[int, float]:
    """How right a model's answer to each test row is, from the rows/ of its stage."""
    table = storage.read_table(rows, ["row_id", "gold", "answer"])
    return dict(zip(table["row_id"].to_pylist(), _scores(table, config).tolist(), strict=True))


def _scores(table: pa.Table, config: RunConfig) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How right each row is, from 0 to 1; a row without an answer is wrong."""
    score = config.task.score
    pairs = zip(table["gold"].to_pylist(), table["answer"].to_pylist(), strict=True)
    return np.array([0.0 if answer is None else score(answer, gold) for gold, answer in pairs])
