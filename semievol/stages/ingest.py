"""Ingest: labeled, unlabeled and test rows from files into validated, content-addressed Parquet; nothing is lost.

Each file is parsed by one task; rows meet by `row_id` in a hash shuffle, so that duplicates are folded and rows that
stand in the test set too are held back from training. Writes labeled/, unlabeled/, test/, oracle/ and quarantine/.

A later round reads only the unlabeled files that have arrived since; the rows of earlier rounds meet them by their ids
alone, and it writes unlabeled/, oracle/ and quarantine/.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa

from semievol.config import DataConfig, LimitsConfig, RunConfig
from semievol.data import readers, storage
from semievol.data.fold import PARSED, SPLITS, fold, printable
from semievol.data.row_checks import RowChecks
from semievol.data.tables import BadRow, cell_text, row_id, validate
from semievol.errors import UserError
from semievol.stages.base import Rows, Scope, Stage, StageContext, StageResult, check_bad_fraction
from semievol.tasks import Task

_BUCKET_BYTES = 64 << 20  # input bytes a shuffle bucket: one bucket is folded in the memory of one task
_WAITS_S = (1.0, 10.0)  # before a file in a store is read again
_READ = "_read"  # one small file for each input file


def inputs(
    data: DataConfig, task: Task, limits: LimitsConfig, *, may_be_gone: Sequence[str] = ()
) -> dict[str, list[storage.FileEntry]]:
    """The input files of each split, found and looked at: what can be known to be wrong before anything starts.

    Args:
        task: says which columns it needs beside the question and the answer.
        may_be_gone: splits of which no file needs to be there any more.

    Raises:
        UserError: nothing matches, a file's format is unknown, or a column that the config names is not in a file.
    """
    found = {}
    for split in SPLITS:
        pattern = getattr(data, split)
        found[split] = files = storage.find(pattern)
        if not files and split in may_be_gone:
            continue
        if not files:
            raise UserError(f"data.{split}: no file at '{pattern}' (a file, a folder, a glob or a URI)")
        wanted = [data.columns.question, data.columns.context, data.columns.stratum]
        wanted += [getattr(data.columns, key) for key in task.needs]
        wanted += [data.columns.oracle] if split == "unlabeled" else [data.columns.answer]
        try:
            for file in files:
                readers.format_of(file.uri)
            looked_at, here = _columns(files, limits)
        except UserError as error:
            raise UserError(f"data.{split}: {error}") from None
        if not here:
            raise UserError(f"data.{split}: {looked_at} has no columns: it is empty, or its first lines are no rows")
        for column in filter(None, wanted):
            if column not in here:
                raise UserError(
                    f"data.{split}: {looked_at} has no column '{column}'; it has {', '.join(here)}. "
                    f"Map yours with data.columns.*"
                )
    return found


def _columns(files: Sequence[storage.FileEntry], limits: LimitsConfig) -> tuple[str, list[str]]:
    """The first file, of those that can be read, and its columns."""
    *others, last = files if limits.bad_shards == "quarantine" else files[:1]
    for file in others:
        with suppress(UserError):
            return file.uri, readers.columns(file.uri)
    return last.uri, readers.columns(last.uri)


def run(ctx: StageContext) -> StageResult:
    import ray
    from ray.data import DataContext

    read, known = _sources(ctx)
    listing = [
        {"split": split, "uri": file.uri, "number": i, "known": i >= len(read)}
        for i, (split, file) in enumerate([*read, *known])
    ]
    buckets = 1 + sum(file.size for _, file in [*read, *known]) // _BUCKET_BYTES
    context = DataContext.get_current()
    context.max_hash_shuffle_aggregators = min(buckets, 64)
    folded = (
        ray.data.from_items(listing, override_num_blocks=len(listing))
        .map_batches(_parse, batch_size=1, fn_kwargs={"config": ctx.config, "buckets": buckets, "out": ctx.out})
        .groupby("bucket", num_partitions=buckets)
        .map_groups(fold, batch_format="pyarrow", fn_kwargs={"config": ctx.config, "out": ctx.out, "stage": ctx.name})
    )
    counts: Counter[tuple[str, str]] = Counter()
    reasons: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    examples: list[str] = []
    for record in folded.iter_rows():
        counts[record["split"], record["fate"]] += record["rows"]
        if record["fate"] == "quarantined":
            reasons[f"{record['split']}: {_kind(record['reason'])}"] += record["rows"]
            examples = sorted([*examples, f"{record['example']}: {record['reason']}"])[:20]
        if record["note"]:
            notes[f"{record['split']}: {record['note']}"] += record["rows"]
    return _result(ctx, _rows_read(ctx.out, len(read)), counts, reasons, notes, examples)


def _sources(ctx: StageContext) -> tuple[list[tuple[str, storage.FileEntry]], list[tuple[str, storage.FileEntry]]]:
    """The files to read, and the Parquet files of what earlier rounds have kept, which is known by its ids; by split."""
    if ctx.inputs:
        earlier = [(split, storage.join(uri, split)) for uri in ctx.inputs.values() for split in SPLITS]
        known = [(split, file) for split, uri in earlier for file in storage.find(uri)]
        return [("unlabeled", file) for file in ctx.files], known
    files = inputs(ctx.config.data, ctx.config.task, ctx.config.limits, may_be_gone=("unlabeled",) if ctx.files else ())
    files["unlabeled"] = list(ctx.files) or files["unlabeled"]
    return [(split, file) for split in SPLITS for file in files[split]], []


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
    splits = ("unlabeled",) if ctx.inputs else SPLITS
    for split in splits:
        if not counts[split, "kept"] and not ctx.inputs:  # files that arrive later may hold nothing new
            shown = "".join(f"\n  {example}" for example in examples[:5])
            raise UserError(f"data.{split}: no usable row in '{getattr(ctx.config.data, split)}'{shown}")

    def total(fate: str) -> int:
        return sum(n for (_, f), n in counts.items() if f == fate)

    rows = Rows(
        came_in=came_in,
        out=sum(storage.count_rows(storage.join(ctx.out, split)) for split in splits),
        quarantined=storage.count_rows(storage.join(ctx.out, "quarantine")),
        duplicates=total("duplicate"),
        leaks=total("leak"),
    )
    check_bad_fraction(ctx, rows.quarantined, rows.came_in, examples)
    metrics = {
        "splits": {s: {f: counts[s, f] for f in ("kept", "quarantined", "duplicate", "leak")} for s in splits},
        "reasons": dict(reasons.most_common(100)),
        "notes": dict(notes.most_common()),
        "oracle_rows": storage.count_rows(storage.join(ctx.out, "oracle")),
    }
    in_round = f", round {ctx.number}" if ctx.number else ""
    kept = ", ".join(f"{counts[s, 'kept']:,} {s}" for s in ("labeled", "unlabeled", "test") if s in splits)
    places = {f"quarantined rows{in_round}": "quarantine"} if rows.quarantined else {}
    return StageResult(rows, metrics, kept, places)


def _kind(reason: str) -> str:
    """The reason without the value that differs from row to row."""
    return reason.split(":")[0] if reason.startswith(("column '", "no JSON", "no CSV", "a value")) else reason


def _parse(batch: dict[str, Any], config: RunConfig, buckets: int, out: str) -> Iterator[pa.Table]:
    """One input file to tables of `PARSED`; how many rows it had goes into a file of its own."""
    split, uri = str(batch["split"][0]), str(batch["uri"][0])
    if batch["known"][0]:
        yield _known(uri, split, buckets)
        return
    records: list[dict[str, Any]] = []
    rows = 0
    for position, raw in _readable(uri, config):
        record = _record(raw, split, config) | {"split": split, "source": uri, "position": position, "known": False}
        # Rows without an id need no partner: any bucket will do.
        record["bucket"] = (record["row_id"] if record["row_id"] is not None else position) % buckets
        records.append(record)
        rows += 1
        if len(records) == 4096:
            yield pa.Table.from_pylist(records, schema=PARSED)
            records = []
    yield pa.Table.from_pylist(records, schema=PARSED)
    count = {"uri": uri, "split": split, "rows": rows}
    storage.write_text(storage.join(out, _READ, f"{batch['number'][0]:06d}.json"), json.dumps(count))


def _readable(uri: str, config: RunConfig) -> Iterator[tuple[int, dict[str, Any] | readers.Broken]]:
    """The rows of a file; where it cannot be read to its end, and that is to be no error, a last one that says so.

    A store that fails for a moment does not break a shard: reading goes on where it failed, until it fails there again
    and again.
    """
    wanted = [column for column in config.data.columns.model_dump().values() if column]
    waits_s = _WAITS_S if "://" in uri else ()
    given, failures = 0, 0
    while True:
        try:
            for position, raw in readers.read(uri, wanted):
                if position > given:
                    yield position, raw
                    given, failures = position, 0
            return
        except UserError as error:
            if failures < len(waits_s):
                time.sleep(waits_s[failures])
                failures += 1
                continue
            if config.limits.bad_shards == "stop":
                raise
            storage.sha256(uri)  # raises where it is the store that fails: such a shard is not broken
            yield given + 1, readers.Broken("the shard cannot be read to its end", f"after row {given}: {error}")
            return


def _known(uri: str, split: str, buckets: int) -> pa.Table:
    """The ids of one file of rows that an earlier round has kept."""
    ids = storage.read_table(uri, ["row_id"])["row_id"].to_numpy()
    columns = {
        "row_id": ids,
        "split": [split] * len(ids),
        "source": [uri] * len(ids),
        "position": np.arange(len(ids)),
        "bucket": ids % buckets,
        "known": [True] * len(ids),
    }
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(len(ids), field.type)
        for field in PARSED
    ]
    return pa.table(arrays, schema=PARSED)


def _record(raw: dict[str, Any] | readers.Broken, split: str, config: RunConfig) -> dict[str, Any]:
    if isinstance(raw, readers.Broken):
        return {"row_id": None, "reason": raw.reason, "raw": printable(raw.raw)}
    task, columns, limit = (config.task, config.data.columns, config.limits.max_row_bytes)
    answer_column = None if split == "unlabeled" else columns.answer
    try:
        row = validate(raw, columns, task, answer_column=answer_column, max_bytes=limit)
        stratum = cell_text(raw.get(columns.stratum), columns.stratum, limit) if columns.stratum else None
    except BadRow as bad:
        text = json.dumps(raw, ensure_ascii=False, default=str)
        return {"row_id": None, "reason": str(bad), "raw": printable(text)}
    record = {
        "row_id": row_id(row.question, row.options, row.context),
        "question": row.question,
        "options": row.options,
        "context": row.context,
        "stratum": stratum or None,
        "answer": row.answer,
    }
    if split == "unlabeled" and columns.oracle:
        # A bad oracle costs the measurement of this row, not the row: the method never sees it.
        try:
            oracle = cell_text(raw.get(columns.oracle), columns.oracle, limit)
            record["oracle"] = task.gold(oracle, row) if oracle else None
            dropped = bool(oracle) and record["oracle"] is None
        except BadRow:
            dropped = True
        if dropped:
            record["note"] = "the oracle is no answer to the row (row kept, oracle dropped)"
    return record


def _verify(checks: RowChecks) -> None:
    folders = {split: storage.join(checks.uri, split) for split in ("labeled", "unlabeled", "test")}
    checks.count("rows kept", list(folders.values()), checks.out)
    checks.count("rows quarantined", [storage.join(checks.uri, "quarantine")], checks.quarantined)
    for folder in folders.values():
        checks.ids(folder)
    checks.ids(storage.join(checks.uri, "oracle"), within=[folders["unlabeled"]])


STAGE = Stage(
    name="ingest",
    version=1,
    run=run,
    # What earlier rounds have kept, which new rows meet by their ids.
    inputs=lambda place: {f"round-{n}": ("ingest", n) for n in place.sources if n < place.number},
    verify=_verify,
    settings=("data.columns", "data.exclude_test_overlap", "task", "limits.max_row_bytes", "limits.bad_shards"),
    reads_files=True,
    scope=Scope.NEW_ROWS,
    figures=lambda metrics: {"data": metrics},
)
