"""The arguments that several commands share, and how a command fails."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

Config = Annotated[str, typer.Argument(metavar="CONFIG.yaml", help="The run's config; see configs/ for examples.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over the file.")
]
Until = Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage; see `plan`.")]
Env = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A variable that every node must have, e.g. HF_TOKEN. Only the name is passed."),
]


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong and exit."""
    typer.echo(f"semievol: {message}", err=True)
    sys.exit(code)
