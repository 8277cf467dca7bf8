"""Draw the plots of a study as PNG: accuracy by method and seed, and risk over coverage by confidence measure."""

from __future__ import annotations

import io
from typing import Any

from semievol.config import CONFIDENCES


def accuracies(study: dict[str, Any]) -> bytes:
    """Return a plot with a line per method: the mean as a stroke, the seeds as dots."""
    names = list(study["methods"])
    figure, axes = _axes(height=0.9 + 0.4 * len(names))
    for place, name in enumerate(names):
        method = study["methods"][name]
        axes.plot(method["mean"], place, "|", color="#08306b", markersize=16, markeredgewidth=2)
        axes.plot(method["by_seed"], [place] * len(method["by_seed"]), "o", color="#4292c6", markersize=5, alpha=0.7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("accuracy on the test rows (stroke: mean; dots: seeds)")
    return _png(figure)


def risk_coverage(study: dict[str, Any]) -> bytes | None:
    """Return a plot of the share of wrong pseudo-labels among the most confident ones, by confidence measure.

    It shows the method that the study names as semievol, else the first with pseudo-labels. None if nothing was measured.
    """
    methods = study["methods"]
    measured = [name for name, m in methods.items() if m["pseudo_labels"] and m["pseudo_labels"]["measures"]]
    if not measured:
        return None
    name = study["semievol"] if study["semievol"] in measured else measured[0]
    figure, axes = _axes(height=4)
    for measure in CONFIDENCES:
        curve = methods[name]["pseudo_labels"]["measures"].get(measure)
        if curve:
            points = [(i + 1) / len(curve["risk"]) for i in range(len(curve["risk"]))]
            auroc = "" if curve["auroc"] is None else f" (AUROC {curve['auroc']:.3f})"
            axes.plot(points, curve["risk"], marker=".", label=measure + auroc)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    axes.set_xlabel("coverage: share of the pseudo-labels kept, most confident first")
    axes.set_ylabel("risk: share of them that is wrong")
    axes.set_title(f"{name}, mean over seeds {', '.join(map(str, study['seeds']))}")
    axes.legend()
    return _png(figure)


def _axes(height: float) -> tuple[Any, Any]:
    """Return a figure and its axes, without a window or global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), dpi=150, layout="constrained")
    return figure, figure.add_subplot()


def _png(figure: Any) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
