"""Ingest: labeled, unlabeled and test rows from files into validated, content-addressed Parquet; nothing is lost.

One task parses each file. A hash shuffle by `row_id` groups equal rows, so that duplicates are merged and rows that
are also in the test set are kept out of training. Writes labeled/, unlabeled/, test/, validation/, oracle/ and quarantine/.
A later round reads only the unlabeled files that have arrived since; it compares them with earlier rows by id only.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from semievol.config import RunConfig
from semievol.data import carve, chats, labels, readers, shards, storage
from semievol.data.fold import PARSED, SPLITS, fold, kind, known_rows, printable
from semievol.data.inputs import inputs, wanted
from semievol.data.row_checks import RowChecks
from semievol.data.tables import BadRow, cell_text, text_cleaner, to_record, validate
from semievol.errors import UserError
from semievol.runtime.rows import summarize
from semievol.stages.base import LABELS, Rows, Scope, Stage, StageContext, StageResult

_BUCKET_BYTES = 64 << 20  # input bytes per shuffle bucket; one task folds one bucket in memory
_WAITS_S = (1.0, 10.0)  # before a file in a store is read again
Source = tuple[str, storage.FileEntry]  # a split and a file of it


def run(ctx: StageContext) -> StageResult:
    read, known = _sources(ctx)
    counts: Counter[tuple[str, str]] = Counter()
    reasons: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    examples: list[str] = []
    for record in _folded(ctx, read, known):
        counts[record["split"], record["fate"]] += record["rows"]
        if record["fate"] == "quarantined":
            reasons[f"{record['split']}: {kind(record['reason'])}"] += record["rows"]
            examples = sorted([*examples, f"{record['example']}: {record['reason']}"])[:20]
        if record["note"]:
            notes[f"{record['split']}: {record['note']}"] += record["rows"]
    data = ctx.config.data
    splits = ("unlabeled",) if ctx.inputs else tuple(s for s in SPLITS if getattr(data, s) is not None)
    for split in splits:  # files of later rounds may be old news
        if not (ctx.inputs or split in data.carved or counts[split, "kept"]):
            shown = "".join(f"\n  {example}" for example in examples[:5])
            raise UserError(f"data.{split}: no usable row in '{getattr(data, split)}'{shown}")
    if data.carved and not ctx.inputs:
        carved, remarks = _carve(ctx)
        counts.update({(split, "kept"): n - counts[split, "kept"] for split, n in carved.items()})
        notes.update(remarks)
    read_of = [json.loads(storage.read_text(_count_file(ctx.out, i))) for i in range(len(read))]
    for each in read_of:
        notes.update(f"{each['split']}: a file {note}" for note in each["notes"])
    rows = Rows(
        came_in=sum(each["rows"] for each in read_of),
        out=sum(storage.count_rows(storage.join(ctx.out, split)) for split in splits),
        quarantined=storage.count_rows(storage.join(ctx.out, "quarantine")),
        duplicates=sum(counts[split, "duplicate"] for split in splits),
        leaks=sum(counts[split, "leak"] for split in splits),
    )
    ctx.check_bad_fraction(rows.quarantined, rows.came_in, examples)
    counted = _labels(ctx, notes)
    metrics = {
        "labels": dict(counted.most_common()),  # of the labeled rows, where the task has labels
        "splits": {s: {f: counts[s, f] for f in ("kept", "quarantined", "duplicate", "leak")} for s in splits},
        "reasons": dict(reasons.most_common(100)),
        "notes": dict(notes.most_common()),
        "oracle_rows": storage.count_rows(storage.join(ctx.out, "oracle")),
    }
    in_round = f", round {ctx.number}" if ctx.number else ""
    kept = ", ".join(
        f"{counts[s, 'kept']:,} {s}" for s in ("labeled", "unlabeled", "test", "validation") if s in splits
    )
    kept += f", {len(counted):,} labels" if counted else ""
    places = {f"quarantined rows{in_round}": "quarantine"} if rows.quarantined else {}
    return StageResult(rows, metrics, kept, places)


def _labels(ctx: StageContext, notes: Counter[str]) -> Counter[str]:
    """Count the labels of the labeled rows, write them for the other stages, and add to the notes what is odd about them.

    A later round, whose only rows are unlabeled, has the labels of the first one.
    """
    task, written = ctx.config.task, storage.join(ctx.out, LABELS)
    found: dict[str, Counter[str]] = {"labeled": Counter(), "test": Counter()}
    if not task.names_labels:
        return found["labeled"]
    if ctx.inputs:
        earlier = next(iter(ctx.inputs.values()))
        storage.write_text(written, storage.read_text(storage.join(earlier, LABELS)))
        return found["labeled"]
    for split, counts in found.items():
        for part in summarize(storage.join(ctx.out, split), ["answer"], labels.count, task=task):
            counts.update(part)
            if task.learns and len(counts) > labels.MOST:
                break  # no label set: `check` says so
    if task.learns:
        labels.check(task, found["labeled"], storage.count_rows(storage.join(ctx.out, "labeled")))
    task = task.learned(found["labeled"])
    notes.update(labels.notes(task, found["labeled"], found["test"]))
    storage.write_text(written, json.dumps(found["labeled"], ensure_ascii=False))
    return labels.merged(task, found["labeled"])


def _folded(ctx: StageContext, read: Sequence[Source], known: Sequence[Source]) -> Iterator[dict[str, Any]]:
    """Parse, fold and write the rows of files, and yield counts of them by split, fate, reason and note."""
    import ray
    from ray.data import DataContext

    files = [*read, *known]
    shared = _shared(read, ctx.config)
    listing = [
        {
            "split": split,
            "uri": file.uri,
            "number": i,
            "known": i >= len(read),
            "shared": shared.get((split, file.uri), ""),
        }
        for i, (split, file) in enumerate(files)
    ]
    buckets = 1 + sum(file.size for _, file in files) // _BUCKET_BYTES
    DataContext.get_current().max_hash_shuffle_aggregators = min(buckets, 64)
    folded = (
        ray.data.from_items(listing, override_num_blocks=len(listing))
        .map_batches(_parse, batch_size=1, fn_kwargs={"config": ctx.config, "buckets": buckets, "out": ctx.out})
        .groupby("bucket", num_partitions=buckets)
        .map_groups(fold, batch_format="pyarrow", fn_kwargs={"config": ctx.config, "out": ctx.out, "stage": ctx.name})
    )
    yield from folded.iter_rows()


def _shared(read: Sequence[Source], config: RunConfig) -> dict[tuple[str, str], str]:
    """Return as JSON what each file takes from the other files of its split."""
    found: dict[tuple[str, str], str] = {}
    for split in SPLITS:
        looked_at = shards.look_at([file for name, file in read if name == split], wanted(config))
        found |= {(split, shard.uri): json.dumps(asdict(shard.shared)) for shard in looked_at}
    return found


def _carve(ctx: StageContext) -> tuple[dict[str, int], dict[str, int]]:
    """Hold back shares of the labeled rows, in a task on a node: the driver reads no rows."""
    import ray

    move = ray.remote(carve.write).remote(ctx.out, ctx.config.data.carved, ctx.config.task)
    return ray.get(move)


def _sources(ctx: StageContext) -> tuple[list[Source], list[Source]]:
    """Return the files to read, and the Parquet files that earlier rounds wrote, for comparison by row id."""
    if ctx.inputs:
        earlier = [(split, storage.join(uri, split)) for uri in ctx.inputs.values() for split in SPLITS]
        known = [(split, file) for split, uri in earlier for file in storage.find(uri)]
        return [("unlabeled", file) for file in ctx.files], known
    for split in ctx.config.data.carved:
        storage.delete(storage.join(ctx.out, split))  # of an earlier attempt, which may have carved already
    files = inputs(ctx.config, begun=bool(ctx.files))
    files["unlabeled"] = list(ctx.files) or files["unlabeled"]
    return [(split, file) for split in SPLITS for file in files.get(split, ())], []


def _count_file(out: str, number: int) -> str:
    """Return the URI of a file's row count before the shuffle; a later comparison reveals lost rows."""
    return storage.join(out, "_read", f"{number:06d}.json")


def _parse(batch: dict[str, Any], config: RunConfig, buckets: int, out: str) -> Iterator[pa.Table]:
    """Yield the rows of an input file as tables of `PARSED`, and write their number to a separate file."""
    split, uri = str(batch["split"][0]), str(batch["uri"][0])
    if batch["known"][0]:
        yield known_rows(uri, split, buckets)
        return
    records: list[dict[str, Any]] = []
    rows = 0
    shared = readers.Shared(**json.loads(str(batch["shared"][0]))) if "shared" in batch else None
    remarks = [shards.no_header(shared)] if shared and shared.header else []
    for record in rows_of(uri, split, config, shared, remarks):
        # Rows without an id need no partner: any bucket will do.
        record["bucket"] = (record["row_id"] if record["row_id"] is not None else record["position"]) % buckets
        records.append(record)
        rows += 1
        if len(records) == 4096:
            yield pa.Table.from_pylist(records, schema=PARSED)
            records = []
    yield pa.Table.from_pylist(records, schema=PARSED)
    count = {"uri": uri, "split": split, "rows": rows, "notes": remarks}
    storage.write_text(_count_file(out, batch["number"][0]), json.dumps(count))


def rows_of(
    uri: str,
    split: str,
    config: RunConfig,
    shared: readers.Shared | None = None,
    notes: list[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of an input file as records of `PARSED`; those that cannot be used have a reason."""
    for position, raw in _readable(uri, config, shared, notes):
        yield _record(raw, split, config) | {"split": split, "source": uri, "position": position, "known": False}


def _readable(
    uri: str, config: RunConfig, shared: readers.Shared | None = None, notes: list[str] | None = None
) -> Iterator[tuple[int, dict[str, Any] | readers.Broken]]:
    """Yield the rows of a file. With `bad_shards: quarantine`, an unreadable rest is yielded as one last `Broken`.

    A brief failure of the store does not break a shard: reading resumes where it failed, with two retries per row.
    """
    names, position = wanted(config), 0
    waits_s = _WAITS_S if "://" in uri else ()
    given, failures = 0, 0
    while True:
        try:
            for number, (position, raw) in enumerate(readers.read(uri, names, shared, notes), start=1):
                if number > given:
                    yield position, raw
                    given, failures = number, 0
            return
        except UserError as error:
            if failures < len(waits_s):
                time.sleep(waits_s[failures])
                failures += 1
                continue
            if config.limits.bad_shards == "stop":
                raise
            storage.sha256(uri)  # raises if the store fails: then the shard is not broken
            yield position + 1, readers.Broken("the shard cannot be read to its end", f"after row {given}: {error}")
            return


def _record(raw: dict[str, Any] | readers.Broken, split: str, config: RunConfig) -> dict[str, Any]:
    if isinstance(raw, readers.Broken):
        return {"row_id": None, "reason": raw.reason, "raw": printable(raw.raw)}
    task, columns, limit = config.task, config.data.columns, config.limits.max_row_bytes
    answer_column = None if split == "unlabeled" else columns.answer
    notes: list[str] = []
    try:
        more = config.prompt.columns
        row = validate(raw, columns, task, answer_column=answer_column, max_bytes=limit, fields=more, notes=notes)
        stratum = cell_text(raw, columns.stratum, limit)
    except BadRow as bad:
        text = json.dumps(raw, ensure_ascii=False, default=str)
        return {"row_id": None, "reason": str(bad), "raw": printable(text)}
    record = to_record(row) | {"stratum": stratum or None}
    if split == "unlabeled" and columns.oracle:
        # Keep a row whose oracle is bad, but do not measure it: the method never sees oracles.
        try:
            if task.conversational:
                oracle = chats.oracle(raw, columns, text_cleaner(limit))
            else:
                oracle = cell_text(raw, columns.oracle, limit)
            record["oracle"] = task.gold(oracle, row) if oracle else None
            dropped = bool(oracle) and record["oracle"] is None
        except (BadRow, chats.NoChat):
            dropped = True
        if dropped:
            notes.append("the oracle is not an answer to the row (row kept, oracle dropped)")
    return record | {"note": "; ".join(notes) or None}


def _verify(checks: RowChecks) -> None:
    folders = [storage.join(checks.uri, split) for split in SPLITS]
    checks.count("rows kept", folders, checks.out)
    checks.count("rows quarantined", [storage.join(checks.uri, "quarantine")], checks.quarantined)
    for folder in folders:
        checks.ids(folder)
    checks.ids(storage.join(checks.uri, "oracle"), within=[storage.join(checks.uri, "unlabeled")])


STAGE = Stage(
    name="ingest",
    version=2,
    run=run,
    # The rows of earlier rounds, to find duplicates by row id.
    inputs=lambda place: {f"round-{n}": ("ingest", n) for n in place.sources if n < place.number},
    verify=_verify,
    settings=(
        "data.columns",
        "prompt.columns",
        "data.exclude_test_overlap",
        "data.carved",
        "task.cell_settings",
        "limits.max_row_bytes",
        "limits.bad_shards",
    ),
    reads_files=True,
    scope=Scope.NEW_ROWS,
    figures=lambda metrics: {"data": metrics},
)
