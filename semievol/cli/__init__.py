"""The commands of `semievol`."""

from semievol.cli.main import main
