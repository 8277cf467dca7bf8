"""Define the commands that look and start nothing: plan, preview, verify, schema."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from semievol.cli.console import AsJson, Config, Overrides, Run, fail, pipeline, print_json

app = typer.Typer()


@app.command()
def plan(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what `run` would do: rounds, stages, what is done, rows, resources. Starts nothing.

    Checks the config, the input files and the model path on the way.

    **Example:** `semievol plan configs/fpb.yaml resources.label.actors=4`
    """
    from semievol.config import load
    from semievol.reports import tables
    from semievol.runtime import cluster

    found = pipeline(load(config, overrides))
    for remark in found.remarks:
        typer.echo(remark, err=True)
    planned = found.plan()
    several = len(found.rounds) > 1
    records = []
    for step in planned:
        record: dict[str, Any] = {"round": step.round} if several else {}
        rows = {
            f"rows {way}": "" if n is None else f"{n:,}" for way, n in (("in", step.rows_in), ("out", step.rows_out))
        }
        records.append(record | {"stage": step.stage, "state": step.state} | rows | {"asks for": step.asks})
    tables.show(f"{found.config.name} in {found.folder.uri}", records, left=["stage", "state", "asks for"])
    has = cluster.describe(found.config, found.pools())
    for line in (*found.notes(), f"cluster: {has}"):
        tables.console().print(line)
    print_json(as_json, {"run": found.folder.uri, "cluster": has, "stages": [asdict(stage) for stage in planned]})


@app.command()
def preview(
    config: Config,
    overrides: Overrides = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Rows whose prompts are shown.")] = 3,
    sample: Annotated[int, typer.Option(min=1, help="Rows of each split that are measured.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Show the exact prompts of each stage, their tokens against the window, and what labeling costs. Starts nothing.

    Needs the files and the model's tokenizer only. Prices are `engine.price_per_million`.

    **Example:** `semievol preview configs/fpb.yaml -n 1`
    """
    from semievol.config import load
    from semievol.data import paths
    from semievol.preview import show
    from semievol.preview.look import look

    found = look(paths.absolute(load(config, overrides)), n, sample)
    show.print_preview(found)
    print_json(as_json, show.as_json(found) if as_json else {})


@app.command()
def verify(run: Run, as_json: AsJson = False) -> None:
    """Check a run folder: every file and its checksum, every count, every row id and every reference to one.

    Needs only the folder, and no Ray. The exit code is 1 if something is wrong.

    **Example:** `semievol verify s3://bucket/runs/fpb`
    """
    from semievol.runs import promotion, verify

    found = verify.verify(*promotion.open_run(run), typer.echo)
    report = verify.problems_as_text(found)
    if not found.problems:
        typer.echo(report)
    print_json(as_json, asdict(found))
    if found.problems:
        fail(report, code=1)


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference of all keys in Markdown.")] = False,
) -> None:
    """Print the JSON Schema of a run's config, by which editors complete and check it.

    **Example:** `semievol schema > config.schema.json`
    """
    from semievol.config import reference

    found = reference.json_schema()
    typer.echo(reference.markdown(found) if markdown else json.dumps(found, indent=1), nl=not markdown)
