"""Report a study: means over seeds, paired tests and the closed share of the gap, as table, CSV, Markdown and plots."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from semievol.config import CONFIDENCES
from semievol.data import storage
from semievol.method.metrics import mcnemar
from semievol.reports import plots, tables

_TEST = ("gained", "lost", "p_value")
_PSEUDO = ("accuracy", "selected_accuracy", "coverage")


@dataclass(frozen=True)
class Result:
    """The result of a method at one seed. `trained_rows` and `steps` are those of the reported model's last training."""

    method: str
    seed: int
    accuracy: float
    interval: tuple[float, ...]
    scores: dict[int, float]  # of the answer to each test row, 0 to 1, by row id
    trained_rows: int | None = None
    steps: int | None = None
    selected: int | None = None  # number of pseudo-labels in the training rows
    pseudo_labels: dict[str, Any] | None = (
        None  # their quality against the oracle, as in the manifest of evaluate/compare
    )


@dataclass(frozen=True)
class Headline:
    """The names of the methods that the figures compare, as in `study.StudyConfig`."""

    compare_to: str | None = None
    sft: str | None = None
    semievol: str | None = None
    ceiling: str | None = None


def paired(result: Result, against: Result) -> tuple[int, int]:
    """Return the numbers of test rows that only `result` has right, and that only `against` has right."""
    assert result.scores.keys() == against.scores.keys(), "the methods answered different rows"
    right = [(score >= 0.5, against.scores[row] >= 0.5) for row, score in result.scores.items()]
    return sum(a and not b for a, b in right), sum(b and not a for a, b in right)


def gap_closed(accuracy: float, sft: float, ceiling: float) -> float | None:
    """Return (accuracy - sft) / (ceiling - sft); None if the ceiling is not higher than SFT."""
    return round((accuracy - sft) / (ceiling - sft), 4) if ceiling > sft else None


def figures(name: str, results: list[Result], headline: Headline) -> dict[str, Any]:
    """Return all figures of a study as one JSON object."""
    by_method: dict[str, dict[int, Result]] = {}
    for result in results:
        by_method.setdefault(result.method, {})[result.seed] = result
    methods = {method: _method(runs, by_method.get(headline.compare_to or "")) for method, runs in by_method.items()}
    study: dict[str, Any] = {"study": name, "seeds": sorted({r.seed for r in results})}
    study |= {"compare_to": headline.compare_to, "semievol": headline.semievol, "gap_closed": None, "methods": methods}
    if headline.sft and headline.ceiling:
        sft, ceiling = (methods[role] for role in (headline.sft, headline.ceiling))
        for figure in methods.values():
            pairs = zip(figure["by_seed"], sft["by_seed"], ceiling["by_seed"], strict=True)
            figure["gap_closed"] = gap_closed(figure["mean"], sft["mean"], ceiling["mean"])
            figure["gap_closed_by_seed"] = [gap_closed(*each) for each in pairs]
        if headline.semievol:
            study["gap_closed"] = methods[headline.semievol]["gap_closed"]
    return study


def _method(runs: dict[int, Result], against: dict[int, Result] | None) -> dict[str, Any]:
    """Return the figures of a method. Lists are in the order of the seeds."""
    ordered = [runs[seed] for seed in sorted(runs)]
    accuracies = [run.accuracy for run in ordered]
    figure: dict[str, Any] = {
        "mean": round(mean(accuracies), 4),
        "sd": round(stdev(accuracies), 4) if len(accuracies) > 1 else None,
        "by_seed": accuracies,
        "gap_closed": None,
        "trained_rows": _mean([run.trained_rows for run in ordered]),
        "steps": _mean([run.steps for run in ordered]),
        "selected": _mean([run.selected for run in ordered]),
        "pseudo_labels": _mean_pseudo_labels([run.pseudo_labels for run in ordered if run.pseudo_labels]),
        "paired": None,
    }
    if against and against is not runs:
        counts = [paired(runs[seed], against[seed]) for seed in sorted(runs)]
        pooled = _test(*map(sum, zip(*counts, strict=True)))
        figure["paired"] = pooled | {"by_seed": [_test(*count) for count in counts]}
    return figure


def _test(gained: int, lost: int) -> dict[str, Any]:
    return dict(zip(_TEST, (gained, lost, float(f"{mcnemar(gained, lost):.3g}")), strict=True))


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return round(mean(known), 4) if known else None


def _mean_pseudo_labels(each: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not each:
        return None
    measures = {}
    for name in CONFIDENCES:
        measured = [labels["measures"][name] for labels in each if labels.get("measures", {}).get(name)]
        if measured:
            risks = [_mean(list(column)) for column in zip(*(m["risk"] for m in measured), strict=True)]
            measures[name] = {"auroc": _mean([m["auroc"] for m in measured]), "risk": risks}
    return {key: _mean([labels[key] for labels in each]) for key in _PSEUDO} | {"measures": measures}


def write(uri: str, study: dict[str, Any], results: list[Result]) -> None:
    """Write the reports into the study's folder."""
    storage.write_text(storage.join(uri, "results.json"), json.dumps(study, indent=1))
    storage.write_text(storage.join(uri, "results.csv"), to_csv(study, results))
    storage.write_text(storage.join(uri, "results.md"), to_markdown(study))
    storage.write_bytes(storage.join(uri, "plot.png"), plots.accuracies(study))
    if curves := plots.risk_coverage(study):
        storage.write_bytes(storage.join(uri, "risk_coverage.png"), curves)


def to_csv(study: dict[str, Any], results: list[Result]) -> str:
    """Return a CSV with one line per method and seed."""
    records = []
    for result in results:
        test = study["methods"][result.method]["paired"]
        labels = result.pseudo_labels or {}
        record = {"method": result.method, "seed": result.seed, "accuracy": result.accuracy}
        record |= dict(zip(("low", "high"), result.interval, strict=True))
        record |= test["by_seed"][study["seeds"].index(result.seed)] if test else dict.fromkeys(_TEST)
        record |= {"selected": result.selected} | {f"pseudo_{key}": labels.get(key) for key in _PSEUDO}
        record |= {f"auroc_{m}": (labels.get("measures", {}).get(m) or {}).get("auroc") for m in CONFIDENCES}
        records.append(record | {"trained_rows": result.trained_rows, "steps": result.steps})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _methods(study: dict[str, Any]) -> tables.Records:
    """Return the table of methods."""
    records = []
    for name, figure in study["methods"].items():
        test = figure["paired"]
        record = {
            "method": name,
            "accuracy": _shown(figure["mean"]),
            "sd": _shown(figure["sd"]),
            "each seed": " ".join(map(_shown, figure["by_seed"])),
            f"vs {study['compare_to']}": f"+{test['gained']} -{test['lost']}" if test else "",
            "p": f"{test['p_value']:.2g}" if test else "",
            "gap closed": _shown(figure["gap_closed"], ".0%"),
            "rows": _shown(figure["trained_rows"], ",.0f"),
            "steps": _shown(figure["steps"], ",.0f"),
        }
        records.append(record)
    return records


def _pseudo_labels(study: dict[str, Any]) -> tables.Records:
    """Return the table of pseudo-labels against the oracle, of the methods that have pseudo-labels."""
    records = []
    for name, figure in study["methods"].items():
        if labels := figure["pseudo_labels"]:
            record = {
                "method": name,
                "right": _shown(labels["accuracy"]),
                "selected": f"{_shown(figure['selected'], ',.0f')} ({_shown(labels['coverage'], '.0%')})",
                "selected right": _shown(labels["selected_accuracy"]),
            }
            aurocs = {f"AUROC {m}": _shown(labels["measures"].get(m, {}).get("auroc")) for m in CONFIDENCES}
            records.append(record | aurocs)
    return records


def _shown(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else format(value, form)


_PAIRED = (
    "Paired: test rows gained and lost, pooled over the seeds, with the exact p-value of McNemar's test. All seeds have the "
    "same test rows, so pooled p-values are smaller than for as many independent rows; results.csv has those of each seed."
)


def to_markdown(study: dict[str, Any]) -> str:
    """Return the content of results.md."""
    seeds = ", ".join(map(str, study["seeds"]))
    parts = [f"# Study {study['study']}", f"Seeds {seeds}; means and sample standard deviations over them."]
    parts.append(tables.to_markdown(_methods(study)))
    if study["compare_to"]:
        parts.append(_PAIRED)
    if labels := _pseudo_labels(study):
        parts += ["Pseudo-labels against the oracle, which the methods do not see:", tables.to_markdown(labels)]
    return "\n\n".join(parts) + "\n"


def print_figures(study: dict[str, Any]) -> None:
    """Print the tables at the end of `semievol study`."""
    methods = _methods(study)
    for record in methods:
        del record["each seed"]  # it is in the files
    tables.show(study["study"], methods, left=["method"])
    if labels := _pseudo_labels(study):
        tables.show("pseudo-labels", labels, left=["method"])
    if study["gap_closed"] is not None:
        closed = f"{study['semievol']} closes {study['gap_closed']:.0%} of the gap between SFT and the ceiling"
        tables.console().print(closed)
