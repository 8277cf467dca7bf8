"""Decide which of the rows that ingest has read are kept. Rows with equal ids are in the same bucket."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.tables import LABELED, ORACLE, QUARANTINE, UNLABELED, fill

SPLITS = (
    "test",
    "validation",
    "labeled",
    "unlabeled",
)  # by precedence: of two splits that have a row, the first keeps it
_RAW_CHARACTERS = 4_000  # of a quarantined row's text
PARSED = pa.schema(
    [
        *LABELED,
        ("oracle", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("position", pa.int64()),
        ("reason", pa.string()),  # why the row cannot be used
        ("note", pa.string()),  # a remark on a usable row
        ("raw", pa.string()),
        ("bucket", pa.int32()),
        ("known", pa.bool_()),  # kept by an earlier round; it only decides about other rows
    ]
)


def printable(text: str) -> str:
    """Return the beginning of a quarantined row's text, made valid UTF-8."""
    return text[:_RAW_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def kind(reason: str) -> str:
    """Return the reason without the value that differs from row to row."""
    return reason.split(":")[0] if reason.startswith(("column '", "no JSON", "a value")) else reason


def known_rows(uri: str, split: str, buckets: int) -> pa.Table:
    """Return the ids of one file of rows that an earlier round has kept."""
    ids = storage.read_table(uri, ["row_id"])["row_id"].to_numpy()
    same = {name: [value] * len(ids) for name, value in {"split": split, "source": uri, "known": True}.items()}
    return fill({"row_id": ids, "position": np.arange(len(ids)), "bucket": ids % buckets} | same, PARSED)


def fold(group: pa.Table, config: RunConfig, out: str, stage: str) -> pa.Table:
    """Decide the fate of every row of a bucket, write the kept and the quarantined rows, and return counts.

    The bucket names the files, so a retried task writes the same files again.
    """
    group = group.combine_chunks()
    bucket = group["bucket"][0].as_py()
    fate, reason = fates(group, config)
    group = group.set_column(group.schema.get_field_index("reason"), "reason", pa.array(reason, pa.string()))
    new = fate != "known"
    group, fate = group.filter(pa.array(new)), fate[new]
    split = group["split"].to_numpy(zero_copy_only=False)

    def write(folder: str, chosen: np.ndarray[Any, Any], schema: pa.Schema) -> None:
        if chosen.any():
            rows = group.filter(pa.array(chosen))
            table = rows.sort_by("row_id") if folder != "quarantine" else _quarantined(rows, stage)
            table = table.select(schema.names).cast(schema)
            storage.write_table(storage.join(out, folder, f"part-{bucket:05d}.parquet"), table)

    kept = fate == "kept"
    write("labeled", kept & (split == "labeled"), LABELED)
    write("test", kept & (split == "test"), LABELED)
    write("validation", kept & (split == "validation"), LABELED)
    write("unlabeled", kept & (split == "unlabeled"), UNLABELED)
    write("oracle", kept & np.asarray(group["oracle"].is_valid()), ORACLE)
    write("quarantine", fate == "quarantined", QUARANTINE)
    return _counts(group, fate)


def _quarantined(rows: pa.Table, stage: str) -> pa.Table:
    """Add the stage to quarantined rows, and the text of those that only a comparison with other rows rejected."""
    records = rows.select(["question", "options", "context", "history", "fields", "answer"]).to_pylist()
    pairs = zip(rows["raw"].to_pylist(), records, strict=True)
    raw = pa.array([printable(json.dumps(record)) if text is None else text for text, record in pairs], pa.string())
    rows = rows.set_column(rows.schema.get_field_index("raw"), "raw", raw)
    return rows.append_column("stage", pa.array([stage] * len(rows), pa.string()))


def fates(group: pa.Table, config: RunConfig) -> tuple[np.ndarray[Any, Any], list[str | None]]:
    """Return each row's fate (kept, quarantined, duplicate, leak or known) and, if quarantined, the reason.

    Equal rows with different answers contradict each other, unless answers are open: then each is right, and the first is kept.
    """
    one_answer, exclude_test_overlap = config.task.cosine is None, config.data.exclude_test_overlap
    names = ("row_id", "split", "source", "position", "answer", "reason", "known")
    ids, splits, sources, positions, answers, reasons, known = (group[name].to_pylist() for name in names)
    given: dict[tuple[int, str], set[str]] = {}  # (row id, split) -> its answers
    for i, key in enumerate(ids):
        if reasons[i] is None:
            given.setdefault((key, splits[i]), set()).add(answers[i])
    fate = np.full(len(group), "kept", dtype=object)
    seen: dict[int, str] = {}  # row id -> the split that keeps it
    # A fixed order decides which copy is kept: the order of the shuffle varies.
    order = sorted(range(len(group)), key=lambda i: (not known[i], SPLITS.index(splits[i]), sources[i], positions[i]))
    for i in order:
        if known[i]:
            fate[i] = "known"
            seen[ids[i]] = splits[i]
        elif reasons[i] is not None:
            fate[i] = "quarantined"
        elif one_answer and len(given[ids[i], splits[i]]) > 1:
            fate[i] = "quarantined"
            reasons[i] = f"equal rows with different answers: {', '.join(sorted(given[ids[i], splits[i]]))}"
        elif exclude_test_overlap and any((ids[i], held) in given for held in _held_out(splits[i])):
            fate[i] = "leak"
        elif seen.get(ids[i]) == splits[i] or (seen.get(ids[i]) == "labeled" and splits[i] == "unlabeled"):
            fate[i] = "duplicate"  # of a row in the same split, or of a labeled row
        else:
            seen[ids[i]] = splits[i]
    return fate, reasons


def _held_out(split: str) -> tuple[str, ...]:
    """Return the splits whose rows must not be in a split."""
    return () if split == "test" else ("test",) if split == "validation" else ("test", "validation")


def _counts(group: pa.Table, fate: np.ndarray[Any, Any]) -> pa.Table:
    """Count the rows of each split, fate, reason and note, with the place of the first one as an example."""
    places = pc.binary_join_element_wise(group["source"], group["position"].cast(pa.string()), ":")
    columns = {"split": group["split"], "fate": pa.array(fate, pa.string())}
    columns |= {"reason": group["reason"], "note": group["note"]}
    counted = pa.table(columns | {"place": places}).group_by(list(columns), use_threads=False)
    return counted.aggregate([("place", "count"), ("place", "first")]).rename_columns([*columns, "rows", "example"])
