"""Read a sample of a config's rows, and decide about them as ingest would.

The files of a split are read whole up to `_WHOLE_BYTES`. Of a larger split the first rows of some of its files are read.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from semievol.config import RunConfig
from semievol.data import carve, readers, shards, storage
from semievol.data.fold import PARSED, fates, kind
from semievol.data.inputs import inputs, wanted
from semievol.stages import ingest

_WHOLE_BYTES = 16 << 20  # 2 s on one core
_FILES = 20  # of a split that is not read whole
_HEAD_BYTES = 1 << 20  # of a file, to see how long its lines are

Record = dict[str, Any]  # a row as `PARSED` has it


@dataclass(frozen=True)
class Split:
    """The rows of a split.

    Attributes:
        records: usable rows: a sample, in the order of the files.
        kept: the usable rows among those that were read.
        read: the rows that were read, usable or not.
        total: the rows in the files.
        counted: how `total` is known.
        fates: of the rows that were read: kept, quarantined, duplicate, leak.
        reasons: why rows are quarantined, with examples of where.
    """

    records: list[Record]
    kept: list[Record]
    read: int
    total: int
    counted: str
    fates: dict[str, int]
    reasons: dict[str, int]

    @property
    def whole(self) -> bool:
        return self.read == self.total

    @property
    def usable(self) -> int:
        """Estimate how many rows of the split can be used."""
        return round(self.total * len(self.kept) / self.read) if self.read else 0


def read(config: RunConfig, size: int) -> dict[str, Split]:
    """Return the splits of a config that have files, with at most `size` usable rows of each."""
    files = {split: found for split, found in inputs(config).items() if found}
    parts = {split: _read(found, split, config, size) for split, found in files.items()}
    table = pa.Table.from_pylist([record for records, _ in parts.values() for record in records], schema=PARSED)
    decided = iter(zip(*fates(table, config), strict=True))
    found = {}
    for split, (records, counted) in parts.items():
        found[split] = _split(records, list(islice(decided, len(records))), counted)
    if config.data.carved:
        found |= _carved(found["labeled"], config)
    return {name: replace(split, records=_sample(split.kept, config.seed, size)) for name, split in found.items()}


def _split(records: list[Record], decided: list[tuple[str, str | None]], counted: tuple[int, str] | None) -> Split:
    """Return a split of rows whose fates, with reasons, are decided."""
    total, how = counted or (len(records), "counted")
    kept = [record for record, (fate, _) in zip(records, decided, strict=True) if fate == "kept"]
    reasons = Counter(kind(why) for fate, why in decided if fate == "quarantined" and why)
    known = Counter(fate for fate, _ in decided)
    return Split([], kept, len(records), total, how, dict(known), dict(reasons.most_common(5)))


def _carved(labeled: Split, config: RunConfig) -> dict[str, Split]:
    """Return the labeled rows without those that are held back, and the parts that they make."""
    answers = {record["row_id"]: record["answer"] for record in labeled.kept}
    chosen, _ = carve.choose(answers, config.data.carved, config.task)
    found = {}
    for part, ids in chosen.items():
        rows = [record | {"split": part} for record in labeled.kept if record["row_id"] in ids]
        total = round(labeled.total * len(rows) / labeled.read)
        found[part] = Split([], rows, len(rows), total, labeled.counted, {"kept": len(rows)}, {})
    gone = set().union(*chosen.values())
    rest = [record for record in labeled.kept if record["row_id"] not in gone]
    return found | {"labeled": replace(labeled, kept=rest, fates=labeled.fates | {"kept": len(rest)})}


def _sample(rows: list[Record], seed: int, size: int) -> list[Record]:
    """Return a random sample of rows, in their order."""
    chosen = sorted(random.Random(seed).sample(range(len(rows)), min(size, len(rows))))
    return [rows[i] for i in chosen]


def _read(
    files: list[storage.FileEntry], split: str, config: RunConfig, size: int
) -> tuple[list[Record], tuple[int, str] | None]:
    """Return rows of a split, and how many there are if not all were read."""
    shared = {shard.uri: shard.shared for shard in shards.look_at(files, wanted(config))}
    if sum(file.size for file in files) <= _WHOLE_BYTES:
        parts = (ingest.rows_of(file.uri, split, config, shared[file.uri]) for file in files)
        return list(chain.from_iterable(parts)), None
    some = files[:: -(-len(files) // _FILES)]
    records, estimates = [], []
    for file in some:
        first = list(islice(ingest.rows_of(file.uri, split, config, shared[file.uri]), -(-size // len(some))))
        records += first
        if first:
            estimates.append(_bytes_per_row(file, first))
    parquet = all(readers.format_of(file.uri) == ".parquet" for file in files)
    if parquet:
        return records, (storage.rows_in(files), "counted in Parquet footers")
    mean = sum(estimates) / len(estimates) if estimates else 1.0
    return records, (round(sum(file.size for file in files) / mean), "estimated from file sizes")


def _bytes_per_row(file: storage.FileEntry, rows: list[Record]) -> float:
    """Estimate how many bytes of a file a row takes, from its first lines or else from the row's own text."""
    filesystem, path = storage.resolve(file.uri)
    with filesystem.open_input_file(path) as raw:
        packed = file.uri.endswith((".gz", ".zst", ".bz2"))
        stream = pa.CompressedInputStream(raw, pa.Codec.detect(path).name) if packed else raw
        head = stream.read(_HEAD_BYTES)
        taken = raw.tell() / max(len(head), 1)  # bytes of the file for each byte of text
    lines_per_row = rows[-1]["position"] / len(rows)
    if (lines := head.count(b"\n")) > 10:
        return len(head) / lines * lines_per_row * taken
    texts = sum(len(str(value).encode()) for record in rows for value in record.values() if value)
    return max(texts / len(rows) * taken, 1.0)
