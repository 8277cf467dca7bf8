"""The command line: the only place that turns exceptions into messages and exit codes.

Exit codes: 0 done, 1 the run failed, 2 something you can correct (config, data or flag), 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Annotated

import typer

import semievol
from semievol.cli import init, jobs, looking
from semievol.cli.console import AsJson, Config, Env, Overrides, Run, Until, fail, pipeline, print_json
from semievol.errors import UserError

app = typer.Typer(
    help="Semi-supervised fine-tuning of language models on Ray: a few hundred labeled rows, many unlabeled ones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(semievol.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: Config,
    overrides: Overrides = None,
    until: Until = None,
    env: Env = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole loop: ingest, warm up, retrieve, label, select, fine-tune, evaluate.

    Finished stages are skipped and an interrupted one is resumed, so the same command always continues where the last one
    stopped. Unlabeled files that have arrived since make another round. RAY_ADDRESS names a Ray cluster to use; without it,
    Ray is started on this machine.

    **Example:** `semievol run configs/fpb.yaml select.theta=0.3`
    """
    from semievol.config import load
    from semievol.reports import summary as report

    figures = pipeline(load(config, overrides)).run(report.write, until, env or ())
    report.print_result(figures)
    print_json(as_json, figures)


@app.command()
def demo(
    folder: Annotated[str, typer.Option(help="Where data and run go.")] = "runs/demo",
    seed: Annotated[int, typer.Option(help="Changes the data, the training and the sampling.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run everything, offline and from nothing: make a data set and evolve a small model on it, SmolLM2-135M.

    Takes about a quarter of an hour on two cores. The data are synthetic support-desk tickets; model and stack are real.
    """
    from semievol.demo.run import prepare

    config, overrides = prepare(folder, seed=seed, echo=typer.echo)
    run(config, overrides, as_json=as_json)


@app.command()
def study(
    study: Annotated[str, typer.Argument(metavar="STUDY.yaml", help="The study; see configs/studies/ for examples.")],
    overrides: Overrides = None,
    env: Env = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods at several seeds on one data set; equal stages run once.

    Writes results.csv, results.md and plots into STORAGE/NAME/. Finished runs are skipped, so the same command
    continues where the last one stopped. An override is a key of the study (seeds, storage, ...) or else of its runs.

    **Example:** `semievol study configs/studies/few_labels.yaml seeds=[0]`
    """
    from semievol.reports import study as study_report
    from semievol.studies import study as studies

    figures = studies.run(studies.load(study, overrides), typer.echo, env or ())
    study_report.print_figures(figures)
    print_json(as_json, figures)


@app.command()
def select(run: Run, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Select again among the pseudo-labels of a run's last round, in seconds: nothing is labeled again.

    Takes overrides of select.* only, and writes them into the run's config.yaml. The models stay as they are until
    `semievol run RUN/config.yaml` continues with what depends on the selection.

    **Example:** `semievol select runs/fpb select.theta=0.3`
    """
    from semievol.reports import summary as report
    from semievol.runs import promotion

    for override in overrides or []:
        key = override.partition("=")[0]
        if not key.startswith("select."):
            raise UserError(f"{key}: `semievol select` takes overrides of select.* only; `semievol run` takes all")
    folder, config = promotion.open_run(run, overrides)
    if config.select.ceiling:
        raise UserError("select.ceiling: selects by true answers and not by pseudo-labels; use `semievol run`")
    config.storage, _, config.name = folder.uri.rpartition("/")  # where it is now
    figures = pipeline(config).select()
    report.print_selection(figures)
    again = ": the settings hold for all rounds, so it begins with round 0" if figures["round"] else ""
    typer.echo(f"`semievol run {folder.uri}/config.yaml` continues with what depends on it{again}")
    print_json(as_json, figures)


@app.command()
def serve(
    run: Run,
    overrides: Overrides = None,
    models: Annotated[str | None, typer.Option(help="Which, with commas: base, warm, round-N, evolved.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; other than loopback needs keys.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    keys: Annotated[str | None, typer.Option(metavar="FILE", help="API keys; make them with `key`.")] = None,
) -> None:
    """Serve the models of a run: an OpenAI-compatible API, the task route /v1/answer, and a page for people.

    `evolved` is the round that was promoted last (the newest finished one at first, or `warm` in its place if that is better
    on the validation rows); the endpoint follows `promote` and `rollback` without losing requests. Stays in the foreground.

    **Example:** `semievol serve runs/fpb --port 8000`
    """
    from semievol.serving.start import serve_run

    given = {"models": f"[{models}]" if models else None, "host": host, "port": port, "keys": keys}
    flags = [f"serving.{name}={value}" for name, value in given.items() if value is not None]
    serve_run(run, [*(overrides or []), *flags], typer.echo)


@app.command()
def promote(
    run: Run,
    round_number: Annotated[int, typer.Option("--round", metavar="N", help="The round to serve as `evolved`.")],
    force: Annotated[bool, typer.Option(help="Even if it is worse on the validation rows.")] = False,
) -> None:
    """Serve another round as `evolved`. One that is worse on the validation rows than the current one or `warm` is refused.

    A running endpoint notices by itself. The tolerance is `serving.tolerance`. Without `data.validation` nothing is compared.

    **Example:** `semievol promote runs/fpb --round 1`
    """
    from semievol.runs import promotion

    folder, config = promotion.open_run(run)
    entry = promotion.promote(folder, config, round_number, force=force)
    typer.echo(
        f"round {entry.round} is promoted: {promotion.told(entry)}. A running endpoint loads it, and then `evolved` is this round"
    )


@app.command()
def rollback(run: Run) -> None:
    """Take the last promotion back.

    **Example:** `semievol rollback runs/fpb`
    """
    from semievol.runs import promotion

    entry = promotion.rollback(promotion.open_run(run)[0])
    typer.echo(f"back to round {entry.round}")


@app.command()
def key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The owner of the key, for the access log.")],
    file: Annotated[str, typer.Option(metavar="FILE", help="The key file to add it to.")] = "keys.txt",
) -> None:
    """Make an API key for the endpoint. The key is shown once; the file holds its hash.

    An endpoint reads the file when it starts. To revoke a key, delete its line and restart the endpoint.

    **Example:** `semievol key alice --file keys.txt`
    """
    from semievol.serving.keys import add

    typer.echo(add(name, file))


app.add_typer(init.app)
app.add_typer(looking.app)
app.add_typer(jobs.app)


def main(arguments: list[str] | None = None) -> None:
    """Run the `semievol` command."""
    if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
        # Like Ctrl-C: Slurm and Kubernetes end jobs with it.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(args=arguments, prog_name="semievol", standalone_mode=False)
    except UserError as error:
        fail(str(error), code=2)
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's own: a wrong flag or argument
            said, context = error.format_message(), getattr(error, "ctx", None)
            more = f"{'' if said[-1] in '.?' else '.'} See `{context.command_path} --help`" if context else ""
            fail(f"{said}{more}", code=error.exit_code)
        if os.environ.get("SEMIEVOL_DEBUG"):
            raise
        from semievol.runtime import cluster

        if user_error := cluster.user_error(error):  # for example a full disk, before a stage began
            fail(str(user_error), code=2)
        last = "".join(str(error).strip().splitlines()[-1:])  # Ray puts the remote traceback before it
        fail(f"{type(error).__name__}: {last}\nSet SEMIEVOL_DEBUG=1 for the traceback and worker logs", code=1)
    if code == 130:  # Typer returns it in place of the KeyboardInterrupt
        fail("interrupted; run the same command again to go on", code)
