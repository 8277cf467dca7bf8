"""Compare the models on the held-out rows, row by row with paired tests, and the pseudo-labels with an oracle."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
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
from semievol.stages.evaluate import MODELS, scores, scores_by_row
from semievol.tasks import Task

COVERAGES = np.arange(1, 21) / 20  # of the risk-coverage curve
_LEVELS = 1 << 16
_SIGNIFICANT = 0.05  # McNemar's p below which a gain is not noise

Integers = npt.NDArray[np.int64]


def run(ctx: StageContext) -> StageResult:
    rival = "previous" if "evaluate/previous" in ctx.inputs else "warm"
    pairs = dict.fromkeys([*itertools.combinations(MODELS, 2), (rival, "evolved")])
    metrics = _compared(ctx, "evaluate", dict.fromkeys([*MODELS, rival]), pairs)
    metrics["pseudo_labels"] = measure_pseudo_labels(ctx)
    if "validate/previous" in ctx.inputs:
        metrics["validation"] = _compared(ctx, "validate", ["previous", "evolved"], [("previous", "evolved")])
    accuracy, tests = metrics["accuracy"], metrics["paired"]
    rows = storage.count_rows(ctx.input("evaluate/evolved"))
    gain, p_value = accuracy["evolved"] - accuracy[rival], tests[f"evolved_vs_{rival}"]["p_value"]
    return StageResult(Rows(rows, rows), metrics, f"evolved {gain:+.3f} over {rival}, p = {p_value:.3g}")


def _compared(ctx: StageContext, what: str, models: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the accuracies of models on the rows that all of them have answered, and the paired tests of some pairs."""
    by_row = {model: scores_by_row(ctx.input(f"{what}/{model}"), ctx.task) for model in models}
    ids = sorted(by_row["evolved"])
    assert all(sorted(of) == ids for of in by_row.values()), "the models answered different rows, so none can be paired"
    given = {model: np.array([of[i] for i in ids]) for model, of in by_row.items()}
    correct = {model: of >= 0.5 for model, of in given.items()}  # McNemar's test wants right or wrong
    tests = {}
    for a, b in pairs:
        only_a, only_b = (int((correct[a] & ~correct[b]).sum()), int((correct[b] & ~correct[a]).sum()))
        tests[f"{b}_vs_{a}"] = {"gained": only_b, "lost": only_a, "p_value": float(f"{mcnemar(only_a, only_b):.3g}")}
    return {"accuracy": {model: round(float(of.mean()), 4) for model, of in given.items()}, "paired": tests}


def measure_pseudo_labels(ctx: StageContext) -> dict[str, Any] | None:
    """Compare the pseudo-labels with the oracle. Return None without one.

    In constant memory: rows of nearly equal entropy (less than 1 % apart) share one of 65,536 levels, and count as ties.

    Returns:
        The accuracy of all and of the selected pseudo-labels, the share selected, and for each confidence its AUROC and
        the risk at each of `COVERAGES`; None where no row has it.
    """
    oracle = ctx.input("ingest", "oracle")
    if not storage.find(oracle):
        return None
    total: Counter[str] = Counter()
    levels = {name: np.zeros((2, _LEVELS), dtype=np.int64) for name in CONFIDENCES}
    columns = ["row_id", "answer", "selected", *CONFIDENCES]
    for counts, occurring in summarize(ctx.input("select"), columns, _count, oracle=oracle, task=ctx.task):
        total.update(counts)
        for name, (at, rows) in occurring.items():
            levels[name][:, at] += rows
    measures: dict[str, Any] = dict.fromkeys(CONFIDENCES)
    for name, (right, wrong) in levels.items():
        if right.any() or wrong.any():
            area, curve = auroc(right, wrong), risks(right, wrong, COVERAGES)
            measures[name] = {"auroc": None if area is None else round(area, 4), "risk": curve.round(4).tolist()}
    return {
        "accuracy": round(total["right"] / max(total["known"], 1), 4),
        "selected_accuracy": round(total["selected_right"] / max(total["selected_known"], 1), 4),
        "coverage": round(total["selected"] / max(total["rows"], 1), 4),
        "measures": measures,
    }


def _count(block: pa.Table, oracle: str, task: Task) -> tuple[dict[str, int], dict[str, tuple[Integers, Integers]]]:
    """Count pseudo-labels, and the right and the wrong ones, shape (2, levels), at the levels that each confidence has."""
    ids, answers = block["row_id"].to_numpy(), block["answer"].to_pylist()
    truths = true_answers(oracle, ids)
    known, right = np.array([truth is not None for truth in truths], dtype=bool), scores(task, answers, truths) >= 0.5
    selected = block["selected"].to_numpy(zero_copy_only=False)
    counts = {
        "rows": len(block),
        "known": known.sum(),
        "right": right.sum(),
        "selected": selected.sum(),
        "selected_known": (selected & known).sum(),
        "selected_right": (selected & right).sum(),
    }
    levels = {}
    for name in CONFIDENCES:
        measured = known & block[name].is_valid().to_numpy(zero_copy_only=False)
        entropies = block[name].to_numpy()
        keys = [selection.order_keys(entropies[side], ids[side]) for side in (measured & right, measured & ~right)]
        at_level = np.stack([selection.histogram(of_side, prefix=0, level=0) for of_side in keys])
        (occurring,) = np.nonzero(at_level.sum(axis=0))
        levels[name] = (occurring, at_level[:, occurring])
    return {name: int(n) for name, n in counts.items()}, levels


def gained(metrics: dict[str, Any]) -> bool:
    """Tell whether a round is better than the one before, beyond noise; round 0, with none before it, is.

    Validation rows decide, or test rows where there are none.
    """
    metrics = metrics.get("validation", metrics)
    test = metrics["paired"].get("evolved_vs_previous")
    if test is None:
        return True
    better: bool = metrics["accuracy"]["evolved"] > metrics["accuracy"]["previous"]
    return better and test["p_value"] < _SIGNIFICANT


def _inputs(place: Place) -> dict[str, Key]:
    previous: dict[str, Key] = {"evaluate/previous": ("evaluate/evolved", place.number - 1)} if place.number else {}
    if place.number and place.config.data.validation is not None:
        previous["validate/previous"] = ("validate/evolved", place.number - 1)
        previous["validate/evolved"] = ("validate/evolved", place.number)
    return {
        "ingest": ("ingest", place.rows),  # whose oracle is that of the rows that were selected from
        "select": ("select", place.number),
        "evaluate/base": ("evaluate/base", 0),
        "evaluate/warm": ("evaluate/warm", 0),
        "evaluate/evolved": ("evaluate/evolved", place.number),
    } | previous


STAGE = Stage(
    name="evaluate/compare",
    run=run,
    inputs=_inputs,
    verify=lambda rows: None,  # it writes nothing but figures
    after=("validate/evolved",),
    settings=("task",),
    figures=lambda metrics: {name: metrics[name] for name in ("paired", "pseudo_labels")},
    gained=gained,
)
