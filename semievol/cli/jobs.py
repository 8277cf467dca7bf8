"""The commands about jobs on a cluster: submit, jobs, logs, stop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from semievol.cli.console import Config, Env, Overrides, Until, fail

if TYPE_CHECKING:
    from semievol.runs.submission import JobServer

app = typer.Typer()

Address = Annotated[
    str, typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The job server: the head's dashboard.")
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="As `submit` and `jobs` print it.")]
_LOCAL_JOB_SERVER = "http://127.0.0.1:8265"


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
    from semievol.runs.rounds import check_until

    run_config = load(config, overrides)
    check_until(until)  # better said here than by the cluster
    server = _server(address)
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
    from rich.table import Column, Table

    from semievol.reports import tables

    table = Table("job", "state", "since", "minutes", Column("run folder", overflow="fold"))
    for job in _server(address).jobs():
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started))
        table.add_row(job.id, job.status.lower(), since, f"{job.seconds / 60:,.1f}", job.run)
    tables.console().print(table)


@app.command()
def logs(job_id: JobId, address: Address = _LOCAL_JOB_SERVER) -> None:
    """Print what a job has printed, and follow it to its end. Leaving does not stop it.

    **Example:** `semievol logs fpb-1c9d20ab`
    """
    _follow(_server(address), job_id)


@app.command()
def stop(job_id: JobId, address: Address = _LOCAL_JOB_SERVER) -> None:
    """End a job. What it has committed stays; submitting the same config again resumes it.

    **Example:** `semievol stop fpb-1c9d20ab`
    """
    job = _server(address).stop(job_id)
    typer.echo(f"job {job.id} {job.status.lower()}")


def _server(address: str) -> JobServer:
    from semievol.runs.submission import JobServer

    return JobServer(address)


def _follow(server: JobServer, job_id: str) -> None:
    """Print a job's output to its end; exit as the run itself would have."""
    try:
        job = server.follow(job_id, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        more = f"{job_id} --address {server.url}"
        fail(f"left job {job_id} at work. Follow it: semievol logs {more}; end it: semievol stop {more}", code=130)
    if job.status != "SUCCEEDED":
        code = 130 if job.status == "STOPPED" else 2 if job.exit_code == 2 else 1
        fail(f"job {job.id} {job.status.lower()}; submit it again to go on where it stopped", code)
    typer.echo(f"job {job.id} succeeded")
