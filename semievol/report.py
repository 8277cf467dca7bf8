"""The figures of a finished run: for machines (summary.json), for people (a table and the README of the run folder)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from semievol.config import RunConfig
from semievol.runfolder import Manifest

_README = """\
# Run {{ name }}

SemiEvol (arXiv 2410.14745) on `{{ base_model }}`, task `{{ task }}`, seed {{ seed }}.

{% if models -%}
## Held-out accuracy

| model | accuracy | 95 % interval | unparsable answers |
|---|---|---|---|
{% for name, m in models.items() -%}
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
Pseudo-labels against the oracle (measured only, never used): {{ "%.3f" | format(pseudo_labels.accuracy) }} right of all,
{{ "%.3f" | format(pseudo_labels.selected_accuracy) }} of the selected, coverage \
{{ "%.3f" | format(pseudo_labels.coverage) }}.

{% endif -%}
## What was found in the data

| split | kept | quarantined | duplicates folded | held back (also in the test set) |
|---|---|---|---|---|
{% for split, n in data.splits.items() -%}
| {{ split }} | {{ n.kept }} | {{ n.quarantined }} | {{ n.duplicate }} | {{ n.leak }} |
{% endfor %}
{% for reason, n in data.reasons.items() -%}
- quarantined, {{ reason }}: {{ n }}
{% endfor -%}
{% for note, n in data.notes.items() -%}
- noted, {{ note }}: {{ n }}
{% endfor %}
Quarantined rows keep their text and place: `round-0/ingest/quarantine/`.

## Stages

| stage | seconds | rows in | out | quarantined | |
|---|---|---|---|---|---|
{% for s in stages -%}
| {{ s.stage }} | {{ s.seconds }} | {{ s.rows.came_in }} | {{ s.rows.out }} | {{ s.rows.quarantined }} | {{ s.headline }} |
{% endfor %}
## Where things are

{% for what, uri in places.items() -%}
- {{ what }}: `{{ uri }}`
{% endfor %}"""


def summary(run_uri: str, config: RunConfig, manifests: dict[str, Manifest], seconds: float) -> dict[str, Any]:
    """Everything a reader asks first, in one JSON object; of a run that stopped early, what there is."""
    compared = manifests["evaluate/compare"].metrics if "evaluate/compare" in manifests else {}
    models = [name for name in ("base", "warm", "evolved") if f"evaluate/{name}" in manifests]
    at_endpoint = config.trainer.kind == "openai"
    places = {
        "run": ("ingest", ""),
        "evolved model": ("finetune", f"/round-0/finetune/{'model.json' if at_endpoint else 'model'}"),
        **({} if at_endpoint else {"evolved adapter": ("finetune", "/round-0/finetune/adapter")}),
        "pseudo-labels": ("select", "/round-0/select/rows"),
    }
    stages = [
        {"stage": m.stage, "seconds": m.seconds, "rows": asdict(m.rows), "headline": m.headline}
        for m in manifests.values()
    ]
    return {
        "name": config.name,
        "base_model": config.model.base,
        "task": config.task.kind,
        "seed": config.seed,
        "models": {name: manifests[f"evaluate/{name}"].metrics for name in models},
        "paired": compared.get("paired"),
        "pseudo_labels": compared.get("pseudo_labels"),
        "data": manifests["ingest"].metrics,
        "selected": manifests["select"].metrics["selected"] if "select" in manifests else None,
        "stages": stages,
        "seconds_of_this_call": round(seconds, 1),
        "places": {what: run_uri + path for what, (stage, path) in places.items() if stage in manifests},
    }


def run_readme(figures: dict[str, Any]) -> str:
    """The README of the run folder, in Markdown."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, autoescape=False)  # Markdown, not HTML
    return environment.from_string(_README).render(figures) + "\n"


def print_result(figures: dict[str, Any]) -> None:
    """What `semievol run` ends with: the table of models, the figures beside it, and where everything lies."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if figures["models"]:
        console.print(_table(figures))
    if figures["paired"]:
        test = figures["paired"]["evolved_vs_warm"]
        console.print(f"evolved against warm: {test['gained']} gained, {test['lost']} lost, p = {test['p_value']:.3g}")
    if labels := figures["pseudo_labels"]:
        console.print(
            f"pseudo-labels: {figures['selected']:,} selected ({labels['coverage']:.0%}), {labels['selected_accuracy']:.3f} "
            f"of them right; {labels['accuracy']:.3f} of all"
        )
    for what, uri in figures["places"].items():
        console.print(f"{what}: {uri}")


def _table(figures: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"{figures['name']}: held-out accuracy", title_justify="left")
    for column in ("model", "accuracy", "95 % interval", "unparsable"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, m in figures["models"].items():
        interval = f"{m['interval'][0]:.3f} to {m['interval'][1]:.3f}"
        table.add_row(name, f"{m['accuracy']:.3f}", interval, f"{100 * m['unparsable']:.1f} %")
    return table
