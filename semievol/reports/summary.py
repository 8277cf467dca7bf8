"""Report a finished run: summary.json for programs, and a table and the run folder's README for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from semievol.data import storage
from semievol.reports import tables, verdict
from semievol.runs.folder import Manifest
from semievol.runs.pipeline import Finished
from semievol.stages import registry
from semievol.stages.base import Key

_CEILING = "the final training saw the true answers of the unlabeled rows"

_FIGURES = ("evolved", "paired", "validation", "pseudo_labels", "selected", "voters", "data")
_LABELS_SHOWN, _CONFUSIONS_SHOWN = 20, 10


def write(finished: Finished) -> dict[str, Any]:
    """Write summary.json and README.md into the run folder, and return the summary."""
    figures = summary(finished)
    finished.folder.write_json("summary.json", figures)
    storage.write_text(storage.join(finished.folder.uri, "README.md"), run_readme(figures))
    return figures


def summary(finished: Finished) -> dict[str, Any]:
    """Return the main figures as one JSON object. A run that stopped early has only some of them.

    A figure or place outside `rounds` is that of the last round that has it.
    """
    manifests, config = finished.manifests, finished.config
    rounds = [_of_round(number, manifests) for number in sorted({number for _, number in manifests})]
    last = {key: value for figures in rounds for key, value in figures.items() if value is not None}
    gains, validated = verdict.gains(last.get("paired")), verdict.validated(manifests)
    models = {stage.evaluates: last[stage.evaluates] for stage in registry() if stage.evaluates in last}
    places = {
        name: storage.join(finished.folder.stage(*key), path)
        for key, manifest in sorted(manifests.items(), key=lambda item: item[0][1])
        for name, path in manifest.places.items()
    }
    steps = [
        {"stage": stage, "round": n, "seconds": m.seconds, "rows": asdict(m.rows), "headline": m.headline}
        for (stage, n), m in manifests.items()
    ]
    return {
        "name": config.name,
        "base_model": config.model.base,
        "task": config.task.kind,
        "seed": config.seed,
        "level": f"{100 * config.evaluate.confidence_level:g} %",  # of the intervals
        "models": models,
        "verdict": verdict.verdict(gains, validated, config),
        "gain": gains,
        "serve": verdict.served(validated, config),
        "paired": last.get("paired"),
        "pseudo_labels": last.get("pseudo_labels"),
        "data": rounds[0]["data"],
        "selected": last.get("selected"),
        "voters": last.get("voters"),
        "rounds": rounds,
        "stages": steps,
        "seconds_of_this_call": round(finished.seconds, 1),
        "ceiling": config.select.ceiling,
        "places": {"run": finished.folder.uri} | places,
    }


def _of_round(number: int, manifests: dict[Key, Manifest]) -> dict[str, Any]:
    """Return the figures of one round; a missing figure is None."""
    figures: dict[str, Any] = dict.fromkeys(_FIGURES)
    figures["round"] = number
    for stage in registry():
        if manifest := manifests.get((stage.name, number)):
            figures |= stage.figures(manifest.metrics)
            figures |= {stage.evaluates: manifest.metrics} if stage.evaluates else {}
    return figures


def run_readme(figures: dict[str, Any]) -> str:
    """Return the README of the run folder, in Markdown."""
    about = "SemiEvol (arXiv 2410.14745) on `{base_model}`, task `{task}`, seed {seed}.".format_map(figures)
    parts = [f"# Run {figures['name']}", about]
    if figures["ceiling"]:
        parts.append(f"**A ceiling, not a result**: {_CEILING} (select.ceiling).")
    if figures["models"]:
        parts += ["## Held-out accuracy", tables.to_markdown(_accuracies(figures))]
    if figures["paired"]:
        lines = [
            f"- {pair.replace('_vs_', ' against ')}: {verdict.points(t)}; {t['gained']} rows gained, {t['lost']} lost, p = {t['p_value']}"
            for pair, t in figures["paired"].items()
        ]
        title = f"Paired, on the test rows ({figures['level']} intervals of Bonett and Price; McNemar's exact test):"
        parts += [figures["verdict"], "\n".join([title, *lines])]
    if labels := figures["pseudo_labels"]:
        use = "" if figures["ceiling"] else " (measured only, never used)"
        parts.append(
            f"Pseudo-labels against the oracle{use}: {labels['accuracy']:.3f} right of all,\n"
            f"{labels['selected_accuracy']:.3f} of the selected, coverage {labels['coverage']:.3f}."
        )
    if figures["voters"]:
        parts += ["## What each voter was worth", tables.to_markdown(_voters(figures))]
    parts += _by_label(figures)
    parts += _data([each for each in figures["rounds"] if each["data"]])
    steps = []
    for step in figures["stages"]:
        rows = step["rows"]
        record = {"stage": step["stage"] + _in_round(step), "seconds": step["seconds"], "rows in": rows["came_in"]}
        record |= {"out": rows["out"], "quarantined": rows["quarantined"], "": step["headline"]}
        steps.append(record)
    places = "\n".join(f"- {what}: `{uri}`" for what, uri in figures["places"].items())
    return "\n\n".join([*parts, "## Stages", tables.to_markdown(steps), "## Files", places, ""])


def _data(rounds: list[dict[str, Any]]) -> list[str]:
    """Return the paragraphs about the rows that each round has read."""
    table, notes = [], []
    for each in rounds:
        for split, n in each["data"]["splits"].items():
            record = {"split": split + _in_round(each), "kept": n["kept"], "quarantined": n["quarantined"]}
            record |= {"duplicates folded": n["duplicate"], "held back (also test or validation rows)": n["leak"]}
            table.append(record)
        for what, key in (("quarantined", "reasons"), ("noted", "notes")):
            notes += [f"- {what}, {reason}{_in_round(each)}: {n}" for reason, n in each["data"][key].items()]
        notes += [_labels(labels)] if (labels := each["data"].get("labels")) else []
    return ["## Data", *([tables.to_markdown(table)] if table else []), *(["\n".join(notes)] if notes else [])]


def _labels(counts: dict[str, int]) -> str:
    """Return the line about the labels of the labeled rows."""
    shown = ", ".join(f"{label} {n:,}" for label, n in list(counts.items())[:_LABELS_SHOWN])
    return f"- {len(counts):,} labels in the labeled rows: {shown}{', ...' if len(counts) > _LABELS_SHOWN else ''}"


def _by_label(figures: dict[str, Any]) -> list[str]:
    """Return the paragraphs about the labels, for the last model of the method; nothing for other kinds of task."""
    name = next((name for name in ("evolved", "warm", "base") if name in figures["models"]), "")
    model = figures["models"].get(name, {})
    if not model.get("labels"):
        return []
    frequent = sorted(model["labels"].items(), key=lambda item: -item[1]["support"])
    shares = ("precision", "recall", "f1")
    rows = [
        {"label": label} | {key: f"{f[key]:.3f}" for key in shares} | {"test rows": f["support"]}
        for label, f in frequent[:_LABELS_SHOWN]
    ]
    more = (
        f" The {_LABELS_SHOWN} most frequent of {len(frequent):,}; summary.json has all."
        if frequent[_LABELS_SHOWN:]
        else ""
    )
    parts = [f"## Labels of {name}", f"Macro-F1 {model['macro_f1']:.3f}.{more}", tables.to_markdown(rows)]
    if confused := model["confusions"][:_CONFUSIONS_SHOWN]:
        table = [
            {"true": c["true"], "answered": c["answered"] or "(no answer)", "test rows": c["rows"]} for c in confused
        ]
        parts += ["Most frequent confusions:", tables.to_markdown(table)]
    return parts


def _in_round(entry: dict[str, Any]) -> str:
    return f", round {entry['round']}" if entry["round"] else ""


def _accuracies(figures: dict[str, Any]) -> tables.Records:
    """Return the table of models. After several rounds, each evolved model is named by its round."""
    models = dict(figures["models"])
    evolved = {f"round-{each['round']}": each["evolved"] for each in figures["rounds"] if each["evolved"]}
    if len(evolved) > 1:
        del models["evolved"]
        models |= evolved
    return [
        {
            "model": name,
            "accuracy": f"{m['accuracy']:.3f}",
            f"{figures['level']} interval": "{:.3f} to {:.3f}".format(*m["interval"]),
            "unparsable answers": f"{100 * m['unparsable']:.1f} %",
        }
        | ({"macro-F1": f"{m['macro_f1']:.3f}"} if "macro_f1" in m else {})
        for name, m in models.items()
    ]


def _voters(figures: dict[str, Any]) -> tables.Records:
    """Return the table of voters, as they answered labeled rows that they had not seen."""
    return [
        {
            "voter": name,
            "labeled rows": of["rows"],
            "accuracy": "" if of["accuracy"] is None else f"{of['accuracy']:.3f}",
            "nll": "" if of["nll"] is None else f"{of['nll']:.3f}",
            "weight": f"{of['weight']:.2f}",
        }
        for name, of in figures["voters"].items()
    ]


def print_result(figures: dict[str, Any]) -> None:
    """Print the end of `semievol run`."""
    console = tables.console()
    if figures["models"]:
        tables.show(f"{figures['name']}: held-out accuracy", _accuracies(figures), left=["model"])
    if figures["ceiling"]:
        console.print(f"a ceiling, not a result: {_CEILING}")
    for rival, test in figures["gain"].items():
        counts = f"{test['gained']} gained, {test['lost']} lost, p = {test['p_value']:.3g}"
        console.print(f"evolved against {rival}: {verdict.points(test)}; {counts}")
    if figures["verdict"]:
        console.print(figures["verdict"])
    if labels := figures["pseudo_labels"]:
        console.print(
            f"pseudo-labels: {figures['selected']:,} selected ({labels['coverage']:.0%}), {labels['selected_accuracy']:.3f} "
            f"of them right; {labels['accuracy']:.3f} of all"
        )
    if figures["voters"]:
        tables.show("what each voter was worth, on labeled rows that it had not seen", _voters(figures), left=["voter"])
    for name, uri in figures["places"].items():
        console.print(f"{name}: {uri}")


def print_selection(figures: dict[str, Any]) -> None:
    """Print the end of `semievol select`."""
    console = tables.console()
    most = list(figures["selected_by_answer"].items())[:_LABELS_SHOWN]
    by_answer = ", ".join(f"{answer}: {n:,}" for answer, n in most)
    chosen = f"round {figures['round']}: {figures['selected']:,} selected{f' ({by_answer})' if by_answer else ''}"
    console.print(chosen, markup=False)
    for reason, n in figures["rejected"].items():
        console.print(f"  {n:,} rejected: {reason}")
    console.print(f"threshold: {figures['confidence']} <= {figures['entropy_threshold']:.4f}")
    if labels := figures["pseudo_labels"]:
        console.print(
            f"against the oracle: {labels['selected_accuracy']:.3f} of them right, coverage {labels['coverage']:.0%}"
        )
