"""Report a finished run: summary.json for programs, and a table and the run folder's README for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from semievol.data import storage
from semievol.runs.folder import Manifest
from semievol.runs.pipeline import Finished
from semievol.stages import registry
from semievol.stages.base import Key

_README = """\
# Run {{ name }}

SemiEvol (arXiv 2410.14745) on `{{ base_model }}`, task `{{ task }}`, seed {{ seed }}.
{% if ceiling %}
**A ceiling, not a result**: the final training saw the true answers of the unlabeled rows (select.ceiling).
{% endif %}
{% if evaluated -%}
## Held-out accuracy

| model | accuracy | {{ level }} interval | unparsable answers |
|---|---|---|---|
{% for name, m in evaluated.items() -%}
| {{ name }} | {{ "%.3f" | format(m.accuracy) }} | {{ "%.3f" | format(m.interval[0]) }} to \
{{ "%.3f" | format(m.interval[1]) }} | {{ "%.1f" | format(100 * m.unparsable) }} % |
{% endfor %}
{% endif -%}
{% if paired -%}
Paired (McNemar, exact):
{% for pair, t in paired.items() -%}
- {{ pair.replace("_vs_", " against ") }}: {{ t.gained }} rows gained, {{ t.lost }} lost, p = {{ t.p_value }}
{% endfor %}
{% endif -%}
{% if pseudo_labels -%}
Pseudo-labels against the oracle{{ "" if ceiling else " (measured only, never used)" }}: {{ "%.3f" | format(pseudo_labels.accuracy) }} right of all,
{{ "%.3f" | format(pseudo_labels.selected_accuracy) }} of the selected, coverage \
{{ "%.3f" | format(pseudo_labels.coverage) }}.

{% endif -%}
## Data

| split | kept | quarantined | duplicates folded | held back (also in the test set) |
|---|---|---|---|---|
{% for r in rounds if r.data -%}
{% for split, n in r.data.splits.items() -%}
| {{ split }}{{ r | in_round }} | {{ n.kept }} | {{ n.quarantined }} | {{ n.duplicate }} | {{ n.leak }} |
{% endfor -%}
{% endfor %}
{% for r in rounds if r.data -%}
{% for reason, n in r.data.reasons.items() -%}
- quarantined, {{ reason }}{{ r | in_round }}: {{ n }}
{% endfor -%}
{% for note, n in r.data.notes.items() -%}
- noted, {{ note }}{{ r | in_round }}: {{ n }}
{% endfor -%}
{% endfor %}
## Stages

| stage | seconds | rows in | out | quarantined | |
|---|---|---|---|---|---|
{% for s in stages -%}
| {{ s.stage }}{{ s | in_round }} | {{ s.seconds }} | {{ s.rows.came_in }} | {{ s.rows.out }} | {{ s.rows.quarantined }} | {{ s.headline }} |
{% endfor %}
## Files

{% for what, uri in places.items() -%}
- {{ what }}: `{{ uri }}`
{% endfor %}"""


def write(finished: Finished) -> dict[str, Any]:
    """Write summary.json and README.md into the run folder, and return the summary."""
    figures = summary(finished)
    finished.folder.write_json("summary.json", figures)
    storage.write_text(storage.join(finished.folder.uri, "README.md"), run_readme(figures))
    return figures


def summary(finished: Finished) -> dict[str, Any]:
    """Return the main figures as one JSON object. A run that stopped early has only some of them.

    A figure outside `rounds` is that of the last round that has it.
    """
    manifests, config = finished.manifests, finished.config
    rounds = [_of_round(number, manifests) for number in sorted({number for _, number in manifests})]
    last = {key: value for figures in rounds for key, value in figures.items() if value is not None}
    models = {stage.evaluates: last[stage.evaluates] for stage in registry() if stage.evaluates in last}
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
        "paired": last.get("paired"),
        "pseudo_labels": last.get("pseudo_labels"),
        "data": rounds[0]["data"],
        "selected": last.get("selected"),
        "rounds": rounds,
        "stages": steps,
        "seconds_of_this_call": round(finished.seconds, 1),
        "ceiling": config.select.ceiling,
        "places": {"run": finished.folder.uri} | _places(finished),
    }


def _of_round(number: int, manifests: dict[Key, Manifest]) -> dict[str, Any]:
    """Return the figures of one round; a missing figure is None."""
    figures: dict[str, Any] = dict.fromkeys(("evolved", "paired", "pseudo_labels", "selected", "data")) | {
        "round": number
    }
    for stage in registry():
        if manifest := manifests.get((stage.name, number)):
            figures |= stage.figures(manifest.metrics)
            figures |= {stage.evaluates: manifest.metrics} if stage.evaluates else {}
    return figures


def _places(finished: Finished) -> dict[str, str]:
    """Return the URIs of the main results by name. If several rounds write a result, the last one counts."""
    return {
        name: storage.join(finished.folder.stage(*key), path)
        for key, manifest in sorted(finished.manifests.items(), key=lambda item: item[0][1])
        for name, path in manifest.places.items()
    }


def run_readme(figures: dict[str, Any]) -> str:
    """Return the README of the run folder, in Markdown."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, autoescape=False)  # Markdown, not HTML
    environment.filters["in_round"] = lambda entry: f", round {entry['round']}" if entry["round"] else ""
    return environment.from_string(_README).render(figures, evaluated=_evaluated(figures)) + "\n"


def _evaluated(figures: dict[str, Any]) -> dict[str, Any]:
    """Return the evaluated models by name. After several rounds, each evolved model is named by its round."""
    evolved = {f"round-{each['round']}": each["evolved"] for each in figures["rounds"] if each["evolved"]}
    if len(evolved) < 2:
        return dict(figures["models"])
    return {name: m for name, m in figures["models"].items() if name != "evolved"} | evolved


def print_result(figures: dict[str, Any]) -> None:
    """Print the end of `semievol run`: the table of models, further figures, and the URIs of the results."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if figures["models"]:
        console.print(_table(figures))
    if figures["ceiling"]:
        console.print("a ceiling, not a result: the final training saw the true answers of the unlabeled rows")
    for rival in ("warm", "previous"):
        if test := (figures["paired"] or {}).get(f"evolved_vs_{rival}"):
            counts = f"{test['gained']} gained, {test['lost']} lost, p = {test['p_value']:.3g}"
            console.print(f"evolved against {rival}: {counts}")
    if labels := figures["pseudo_labels"]:
        console.print(
            f"pseudo-labels: {figures['selected']:,} selected ({labels['coverage']:.0%}), {labels['selected_accuracy']:.3f} "
            f"of them right; {labels['accuracy']:.3f} of all"
        )
    for name, uri in figures["places"].items():
        console.print(f"{name}: {uri}")


def print_selection(figures: dict[str, Any]) -> None:
    """Print the end of `semievol select`: selected rows by answer, the threshold, and the quality of the labels."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    by_answer = ", ".join(f"{answer}: {n:,}" for answer, n in figures["selected_by_answer"].items())
    console.print(f"round {figures['round']}: {figures['selected']:,} selected{f' ({by_answer})' if by_answer else ''}")
    for reason, n in figures["rejected"].items():
        console.print(f"  {n:,} rejected: {reason}")
    console.print(f"threshold: {figures['confidence']} <= {figures['entropy_threshold']:.4f}")
    if labels := figures["pseudo_labels"]:
        console.print(
            f"against the oracle: {labels['selected_accuracy']:.3f} of them right, coverage {labels['coverage']:.0%}"
        )


def _table(figures: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"{figures['name']}: held-out accuracy", title_justify="left")
    for column in ("model", "accuracy", f"{figures['level']} interval", "unparsable"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, m in _evaluated(figures).items():
        interval = f"{m['interval'][0]:.3f} to {m['interval'][1]:.3f}"
        table.add_row(name, f"{m['accuracy']:.3f}", interval, f"{100 * m['unparsable']:.1f} %")
    return table
