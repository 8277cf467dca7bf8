"""Compare the models on the held-out rows, row by row with paired tests, and the pseudo-labels with an oracle."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol.config import CONFIDENCES
from semievol.data import storage
from semievol.data.oracle import true_answers
from semievol.method import selection
from semievol.method.metrics import auroc, mcnemar, risks
from semievol.runtime.rows import summarize
from semievol.stages.base import Key, Place, Rows, Stage, StageContext, StageResult
from semievol.stages.evaluate import MODELS, scores_by_row
from semievol.tasks import Task

COVERAGES = np.arange(1, 21) / 20  # of the risk-coverage curve
_LEVELS = 1 << 16
_SIGNIFICANT = 0.05  # McNemar's p below which a gain is not noise

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


def run(ctx: StageContext) -> StageResult:
    models = [name for name in (*MODELS, "previous") if f"evaluate/{name}" in ctx.inputs]
    by_row = {m: scores_by_row(storage.join(ctx.inputs[f"evaluate/{m}"], "rows"), ctx.task) for m in models}
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


def measure_pseudo_labels(ctx: StageContext) -> dict[str, Any] | None:
    """Compare the pseudo-labels with the oracle. Return None without one.

    Returns:
        The accuracy of all and of the selected pseudo-labels, the share selected, and how well each confidence tells
        right from wrong.
    """
    oracle = storage.join(ctx.inputs["ingest"], "oracle")
    if not storage.find(oracle):
        return None
    rows = storage.join(ctx.inputs["select"], "rows")
    arguments = {"oracle": oracle, "task": ctx.task}
    total: Counter[str] = Counter()
    for part in summarize(rows, ["row_id", "answer", "selected"], _count, **arguments):
        total.update(part)
    return {
        "accuracy": round(total["right"] / max(total["known"], 1), 4),
        "selected_accuracy": round(total["selected_right"] / max(total["selected_known"], 1), 4),
        "coverage": round(total["selected"] / max(total["rows"], 1), 4),
        "measures": _measures(rows, arguments),
    }


def _measures(rows: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return for each confidence its AUROC and the risk at each of `COVERAGES`; None where no row has it.

    In constant memory: rows of nearly equal entropy (less than 1 % apart) share one of 65,536 levels, and count as ties.
    """
    counts = {name: np.zeros((2, _LEVELS), dtype=np.int64) for name in CONFIDENCES}
    for part in summarize(rows, ["row_id", "answer", *CONFIDENCES], _levels, **arguments):
        for name, (levels, rows_at) in part.items():
            counts[name][:, levels] += rows_at
    found: dict[str, Any] = dict.fromkeys(CONFIDENCES)
    for name, (right, wrong) in counts.items():
        if right.any() or wrong.any():
            area, curve = auroc(right, wrong), risks(right, wrong, COVERAGES)
            found[name] = {"auroc": None if area is None else round(area, 4), "risk": curve.round(4).tolist()}
    return found


def _levels(block: pa.Table, oracle: str, task: Task) -> dict[str, tuple[Integers, Integers]]:
    """Count right and wrong pseudo-labels, shape (2, levels), at the levels of each confidence that occur."""
    known, right = _right(block, oracle, task)
    ids = block["row_id"].to_numpy()
    found = {}
    for name in CONFIDENCES:
        measured = known & block[name].is_valid().to_numpy(zero_copy_only=False)
        entropies = block[name].to_numpy().astype(np.float32)
        sides = [measured & right, measured & ~right]
        keys = [selection.order_keys(entropies[side], ids[side]) for side in sides]
        counts = np.stack([selection.histogram(of_side, prefix=0, level=0) for of_side in keys])
        (levels,) = np.nonzero(counts.sum(axis=0))
        found[name] = (levels, counts[:, levels])
    return found


def _count(block: pa.Table, oracle: str, task: Task) -> dict[str, int]:
    known, right = _right(block, oracle, task)
    selected = block["selected"].to_numpy(zero_copy_only=False)
    counts = {
        "rows": len(block),
        "known": known.sum(),
        "right": right.sum(),
        "selected": selected.sum(),
        "selected_known": (selected & known).sum(),
        "selected_right": (selected & right).sum(),
    }
    return {name: int(n) for name, n in counts.items()}


def _right(block: pa.Table, oracle: str, task: Task) -> tuple[Bools, Bools]:
    """Return for each pseudo-label whether the truth is known, and whether it is right."""
    truths = true_answers(oracle, block["row_id"].to_numpy())
    pairs = list(zip(truths, block["answer"].to_pylist(), strict=True))
    known = np.array([truth is not None for truth, _ in pairs], dtype=bool)
    right = np.array([t is not None and a is not None and task.score(a, t) >= 0.5 for t, a in pairs], dtype=bool)
    return known, right


def gained(metrics: dict[str, Any]) -> bool:
    """Tell whether a round is better than the one before, beyond noise; round 0, with none before it, is."""
    test = metrics["paired"].get("evolved_vs_previous")
    if test is None:
        return True
    better: bool = metrics["accuracy"]["evolved"] > metrics["accuracy"]["previous"]
    return better and test["p_value"] < _SIGNIFICANT


def _inputs(place: Place) -> dict[str, Key]:
    previous: dict[str, Key] = {"evaluate/previous": ("evaluate/evolved", place.number - 1)} if place.number else {}
    return {
        "ingest": ("ingest", place.rows),  # whose oracle is that of the rows that were selected from
        "select": ("select", place.number),
        "evaluate/base": ("evaluate/base", 0),
        "evaluate/warm": ("evaluate/warm", 0),
        "evaluate/evolved": ("evaluate/evolved", place.number),
    } | previous


STAGE = Stage(
    name="evaluate/compare",
    version=1,
    run=run,
    inputs=_inputs,
    verify=lambda rows: None,  # it writes nothing but figures
    after=("evaluate/evolved",),
    settings=("task",),
    figures=lambda metrics: {name: metrics[name] for name in ("paired", "pseudo_labels")},
    gained=gained,
)
