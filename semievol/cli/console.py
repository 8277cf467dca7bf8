"""The arguments that several commands share, and how a command fails."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from semievol.config import RunConfig
    from semievol.runs.pipeline import Pipeline

Config = Annotated[str, typer.Argument(metavar="CONFIG.yaml", help="The run's config; see configs/ for examples.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over the file.")
]
Until = Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage; see `plan`.")]
Env = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A variable that every node must have, e.g. HF_TOKEN. Only the name is passed."),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="The run folder: STORAGE/NAME, a folder or a URI.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong and exit."""
    typer.echo(f"semievol: {message}", err=True)
    sys.exit(code)


def pipeline(config: RunConfig) -> Pipeline:
    """Return the pipeline of a config, which tells on the terminal what it does."""
    from semievol.runs.pipeline import Pipeline

    return Pipeline(config, typer.echo)


def print_json(asked: bool, content: dict[str, Any]) -> None:
    """Print a command's JSON object, if it was asked for."""
    if asked:
        typer.echo(json.dumps(content))
