"""Compare the models on the held-out rows, row by row with paired tests, and the pseudo-labels with an oracle."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol.config import CONFIDENCES
from semievol.data import storage
from semievol.data.oracle import true_answers
from semievol.method import selection
from semievol.method.metrics import auroc, mcnemar, paired_interval, risks
from semievol.runtime.rows import summarize
from semievol.stages.base import Key, Place, Rows, Stage, StageContext, StageResult
from semievol.stages.evaluate import scores, scores_by_row
from semievol.tasks import Task

COVERAGES = np.arange(1, 21) / 20  # of the risk-coverage curve
_LEVELS = 1 << 16
_MODELS = ("base", "warm", "control", "previous", "evolved")  # previous: the evolved model of the round before

Integers = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]  # of a model, from 0 to 1 for each row


def run(ctx: StageContext) -> StageResult:
    pairs = itertools.combinations(_models(ctx, "evaluate"), 2)
    metrics = _compared(ctx, "evaluate", [(a, b) for a, b in pairs if b == "evolved" or "previous" not in (a, b)])
    metrics["pseudo_labels"] = measure_pseudo_labels(ctx)
    if "validate/evolved" in ctx.inputs:
        rivals = [model for model in _models(ctx, "validate") if model != "evolved"]
        metrics["validation"] = _compared(ctx, "validate", [(rival, "evolved") for rival in rivals])
    rows = storage.count_rows(ctx.input("evaluate/evolved"))
    over = {rival: metrics["paired"].get(f"evolved_vs_{rival}") for rival in ("previous", "warm", "control")}
    said = [f"{test['gain']:+.3f} over {rival}, p = {test['p_value']:.3g}" for rival, test in over.items() if test]
    return StageResult(Rows(rows, rows), metrics, f"evolved {'; '.join(said)}")


def _models(ctx: StageContext, what: str) -> list[str]:
    """Return the models whose answers to the held-out rows are there; the evolved one is last."""
    return [model for model in _MODELS if f"{what}/{model}" in ctx.inputs]


def _compared(ctx: StageContext, what: str, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the accuracies of models on the rows that all of them have answered, and the paired tests of these pairs."""
    models = dict.fromkeys(itertools.chain(*pairs))
    by_row = {model: scores_by_row(ctx.input(f"{what}/{model}"), ctx.task) for model in models}
    ids = sorted(by_row["evolved"])
    assert all(sorted(of) == ids for of in by_row.values()), "the models answered different rows, so none can be paired"
    given = {model: np.array([of[i] for i in ids]) for model, of in by_row.items()}
    level = ctx.config.evaluate.confidence_level
    tests = {f"{b}_vs_{a}": paired(given[a], given[b], level) for a, b in pairs}
    return {"accuracy": {model: round(float(of.mean()), 4) for model, of in given.items()}, "paired": tests}


def paired(a: Scores, b: Scores, level: float) -> dict[str, Any]:
    """Compare the scores of two models on the same rows: what the second has gained over the first, with its interval."""
    gained, lost = (int(rows.sum()) for rows in ((b >= 0.5) & (a < 0.5), (a >= 0.5) & (b < 0.5)))  # right or wrong
    low, high = paired_interval(b - a, level)
    return {
        "gained": gained,
        "lost": lost,
        "gain": round(float((b - a).mean()), 4),
        "interval": [round(low, 4), round(high, 4)],
        "p_value": float(f"{mcnemar(lost, gained):.3g}"),
    }


def better(test: dict[str, Any]) -> bool:
    """Tell whether a gain is more than noise: its interval is above 0."""
    return bool(test["interval"][0] > 0)


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
    """Tell whether a round is better than the one before on the validation rows, beyond noise.

    Where nothing says that it is not, it is: in round 0, and without validation rows. Test rows are only reported on.
    """
    test = metrics.get("validation", {"paired": {}})["paired"].get("evolved_vs_previous")
    return test is None or better(test)


def _inputs(place: Place) -> dict[str, Key]:
    number = place.number
    rounds = {"base": 0, "warm": 0, "evolved": number} | ({"control": number} if place.config.evaluate.control else {})
    read: dict[str, Key] = {f"evaluate/{model}": (f"evaluate/{model}", of) for model, of in rounds.items()}
    if place.config.data.validation is not None:
        read |= {f"validate/{model}": (f"validate/{model}", rounds[model]) for model in ("warm", "evolved")}
    earlier = [name for name in read if name.endswith("/evolved")] if number else []
    read |= {name.replace("evolved", "previous"): (name, number - 1) for name in earlier}
    # The oracle is that of the rows that were selected from.
    return {"ingest": ("ingest", place.rows), "select": ("select", number)} | read


STAGE = Stage(
    name="evaluate/compare",
    run=run,
    inputs=_inputs,
    verify=lambda rows: None,  # it writes nothing but figures
    after=("validate/evolved", "evaluate/control"),
    version=2,
    settings=("task", "evaluate.confidence_level"),
    figures=lambda metrics: {name: metrics.get(name) for name in ("paired", "pseudo_labels", "validation")},
    gained=gained,
)
