"""Show records as a table, in the terminal and in Markdown. Their keys are the columns."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Records = list[dict[str, Any]]


def console() -> Console:
    """Return a console that does not color figures and does not break lines."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def show(title: str, records: Records, left: Collection[str]) -> None:
    """Print a table. The columns in `left` hold text, the others figures."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in records[0]:
        table.add_column(column, justify="left" if column in left else "right", no_wrap=column == "method")
    for record in records:
        table.add_row(*map(str, record.values()))
    console().print(table)


def to_markdown(records: Records) -> str:
    """Return a table in Markdown."""
    header, *body = [" | ".join(map(_cell, cells)) for cells in (records[0], *(each.values() for each in records))]
    return "\n".join([f"| {header} |", "|" + "---|" * len(records[0]), *(f"| {cells} |" for cells in body)])


def _cell(value: Any) -> str:
    """Return a cell as text that keeps its table whole, whatever people call their labels."""
    return " ".join(str(value).replace("|", "\\|").split())
