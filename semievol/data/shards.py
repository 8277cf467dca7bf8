"""The files of a split side by side: which columns each has, and which has no header and takes that of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

from semievol.data import readers
from semievol.data.storage import FileEntry
from semievol.errors import UserError

_READERS = 16
_SHORT = 60  # characters; a name of a column is shorter


@dataclass(frozen=True)
class Shard:
    """A file of a split.

    Attributes:
        problem: the reason why its beginning cannot be read.
        shared: what it takes from the other files.
    """

    uri: str
    look: readers.Look
    problem: UserError | None = None
    shared: readers.Shared = field(default_factory=readers.Shared)

    @property
    def columns(self) -> list[str]:
        return list(self.shared.header) or self.look.columns


def look_at(files: Sequence[FileEntry], wanted: Sequence[str]) -> list[Shard]:
    """Look at the beginning of every file. A file without a header gets the one of the first file that has it."""

    def look(file: FileEntry) -> Shard:
        try:
            return Shard(file.uri, readers.look(file.uri, wanted))
        except UserError as problem:
            return Shard(file.uri, readers.Look([], [], []), problem)

    with ThreadPoolExecutor(_READERS) as pool:
        shards = list(pool.map(look, files))
    named = next((each.look.header for each in shards if set(wanted) & set(each.look.header)), ())
    backslash = any(shard.look.backslash for shard in shards)
    headers = [tuple(named) if named and _takes(shard, named) else () for shard in shards]
    return [
        replace(shard, shared=readers.Shared(header, backslash)) for shard, header in zip(shards, headers, strict=True)
    ]


def _takes(shard: Shard, header: Sequence[str]) -> bool:
    cells = shard.look.header
    return len(cells) == len(header) and not set(cells) & set(header) and first_line_is_a_row(shard.look)


def first_line_is_a_row(look: readers.Look) -> bool:
    """Tell whether the first line of a file holds values rather than the names of columns."""
    for i, cell in enumerate(look.header):
        below = {list(row.values())[i] for row in look.rows if len(row) == len(look.header)}
        number = cell.replace(".", "", 1).removeprefix("-").isdecimal()
        gap = i > 0 and not cell  # the first column of pandas and R has no name
        if number or gap or (cell and cell in below) or len(cell) > _SHORT or cell[-1:] in {*".?!]}"}:
            return True
    return False


def no_header(shared: readers.Shared) -> str:
    """Return the remark on a file that takes the columns of another one."""
    return f"has no header line; its columns are those of another file: {', '.join(shared.header)}"


def remarks(shards: Sequence[Shard]) -> list[str]:
    """Return what is unusual about the files, each remark once, with the first file that it holds for."""
    files: dict[str, list[str]] = {}
    for shard in shards:
        for note in [*shard.look.notes, *([no_header(shard.shared)] if shard.shared.header else [])]:
            files.setdefault(note, []).append(shard.uri)
    return [
        f"{uris[0]} {note}" + (f" (and {len(uris) - 1:,} more)" if uris[1:] else "") for note, uris in files.items()
    ]


def check(
    shards: Sequence[Shard], required: Mapping[str, str], optional: Mapping[str, str], *, skip_broken: bool
) -> None:
    """Raise if a file lacks a column, naming both, or if no file has one of the `optional` ones.

    Args:
        required: the columns, and the keys of the config that name them.
        skip_broken: a file that cannot be read, or lacks a column, is not an error as long as there is a better one.
    """
    readable = [shard for shard in shards if not shard.problem]
    problems = [shard.problem for shard in shards if shard.problem]
    if problems and not (skip_broken and readable):
        raise problems[0]
    filled = [shard for shard in readable if not shard.look.empty]
    filled = filled or [shard for shard in readable if shard.columns][:1]
    if not filled:
        raise UserError(f"{readable[0].uri} has no columns: it is empty")
    wrong = list(filter(None, (_problem(shard, required) for shard in filled)))
    if wrong and not (skip_broken and len(wrong) < len(filled)):
        others = (
            "" if len(wrong) == len(filled) else ". Other files have it, so this one may lack the line with the names"
        )
        raise UserError(f"{wrong[0]}{others}")
    for column in optional:
        if not any(column in shard.columns for shard in filled) and not any(_has(shard, column) for shard in filled):
            raise _lacking(filled[0], column, optional[column])


def _problem(shard: Shard, required: Mapping[str, str]) -> UserError | None:
    if not shard.columns:
        return UserError(f"{shard.uri} has no columns: its first lines are not rows")
    return next((_lacking(shard, column, key) for column, key in required.items() if not _has(shard, column)), None)


def _has(shard: Shard, column: str) -> bool:
    """Tell whether a file has a column. JSON may leave it out of many rows, so look at all of them before saying no."""
    if column in shard.columns or shard.look.whole:
        return column in shard.columns
    with suppress(UserError):  # it cannot be read to its end, which is told when its rows are read
        return any(isinstance(row, dict) and column in row for _, row in readers.read(shard.uri))
    return False


def _lacking(shard: Shard, column: str, key: str) -> UserError:
    has = f"{shard.uri} has no column '{column}'; it has {', '.join(shard.columns)}"
    if first_line_is_a_row(shard.look):
        way_out = "That looks like a row: put a line with the names of the columns above it"
    elif readers.format_of(shard.uri) == ".txt":
        way_out = "A .txt file holds texts and nothing else, one a line, so it fits data.unlabeled only"
    else:
        way_out = f"Name yours in {key}"
        if key == "data.columns.options":
            way_out += ", or set task.kind: only multiple_choice, the default, needs options"
    return UserError(f"{has}. {way_out}")
