"""The true answers of unlabeled rows: looked up here only, to measure pseudo-labels and for the ceiling of a study."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol.config import CONFIDENCES, RunConfig
from semievol.data import storage
from semievol.method import selection
from semievol.method.metrics import auroc, risks
from semievol.runtime.rows import summarize
from semievol.stages.base import StageContext

COVERAGES = np.arange(1, 21) / 20  # of the risk-coverage curve
_LEVELS = 1 << 16

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


def true_answers(uri: str, ids: npt.NDArray[np.int64]) -> list[str | None]:
    """The true answer of each row id, or None where none is known.

    Args:
        uri: the oracle/ folder of the ingest stage; it holds at least one row.
    """
    known = storage.read_table(uri).sort_by("row_id")
    known_ids, answers = known["row_id"].to_numpy(), known["oracle"].to_pylist()
    places = np.minimum(np.searchsorted(known_ids, ids), len(known_ids) - 1)
    found = known_ids[places] == ids
    return [answers[place] if here else None for place, here in zip(places, found, strict=True)]


def measure_pseudo_labels(ctx: StageContext) -> dict[str, Any] | None:
    """Accuracy of all and of the selected pseudo-labels, the share selected, and how well each confidence tells right
    from wrong; None without an oracle."""
    oracle = storage.join(ctx.inputs["ingest"], "oracle")
    if not storage.find(oracle):
        return None
    rows = storage.join(ctx.inputs["select"], "rows")
    arguments = {"oracle": oracle, "config": ctx.config}
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
    """For each confidence its AUROC and the risk at each of `COVERAGES`; None where no row has it.

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


def _levels(block: pa.Table, oracle: str, config: RunConfig) -> dict[str, tuple[Integers, Integers]]:
    """For each confidence the levels that occur, each once, and right and wrong pseudo-labels at them, shape (2, levels)."""
    known, right = _right(block, oracle, config)
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


def _count(block: pa.Table, oracle: str, config: RunConfig) -> dict[str, int]:
    known, right = _right(block, oracle, config)
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


def _right(block: pa.Table, oracle: str, config: RunConfig) -> tuple[Bools, Bools]:
    """Of each pseudo-label whether the truth is known, and whether it is right."""
    truths = true_answers(oracle, block["row_id"].to_numpy())
    score = config.task.score
    pairs = list(zip(truths, block["answer"].to_pylist(), strict=True))
    known = np.array([truth is not None for truth, _ in pairs], dtype=bool)
    right = np.array([t is not None and a is not None and score(a, t) >= 0.5 for t, a in pairs], dtype=bool)
    return known, right
