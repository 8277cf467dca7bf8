"""Evaluate: base, warm and evolved on the held-out rows, paired tests between them, and pseudo-labels against an oracle.

One model's answers are a stage of their own (evaluate/base, evaluate/warm, evaluate/evolved), so that what has not
changed is not asked again; `run` compares them.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa

from semievol import storage, tasks
from semievol.config import Collaborator, LabelConfig, RunConfig
from semievol.runfolder import Rows, StageResult
from semievol.schema import PREDICTED
from semievol.stages.context import StageContext, summarize
from semievol.stages.label import answer_rows
from semievol.stages.labeler import Pass
from semievol.statistics import mcnemar, wilson_interval
from semievol.training import trained

MODELS = {"base": None, "warm": "warmup", "evolved": "finetune"}  # and the stage that trains each
_GREEDY = Collaborator(name="greedy", k=0, temperature=0.0)


def run_model(ctx: StageContext) -> StageResult:
    """Let one model (the last part of the stage's name) answer the test rows, greedily and without examples."""
    model = ctx.name.rpartition("/")[2]
    trained_by = MODELS[model]
    weights = trained(ctx.inputs[trained_by]) if trained_by else ctx.config.model.base
    source, out = (storage.join(ctx.inputs["ingest"], "test"), storage.join(ctx.out, "rows"))
    answer_rows(
        ctx,
        source=source,
        out=out,
        schema=PREDICTED,
        passes=[Pass(weights, None, (0,), last=True)],
        settings=LabelConfig([_GREEDY], justify=False, max_tokens=ctx.config.evaluate.max_tokens),
        labeled=None,
        columns={"answer": "gold"},
    )
    scored = storage.read_table(out, ["gold", "answer"])
    scores = _scores(scored, ctx)
    correct = float(scores.sum())
    unparsable = scored["answer"].null_count
    low, high = wilson_interval(correct, len(scored), ctx.config.evaluate.confidence_level)
    metrics = {
        "accuracy": round(correct / len(scored), 4),  # of open-ended tasks the mean score
        "interval": [round(low, 4), round(high, 4)],
        "correct": round(correct, 4),
        "unparsable": round(unparsable / len(scored), 4),
    }
    # An unparsable answer is a wrong answer, not a lost row.
    rows = Rows(came_in=storage.count_rows(source), out=len(scored))
    return StageResult(rows, metrics, f"accuracy {metrics['accuracy']:.3f} ({low:.3f} to {high:.3f})")


def run(ctx: StageContext) -> StageResult:
    """Compare the models row by row, and the pseudo-labels with the oracle where there is one."""
    scores: dict[str, Any] = {}
    ids: set[tuple[int, ...]] = set()
    for model in MODELS:
        table = storage.read_table(storage.join(ctx.inputs[f"evaluate/{model}"], "rows"), ["row_id", "gold", "answer"])
        table = table.sort_by("row_id")
        scores[model] = _scores(table, ctx)
        ids.add(tuple(table["row_id"].to_pylist()))
    assert len(ids) == 1, "the models answered different rows, so they cannot be paired"
    correct = {model: given >= 0.5 for model, given in scores.items()}  # McNemar's test wants right or wrong
    tests = {}
    for a, b in itertools.combinations(MODELS, 2):
        only_a, only_b = (int((correct[a] & ~correct[b]).sum()), int((correct[b] & ~correct[a]).sum()))
        tests[f"{b}_vs_{a}"] = {"gained": only_b, "lost": only_a, "p_value": float(f"{mcnemar(only_a, only_b):.3g}")}
    accuracy = {model: round(float(given.mean()), 4) for model, given in scores.items()}
    metrics = {"accuracy": accuracy, "paired": tests, "pseudo_labels": _pseudo_labels(ctx)}
    rows = storage.count_rows(storage.join(ctx.inputs["ingest"], "test"))
    verdict = tests["evolved_vs_warm"]
    gain = accuracy["evolved"] - accuracy["warm"]
    return StageResult(
        Rows(rows, len(correct["base"])), metrics, f"evolved {gain:+.3f} over warm, p = {verdict['p_value']:.3g}"
    )


def _scores(table: pa.Table, ctx: StageContext) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How right each row is, from 0 to 1; a row without an answer is wrong."""
    score = ctx.task.score
    pairs = zip(table["gold"].to_pylist(), table["answer"].to_pylist(), strict=True)
    return np.array([0.0 if answer is None else score(answer, gold) for gold, answer in pairs])


def _pseudo_labels(ctx: StageContext) -> dict[str, float] | None:
    """Accuracy of all and of the selected pseudo-labels, and the share selected; None without an oracle."""
    oracle = storage.join(ctx.inputs["ingest"], "oracle")
    if not storage.find(oracle):
        return None
    rows = storage.join(ctx.inputs["select"], "rows")
    arguments = {"oracle": oracle, "config": ctx.config}
    blocks = pa.concat_tables(summarize(rows, ["row_id", "answer", "selected"], _against_oracle, **arguments))
    total = {name: int(np.sum(blocks[name].to_numpy())) for name in blocks.column_names}
    return {
        "accuracy": round(total["right"] / max(total["known"], 1), 4),
        "selected_accuracy": round(total["selected_right"] / max(total["selected_known"], 1), 4),
        "coverage": round(total["selected"] / max(total["rows"], 1), 4),
    }


def _against_oracle(block: pa.Table, oracle: str, config: RunConfig) -> pa.Table:
    known = storage.read_table(oracle).sort_by("row_id")
    ids, truths = known["row_id"].to_numpy(), known["oracle"].to_pylist()
    asked = block["row_id"].to_numpy()
    places = np.minimum(np.searchsorted(ids, asked), len(ids) - 1)
    has_truth = ids[places] == asked
    score = tasks.make(config.task).score
    right = np.array(
        [
            h and score(a, truths[p]) >= 0.5
            for h, p, a in zip(has_truth, places, block["answer"].to_pylist(), strict=True)
        ],
        dtype=bool,
    )
    selected = block["selected"].to_numpy(zero_copy_only=False)
    counts = {
        "rows": len(block),
        "known": has_truth.sum(),
        "right": right.sum(),
        "selected": selected.sum(),
        "selected_known": (selected & has_truth).sum(),
        "selected_right": (selected & right).sum(),
    }
    return pa.table({name: [int(n)] for name, n in counts.items()})
