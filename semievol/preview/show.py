"""Show a preview, in the terminal and as JSON."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from semievol.preview import costs
from semievol.preview.look import Measured, Preview, Shown
from semievol.preview.requests import JUSTIFICATION
from semievol.preview.tokens import CHARACTERS
from semievol.reports import tables

if TYPE_CHECKING:
    from rich.console import Console

_BARS = " ▁▂▃▄▅▆▇█"
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
# Control characters in people's text could steer the terminal; their pictures cannot.
_PICTURES = (
    {n: 0x2400 + n for n in range(32) if chr(n) not in "\n\t"}
    | {0x7F: 0x2421}
    | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
)


def as_json(preview: Preview) -> dict[str, Any]:
    """Return the preview as one JSON object."""
    splits = {
        name: {
            "rows": split.total,
            "counted": split.counted,
            "read": split.read,
            "sampled": len(split.records),
            "usable": split.usable,
            "fates": split.fates,
            "reasons": split.reasons,
        }
        for name, split in preview.splits.items()
    }
    return {
        "name": preview.config.name,
        "rows": splits,
        "labels": preview.labels,
        "prompts": [_shown_as_json(shown) for shown in preview.shown],
        "tokens": {measured.request.name: _measured_as_json(measured) for measured in preview.measured},
        "labeling": costs.of_labeling(preview),
        "notes": _notes(preview),
    }


def _shown_as_json(shown: Shown) -> dict[str, Any]:
    texts = {
        "text": "".join(text for text, *_ in shown.pieces),
        "control": [text for text, control, _ in shown.pieces if control],
        "trained": "".join(text for text, _, trained in shown.pieces if trained),
    }
    return {name: value for name, value in vars(shown).items() if name != "pieces"} | (texts if shown.pieces else {})


def _measured_as_json(measured: Measured) -> dict[str, Any]:
    return _quantiles(measured) | {
        "rows": len(measured.lengths),
        "limit": measured.limit,
        "exact": measured.exact,
        "cut": measured.lost,
        "too_long": measured.too_long,
    }


def _quantiles(measured: Measured) -> dict[str, int]:
    lengths = sorted(measured.lengths.values()) or [0]
    return {name: int(np.quantile(lengths, share, method="inverted_cdf")) for name, share in _QUANTILES.items()}


def print_preview(preview: Preview) -> None:
    """Print the preview for people."""
    console = tables.console()
    for place, group in groupby(preview.shown, lambda shown: shown.row):
        console.rule(f"[bold]{escape(place)}", align="left", characters="─")
        for shown in group:
            _print_prompt(console, shown)
        console.print()
    _print_rows(console, preview)
    _print_lengths(console, preview)
    _print_costs(console, preview)
    for note in _notes(preview):
        console.print(f"- {note}", soft_wrap=not console.is_terminal, markup=False)


def _print_prompt(console: Console, shown: Shown) -> None:
    about = "no part that makes sense fits" if shown.tokens is None else _tokens(shown.tokens, shown.exact)
    if shown.lost:
        about += f"; without {', '.join(shown.lost)}, to fit"
    if shown.same_as:
        about += f"; as in {shown.same_as}{', and then' if shown.pieces else ''}"
    console.print(f"[bold cyan]{escape(shown.request)}[/]: {about}")
    for trained, run in groupby(shown.pieces, lambda piece: piece[2]):
        if trained:
            console.print("  [dim]trained on:[/]")
        text = _text(list(run), bold=trained)
        if console.is_terminal:
            console.print(Padding(text, (0, 0, 0, 4)), soft_wrap=False)
        else:  # no line is broken, as this may be compared with something
            for line in text.split("\n"):
                console.print("    ", line, sep="")


def _text(pieces: list[tuple[str, bool, bool]], *, bold: bool) -> Text:
    """Return pieces as they are read; line breaks at the end are signs."""
    text = Text()
    for piece, control, _ in pieces:
        text.append(piece.translate(_PICTURES), "magenta" if control else "green" if bold else "")
    breaks = len(text.plain) - len(text.plain.rstrip("\n"))
    if breaks:
        text.right_crop(breaks)
    return text.append("⏎" * breaks, "dim")


def _tokens(n: int, exact: bool) -> str:
    return f"{'' if exact else 'about '}{n:,} tokens"


def _table(title: str, *columns: str) -> Table:
    title = f"\n[bold cyan]{title}[/]"
    table = Table(
        title=title,
        title_justify="left",
        title_style="",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        header_style="dim",
    )
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _print_rows(console: Console, preview: Preview) -> None:
    table = _table("Rows", "split", "in files", "read", "usable", "quarantined", "duplicate", "in test too")
    for name, split in sorted(preview.splits.items()):
        about = "" if split.whole or "footers" in split.counted else "~"
        fates = [split.fates.get(fate, 0) for fate in ("kept", "quarantined", "duplicate", "leak")]
        table.add_row(name, f"{about}{split.total:,}", f"{split.read:,}", *(f"{n:,}" for n in fates))
    console.print(table)
    for name, split in preview.splits.items():
        for reason, n in split.reasons.items():
            console.print(f"  {name}: {n:,} quarantined: {reason}", markup=False)
    answers = [f"{label!r} {n:,}" for label, n in preview.labels.items()]
    if preview.config.task.closed or (len(answers) <= 20 and max(preview.labels.values(), default=0) > 1):
        more = f" and {len(answers) - 20:,} more" if len(answers) > 20 else ""
        console.print(f"Answers of the labeled rows ({len(answers):,}): {', '.join(answers[:20])}{more}", markup=False)


def _print_lengths(console: Console, preview: Preview) -> None:
    rows = []
    for measured in preview.measured:
        about = "" if measured.exact else "~"
        figures = [f"{about}{n:,}" for n in _quantiles(measured).values()]
        limit = "-" if measured.limit is None else f"{measured.limit:,}"
        rows.append([measured.request.name, *figures, limit])
    header = ["", *_QUANTILES, "fits"]
    taken = sum(max(len(cell) for cell in column) + 2 for column in zip(header, *rows, strict=True))
    width = max(12, min(48, console.width - taken - 2))
    table = _table("Tokens of a row", *header, f"0{' to what fits ':─^{width - 1}}│")
    table.columns[-1].justify = "left"
    for cells, measured in zip(rows, preview.measured, strict=True):
        table.add_row(escape(cells[0]), *cells[1:], _histogram(measured, width))
    console.print(table)
    fates = [line for measured in preview.measured for line in _fates(measured)]
    if not fates and any(measured.limit for measured in preview.measured):
        fates = ["Every row that was measured fits without a cut."]
    for line in fates:
        console.print(line, markup=False)


def _fates(measured: Measured) -> list[str]:
    """Say how many rows of a request are cut, and how many do not fit."""
    name, rows = measured.request.name, f"{len(measured.lengths):,} rows"
    lines = [f"{name}: {n:,} of {rows} lose {what}" for what, n in measured.lost.items()]
    if measured.too_long:
        fate = "are quarantined" if measured.request.cuts else "are refused"
        lines.append(f"{name}: {measured.too_long:,} of {rows} do not fit, and {fate}")
    return lines


def _histogram(measured: Measured, width: int) -> str:
    """Return bars for the numbers of tokens from 0 to the limit, and one more for what is over it."""
    lengths = np.array(list(measured.lengths.values()) or [0])
    limit = measured.limit or int(lengths.max())
    counts, _ = np.histogram(lengths[lengths <= limit], bins=width, range=(0, max(limit, 1)))
    over = int((lengths > limit).sum())
    most = max(int(counts.max()), over, 1)
    return (
        "".join(_bar(int(n), most) for n in counts)
        + ("│" if measured.limit else "")
        + (_bar(over, most) if over else "")
    )


def _bar(n: int, most: int) -> str:
    """Return a bar; the smallest one stands for any number above 0."""
    return _BARS[-(-8 * n // most)] if n else "·"


def _print_costs(console: Console, preview: Preview) -> None:
    found = costs.of_labeling(preview)
    priced = any(cost["price"] is not None for cost in found)
    title = f"Tokens of labeling {preview.splits['unlabeled'].usable:,} rows"
    header = ["", "prompt a row", "prompts", "responses <=", *(["price <="] if priced else [])]
    table = _table(title, *header)
    for cost in found:
        cells = [f"{cost['prompt_per_row']:,.1f}", f"{cost['prompt']:,}", f"{cost['output']:,}"]
        money = f"{cost['price']:,.2f}" if cost["price"] else "-"
        table.add_row(escape(cost["request"]), *cells, *([money] if priced else []))
    if len(found) > 1:
        prompts, outputs, prices = (sum(cost[key] or 0 for cost in found) for key in ("prompt", "output", "price"))
        table.add_row("[bold]total", "", f"{prompts:,}", f"{outputs:,}", *([f"{prices:,.2f}"] if priced else []))
    console.print(table)
    console.print()


def _notes(preview: Preview) -> list[str]:
    """Return what the figures assume."""
    config, unlabeled = preview.config, preview.splits["unlabeled"]
    sampled = max(len(split.records) for split in preview.splits.values())
    notes = [f"Lengths are of up to {sampled:,} sampled rows of each split, before anything is cut."]
    notes += [
        f"{name}: only the first rows of files were read ({split.read:,}); {split.total:,} are {split.counted}."
        for name, split in preview.splits.items()
        if not split.whole
    ]
    notes.append(
        f"Labeling costs the mean prompt of {len(unlabeled.records):,} unlabeled rows, times {unlabeled.usable:,} usable rows, "
        "and for each response the most that it may have."
    )
    if not all(measured.exact for measured in preview.measured):
        notes.append(
            f"Tokens of an endpoint are estimated: {CHARACTERS} characters are one. Its window is not known here."
        )
    if any(measured.request.name == JUSTIFICATION for measured in preview.measured):
        notes.append(
            "Self-justification is for rows on which answers differ; here it is for all, with two answers made up."
        )
    notes.append("In fine-tuning, an answer of median length stands for the pseudo-label of an unlabeled row.")
    votes = [who for who in config.label.collaborators if who.kind == "neighbors"]
    notes += [f"Collaborator {who.name} asks no model: the {who.k} nearest labeled rows vote." for who in votes]
    probes = [who for who in config.label.collaborators if who.kind == "probe"]
    notes += [
        f"Collaborator {who.name} asks no model: it is fitted to the embeddings of the labeled rows." for who in probes
    ]
    return [*notes, *preview.notes]
