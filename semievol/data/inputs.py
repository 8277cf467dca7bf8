"""Find the input files of a config, and check what can be known of them from their beginnings."""

from __future__ import annotations

from collections.abc import Sequence

from semievol.config import RunConfig
from semievol.data import chats, readers, shards, sources, storage
from semievol.data.fold import SPLITS
from semievol.errors import UserError


def inputs(
    config: RunConfig, *, begun: bool = False, notes: list[str] | None = None
) -> dict[str, list[storage.FileEntry]]:
    """Check the input files of each split that has files (presence, format, columns) and return them.

    Args:
        begun: the run already has rows, so the unlabeled files may be gone.
        notes: gets what is unusual about the files.
    """
    found: dict[str, list[storage.FileEntry]] = {}
    for split in SPLITS:
        pattern = getattr(config.data, split)
        if not isinstance(pattern, str):
            continue  # there are none, or they are carved off the labeled rows
        try:
            found[split] = files = sources.find(pattern)
            remarks = _check(files, split, config) if files else []
        except UserError as error:
            raise UserError(f"data.{split}: {error}") from None
        if files:
            notes = [] if notes is None else notes
            notes += [f"data.{split}: {remark}" for remark in remarks]
        elif split != "unlabeled" or not begun:
            raise UserError(f"data.{split}: no file at '{pattern}' (a file, a folder, a glob or a URI)")
    return found


def _check(files: Sequence[storage.FileEntry], split: str, config: RunConfig) -> list[str]:
    """Raise if a format is unknown, or if a file does not have the config's columns; return what is unusual."""
    columns = config.data.columns
    for file in files:
        readers.format_of(file.uri)
    required = [] if config.task.conversational else ["question", *config.task.needs]
    required += ["answer"] if required and split != "unlabeled" else []
    optional = ["context", "stratum", *(["oracle"] if split == "unlabeled" else [])]
    needed, known = (
        {getattr(columns, key): f"data.columns.{key}" for key in keys if getattr(columns, key)}
        for keys in (required, optional)
    )
    shown = dict.fromkeys(config.prompt.columns, "a template of `prompt`")
    found = shards.look_at(files, wanted(config))
    skip_broken = config.limits.bad_shards == "quarantine"
    shards.check(found, shown | needed, known, skip_broken=skip_broken)
    if config.task.conversational:
        for shard in found:
            if shard.columns:
                chats.check(shard.uri, shard.columns, columns, answered=split != "unlabeled")
    return shards.remarks(found)


def wanted(config: RunConfig) -> list[str]:
    """Return the columns that are read, that of the question first."""
    chat = config.task.conversational
    named = config.data.columns.model_dump(exclude=set() if chat else {"messages"})
    more = [*config.prompt.columns, *(chats.COLUMNS if chat else ())]
    return list(dict.fromkeys([*filter(None, named.values()), *more]))
