"""Ingest: labeled, unlabeled and test rows from files into validated, content-addressed Parquet; nothing is lost.

Each file is parsed by one task; rows meet by `row_id` in a hash shuffle, so that duplicates are folded and rows that
stand in the test set too are held back from training. Writes labeled/, unlabeled/, test/, oracle/ and quarantine/.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from semievol import readers, storage, tasks
from semievol.config import DataConfig, RunConfig, TaskConfig
from semievol.errors import UserError
from semievol.runfolder import Rows, StageResult
from semievol.schema import LABELED, ORACLE, QUARANTINE, UNLABELED, BadRow, answer_text, row_id, validate
from semievol.stages.context import StageContext, check_bad_fraction

SPLITS = ("test", "labeled", "unlabeled")  # in the order of precedence: an earlier split keeps a row that both have
_BUCKET_BYTES = 64 << 20  # input bytes a shuffle bucket: one bucket is folded in the memory of one task
_READ = "_read"  # one small file for each input file
_RAW_CHARACTERS = 4_000  # kept of a quarantined row's text
_PARSED = pa.schema(
    [
        *LABELED,
        ("oracle", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("position", pa.int64()),
        ("reason", pa.string()),  # why the row cannot be used
        ("note", pa.string()),  # what was found in a row that can
        ("raw", pa.string()),
        ("bucket", pa.int32()),
    ]
)


def inputs(data: DataConfig, task: TaskConfig) -> dict[str, list[storage.FileEntry]]:
    """The input files of each split, found and looked at: what can be known to be wrong before anything starts.

    Args:
        task: says whether there must be a column of options; without it, none is looked for.

    Raises:
        UserError: nothing matches, a file's format is unknown, or a column that the config names is not in a file.
    """
    found = {}
    for split in SPLITS:
        pattern = getattr(data, split)
        files = storage.find(pattern)
        if not files:
            raise UserError(f"data.{split}: no file at '{pattern}' (a file, a folder, a glob or a URI)")
        wanted = [data.columns.question, data.columns.context, data.columns.stratum]
        wanted += [data.columns.options] if tasks.needs_options(task) else []
        wanted += [data.columns.oracle] if split == "unlabeled" else [data.columns.answer]
        here = readers.columns(files[0].uri)
        for column in filter(None, wanted):
            if column not in here:
                raise UserError(
                    f"data.{split}: {files[0].uri} has no column '{column}'; it has {', '.join(here) or 'none'}. "
                    f"Map yours with data.columns.*"
                )
        for file in files:
            readers.format_of(file.uri)
        found[split] = files
    return found


def run(ctx: StageContext) -> StageResult:
    import ray
    from ray.data import DataContext

    files = inputs(ctx.config.data, ctx.config.task)
    found = [(split, file.uri) for split in SPLITS for file in files[split]]
    listing = [{"split": split, "uri": uri, "number": i} for i, (split, uri) in enumerate(found)]
    buckets = 1 + sum(file.size for split in SPLITS for file in files[split]) // _BUCKET_BYTES
    context = DataContext.get_current()
    context.max_hash_shuffle_aggregators = min(buckets, 64)
    folded = (
        ray.data.from_items(listing, override_num_blocks=len(listing))
        .map_batches(_parse, batch_size=1, fn_kwargs={"config": ctx.config, "buckets": buckets, "out": ctx.out})
        .groupby("bucket", num_partitions=buckets)
        .map_groups(_fold, batch_format="pyarrow", fn_kwargs={"config": ctx.config, "out": ctx.out})
    )
    counts: Counter[tuple[str, str]] = Counter()
    reasons: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    examples: list[str] = []
    for record in folded.iter_rows():
        counts[record["split"], record["fate"]] += record["rows"]
        if record["fate"] == "quarantined":
            reasons[f"{record['split']}: {_kind(record['reason'])}"] += record["rows"]
            examples.append(f"{record['example']}: {record['reason']}")
        if record["note"]:
            notes[f"{record['split']}: {record['note']}"] += record["rows"]
    return _result(ctx, _rows_read(ctx.out, len(listing)), counts, reasons, notes, sorted(examples)[:20])


def _rows_read(out: str, files: int) -> int:
    """Rows that the parsers read, counted before the shuffle, so that a loss on the way would show."""
    counted = [json.loads(storage.read_text(storage.join(out, _READ, f"{i:06d}.json"))) for i in range(files)]
    return sum(record["rows"] for record in counted)


def _result(
    ctx: StageContext,
    came_in: int,
    counts: Counter[tuple[str, str]],
    reasons: Counter[str],
    notes: Counter[str],
    examples: list[str],
) -> StageResult:
    for split in SPLITS:
        if not counts[split, "kept"]:
            shown = "".join(f"\n  {example}" for example in examples[:5])
            raise UserError(f"data.{split}: no usable row in '{getattr(ctx.config.data, split)}'{shown}")

    def total(fate: str) -> int:
        return sum(n for (_, f), n in counts.items() if f == fate)

    rows = Rows(
        came_in=came_in,
        out=sum(storage.count_rows(storage.join(ctx.out, split)) for split in SPLITS),
        quarantined=storage.count_rows(storage.join(ctx.out, "quarantine")),
        duplicates=total("duplicate"),
        leaks=total("leak"),
    )
    check_bad_fraction(ctx, rows.quarantined, rows.came_in, examples)
    metrics = {
        "splits": {s: {f: counts[s, f] for f in ("kept", "quarantined", "duplicate", "leak")} for s in SPLITS},
        "reasons": dict(reasons.most_common()),
        "notes": dict(notes.most_common()),
        "oracle_rows": storage.count_rows(storage.join(ctx.out, "oracle")),
    }
    kept = ", ".join(f"{counts[s, 'kept']:,} {s}" for s in ("labeled", "unlabeled", "test"))
    return StageResult(rows, metrics, kept)


def _kind(reason: str) -> str:
    """The reason without the value that differs from row to row."""
    return reason.split(":")[0] if reason.startswith("column '") else reason


def _parse(batch: dict[str, Any], config: RunConfig, buckets: int, out: str) -> Iterator[pa.Table]:
    """One input file to tables of `_PARSED`; how many rows it had goes into a file of its own."""
    split, uri = str(batch["split"][0]), str(batch["uri"][0])
    records: list[dict[str, Any]] = []
    rows = 0
    for position, raw in readers.read(uri):
        record = _record(raw, split, config) | {"split": split, "source": uri, "position": position}
        # Rows without an id need no partner: any bucket will do.
        record["bucket"] = (record["row_id"] if record["row_id"] is not None else position) % buckets
        records.append(record)
        rows += 1
        if len(records) == 4096:
            yield pa.Table.from_pylist(records, schema=_PARSED)
            records = []
    yield pa.Table.from_pylist(records, schema=_PARSED)
    count = {"uri": uri, "split": split, "rows": rows}
    storage.write_text(storage.join(out, _READ, f"{batch['number'][0]:06d}.json"), json.dumps(count))


def _record(raw: dict[str, Any] | readers.Broken, split: str, config: RunConfig) -> dict[str, Any]:
    if isinstance(raw, readers.Broken):
        return {"row_id": None, "reason": raw.reason, "raw": _printable(raw.raw)}
    task, columns, limit = (tasks.make(config.task), config.data.columns, config.limits.max_row_bytes)
    answer_column = None if split == "unlabeled" else columns.answer
    try:
        row = validate(raw, columns, task, answer_column=answer_column, max_bytes=limit)
    except BadRow as bad:
        text = json.dumps(raw, ensure_ascii=False, default=str)
        return {"row_id": None, "reason": str(bad), "raw": _printable(text)}
    record = {
        "row_id": row_id(row.question, row.options, row.context),
        "question": row.question,
        "options": row.options,
        "context": row.context,
        "stratum": str(raw[columns.stratum]) if columns.stratum and raw.get(columns.stratum) is not None else None,
        "answer": row.answer,
    }
    if split == "unlabeled" and columns.oracle:
        # A bad oracle costs the measurement of this row, not the row: the method never sees it.
        try:
            oracle = answer_text(raw.get(columns.oracle), columns.oracle, limit)
            record["oracle"] = task.gold(oracle, row) if oracle else None
            dropped = bool(oracle) and record["oracle"] is None
        except BadRow:
            dropped = True
        if dropped:
            record["note"] = "the oracle is no answer to the row (row kept, oracle dropped)"
    return record


def _printable(text: str) -> str:
    return text[:_RAW_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def _fold(group: pa.Table, config: RunConfig, out: str) -> pa.Table:
    """One bucket: decide the fate of every row, write what is kept and what is quarantined, return counts.

    The files are named by the bucket, so a retried task writes the same files again.
    """
    group = group.combine_chunks()
    bucket = group["bucket"][0].as_py()
    fate, reason = _fates(group, config.data.exclude_test_overlap)
    group = group.set_column(group.schema.get_field_index("reason"), "reason", pa.array(reason, pa.string()))
    raw = [text or _printable(json.dumps(row)) for text, row in _texts(group)]  # contradictions were good rows so far
    group = group.set_column(group.schema.get_field_index("raw"), "raw", pa.array(raw, pa.string()))
    group = group.append_column("stage", pa.array(["ingest"] * len(group), pa.string()))
    split = group["split"].to_numpy(zero_copy_only=False)

    def write(folder: str, chosen: np.ndarray[Any, Any], schema: pa.Schema) -> None:
        if chosen.any():
            table = group.filter(pa.array(chosen)).select(schema.names).cast(schema)
            table = table.sort_by("row_id") if folder != "quarantine" else table
            storage.write_table(storage.join(out, folder, f"part-{bucket:05d}.parquet"), table)

    kept = fate == "kept"
    write("labeled", kept & (split == "labeled"), LABELED)
    write("test", kept & (split == "test"), LABELED)
    write("unlabeled", kept & (split == "unlabeled"), UNLABELED)
    write("oracle", kept & np.asarray(group["oracle"].is_valid()), ORACLE)
    write("quarantine", fate == "quarantined", QUARANTINE)
    return _counts(group, fate)


def _texts(group: pa.Table) -> Iterator[tuple[str | None, dict[str, Any]]]:
    rows = group.select(["question", "options", "context", "answer"]).to_pylist()
    return zip(group["raw"].to_pylist(), rows, strict=True)


def _fates(group: pa.Table, exclude_test_overlap: bool) -> tuple[np.ndarray[Any, Any], list[str | None]]:
    """For each row kept | quarantined | duplicate | leak, and the reason where it is quarantined."""
    ids, splits = group["row_id"].to_pylist(), group["split"].to_pylist()
    sources, positions = group["source"].to_pylist(), group["position"].to_pylist()
    answers, reasons = group["answer"].to_pylist(), group["reason"].to_pylist()
    known: dict[tuple[int, str], set[str]] = {}  # the answers given to a row in a split
    for i, key in enumerate(ids):
        if reasons[i] is None:
            known.setdefault((key, splits[i]), set()).add(answers[i])
    fate = np.full(len(group), "kept", dtype=object)
    seen: dict[int, str] = {}  # row id -> the split that keeps it
    # A fixed order decides which copy is kept, whatever order the shuffle delivered.
    for i in sorted(range(len(group)), key=lambda i: (SPLITS.index(splits[i]), sources[i], positions[i])):
        if reasons[i] is not None:
            fate[i] = "quarantined"
        elif len(known[ids[i], splits[i]]) > 1:
            fate[i] = "quarantined"
            reasons[i] = f"equal rows with different answers: {', '.join(sorted(known[ids[i], splits[i]]))}"
        elif (ids[i], "test") in known and splits[i] != "test" and exclude_test_overlap:
            fate[i] = "leak"
        elif seen.get(ids[i]) == splits[i] or (seen.get(ids[i]) == "labeled" and splits[i] == "unlabeled"):
            fate[i] = "duplicate"  # of its own split, or of a row whose label is known
        else:
            seen[ids[i]] = splits[i]
    return fate, reasons


def _counts(group: pa.Table, fate: np.ndarray[Any, Any]) -> pa.Table:
    keys = zip(group["split"].to_pylist(), fate, group["reason"].to_pylist(), group["note"].to_pylist(), strict=True)
    places = [f"{s}:{p}" for s, p in zip(group["source"].to_pylist(), group["position"].to_pylist(), strict=True)]
    counted: Counter[tuple[Any, ...]] = Counter()
    first: dict[tuple[Any, ...], str] = {}
    for key, place in zip(keys, places, strict=True):
        counted[key] += 1
        first.setdefault(key, place)
    names = ("split", "fate", "reason", "note")
    records = [dict(zip(names, key, strict=True)) | {"rows": n, "example": first[key]} for key, n in counted.items()]
    schema = pa.schema([(name, pa.string()) for name in names] + [("rows", pa.int64()), ("example", pa.string())])
    return pa.Table.from_pylist(records, schema=schema)
