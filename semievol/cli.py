"""The command line: the only place that turns exceptions into messages and exit codes.

Exit codes: 0 done, 1 the run failed, 2 something you can mend (bad config, data or flag), 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from semievol.errors import UserError

app = typer.Typer(
    help="Semi-supervised fine-tuning of language models on Ray: a few hundred labeled rows, many unlabeled ones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)

Config = Annotated[str, typer.Argument(metavar="CONFIG.yaml", help="The run's config; see configs/ for examples.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over the file, e.g. select.theta=0.3 seed=1."),
]
Until = Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage; see `plan`.")]
Env = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A variable that every node must have, e.g. HF_TOKEN. Only the name is passed."),
]
Address = Annotated[
    str, typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The job server: the head's dashboard.")
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="As `submit` and `jobs` print it.")]
_LOCAL_JOB_SERVER = "http://127.0.0.1:8265"

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


@app.command()
def run(
    config: Config,
    overrides: Overrides = None,
    until: Until = None,
    env: Env = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole loop: ingest, warm up, retrieve, label, select, fine-tune, evaluate.

    Finished stages are skipped and an interrupted one is resumed, so the same command always goes on where the last one
    stopped. A Ray cluster is used where RAY_ADDRESS names one; otherwise Ray is started on this machine.

    **Example:** `semievol run configs/fpb.yaml select.theta=0.3`
    """
    _run(config, overrides, as_json=as_json, until=until, env=env)


@app.command()
def plan(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what `run` would do: stages, what is done, rows, resources. Starts nothing.

    Checks the config, the input files and the model path on the way.

    **Example:** `semievol plan configs/fpb.yaml resources.label.actors=4`
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from semievol import cluster

    pipeline = _pipeline(config, overrides)
    planned = pipeline.plan()
    table = Table(title=f"{pipeline.config.name} in {pipeline.folder.uri}", title_justify="left")
    for column in ("stage", "state", "rows in", "rows out", "asks for"):
        table.add_column(column, justify="right" if "rows" in column else "left")
    for stage in planned:
        rows = ["" if n is None else f"{n:,}" for n in (stage.rows_in, stage.rows_out)]
        table.add_row(stage.stage, stage.state, *rows, stage.asks)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    has = cluster.describe(pipeline.config)
    console.print(f"cluster: {has}")
    if as_json:
        _print_json({"run": pipeline.folder.uri, "cluster": has, "stages": [asdict(stage) for stage in planned]})


@app.command()
def demo(
    folder: Annotated[str, typer.Option(help="Where data, model and run go.")] = "runs/demo",
    seed: Annotated[int, typer.Option(help="Changes the data, the model and the sampling.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run everything, offline and from nothing: make a data set, build a small base model, evolve it.

    Takes under ten minutes on two cores. The data are synthetic support-desk tickets, the stack is the real one.
    """
    from semievol.demo.run import prepare

    config, overrides = prepare(folder, seed=seed, echo=typer.echo)
    _run(config, overrides, as_json=as_json)


@app.command()
def submit(
    config: Config,
    overrides: Overrides = None,
    address: Address = _LOCAL_JOB_SERVER,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job to its end.")] = True,
    until: Until = None,
    env: Env = None,
    allow_unauthenticated: Annotated[
        bool, typer.Option("--allow-unauthenticated", help="Also to a remote cluster where anybody can run code.")
    ] = False,
) -> None:
    """Run the loop as a job on a Ray cluster, and follow it.

    This package and the config travel; data, models and the run folder are URIs or folders that all nodes share. The same
    command again finds the job that is at work, or resumes the run where the last job stopped. The cluster's token is
    taken from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

    **Example:** `semievol submit my.yaml --address http://head:8265 --env HF_TOKEN`
    """
    from semievol.config import load
    from semievol.pipeline import stages_until
    from semievol.submission import JobServer

    run_config = load(config, overrides)
    stages_until(until)  # better said here than by the cluster
    server = JobServer(address)
    server.require_authentication(unless=allow_unauthenticated)
    job, new = server.submit(run_config, until=until, variables=env or ())
    typer.echo(f"job {job.id} {'submitted to' if new else 'is at work already on'} {server.url}; run folder {job.run}")
    if wait:
        _follow(server, job.id)
    else:
        typer.echo(f"follow it: semievol logs {job.id} --address {server.url}")


@app.command()
def jobs(address: Address = _LOCAL_JOB_SERVER) -> None:
    """Show the runs that were submitted to a cluster.

    **Example:** `semievol jobs --address http://head:8265`
    """
    import time

    from rich.console import Console
    from rich.table import Column, Table

    from semievol.submission import JobServer

    table = Table("job", "state", "since", "minutes", Column("run folder", overflow="fold"))
    for job in JobServer(address).jobs():
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started))
        table.add_row(job.id, job.status.lower(), since, f"{job.seconds / 60:,.1f}", job.run)
    Console(highlight=False, soft_wrap=True).print(table)


@app.command()
def logs(job_id: JobId, address: Address = _LOCAL_JOB_SERVER) -> None:
    """Print what a job has printed, and follow it to its end. Leaving does not stop it.

    **Example:** `semievol logs fpb-1c9d20ab`
    """
    from semievol.submission import JobServer

    _follow(JobServer(address), job_id)


@app.command()
def stop(job_id: JobId, address: Address = _LOCAL_JOB_SERVER) -> None:
    """End a job. What it has committed stays; submitting the same config again resumes it.

    **Example:** `semievol stop fpb-1c9d20ab`
    """
    from semievol.submission import JobServer

    job = JobServer(address).stop(job_id)
    typer.echo(f"job {job.id} {job.status.lower()}")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `semievol` command."""
    try:
        app(args=arguments, standalone_mode=False)
    except UserError as error:
        _fail(str(error), code=2)
    except typer.Abort:
        _fail("interrupted; run the same command again to go on", code=130)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", code=130)
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's own: a wrong flag or argument
            _fail(error.format_message(), code=error.exit_code)
        if os.environ.get("SEMIEVOL_DEBUG"):
            raise
        last = "".join(str(error).strip().splitlines()[-1:])  # Ray puts the remote traceback before it
        _fail(f"{type(error).__name__}: {last}\nSet SEMIEVOL_DEBUG=1 for the traceback and worker logs", code=1)


def _run(
    config: str,
    overrides: list[str] | None,
    *,
    as_json: bool,
    until: str | None = None,
    env: list[str] | None = None,
) -> None:
    from semievol import report

    summary = _pipeline(config, overrides).run(until, env or ())
    report.print_result(summary)
    if as_json:
        _print_json(summary)


def _follow(server: Any, job_id: str) -> None:
    """Print a job's output to its end; exit as the run itself would have."""
    try:
        job = server.follow(job_id, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        more = f"{job_id} --address {server.url}"
        _fail(f"left job {job_id} at work. Follow it: semievol logs {more}; end it: semievol stop {more}", code=130)
    typer.echo(f"job {job.id} {job.status.lower()}")
    if job.status != "SUCCEEDED":
        code = 130 if job.status == "STOPPED" else 2 if job.exit_code == 2 else 1
        _fail(f"job {job.id} {job.status.lower()}; submit it again to go on where it stopped", code)


def _pipeline(config: str, overrides: list[str] | None) -> Any:
    from semievol.config import load
    from semievol.pipeline import Pipeline

    return Pipeline(load(config, overrides), typer.echo)


def _print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content))


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"semievol: {message}", err=True)
    sys.exit(code)
