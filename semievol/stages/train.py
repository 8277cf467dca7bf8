"""Warm-up (in-weight propagation, paper section 3.1) and the final fine-tuning: both are SFT on rendered rows.

Each writes rows/ (what was trained on, as chat messages), adapter/ and the merged model/.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

from semievol import prompts, storage, tasks
from semievol.config import TaskConfig, TrainConfig
from semievol.runfolder import Rows, StageResult
from semievol.schema import TRAINING
from semievol.stages.context import StageContext, check_bad_fraction, summarize, to_row
from semievol.training import MODEL, TrainSpec, train

_RENDERED = pa.schema([*TRAINING, ("quarantine_reason", pa.string())])
_COLUMNS = ["row_id", "question", "options", "context", "answer"]


def run_warmup(ctx: StageContext) -> StageResult:
    """M_warm = SFT(M, D_l)."""
    sources = [(storage.join(ctx.inputs["ingest"], "labeled"), False)]
    return _run(ctx, sources, ctx.config.model.base, ctx.config.warmup)


def run_finetune(ctx: StageContext) -> StageResult:
    """M_evol = SFT on labeled and selected rows, from the base or from the warm weights."""
    config = ctx.config.finetune
    sources = [(storage.join(ctx.inputs["select"], "rows"), True)]
    if config.include_labeled:
        sources.append((storage.join(ctx.inputs["ingest"], "labeled"), False))
    warm = storage.join(ctx.inputs["warmup"], MODEL)
    return _run(ctx, sources, ctx.config.model.base if config.start_from == "base" else warm, config)


def _run(ctx: StageContext, sources: list[tuple[str, bool]], base: str, config: TrainConfig) -> StageResult:
    from semievol import cluster

    pool = ctx.config.resources.train
    cluster.require("train", pool.workers, pool.num_cpus, pool.num_gpus, count_key="workers")
    rendered = storage.join(ctx.out, "rows")
    storage.delete(rendered)  # of an attempt that was cut off
    for source, selected_only in sources:
        _render(ctx, source, rendered, selected_only, config.max_length, base)
    came_in = sum(_source_rows(source, selected_only) for source, selected_only in sources)
    reasons: Counter[str] = Counter()
    for block in summarize(rendered, ["quarantine_reason"], _count):
        for record in block.to_pylist():
            reasons[record["reason"]] += record["rows"]
    usable = reasons.pop("", 0)
    bad = sum(reasons.values())
    examples = [f"{n:,} rows: {reason}" for reason, n in reasons.most_common()]
    check_bad_fraction(ctx, bad, usable + bad, examples)
    spec = TrainSpec(
        rows=rendered, base=base, out=ctx.out, config=config, seed=ctx.config.seed, use_gpu=pool.num_gpus > 0
    )
    metrics = train(ctx.name, spec, pool, usable, ctx.emit)
    rows = Rows(came_in=came_in, out=usable, quarantined=bad)
    return StageResult(rows, metrics, f"loss {metrics['loss']:.3f} after {metrics['steps']} steps")


def _source_rows(source: str, selected_only: bool) -> int:
    """Rows that have to come out of rendering, counted at their source."""
    if not selected_only:
        return storage.count_rows(source)
    return sum(int(block["selected"][0].as_py()) for block in summarize(source, ["selected"], _count_selected))


def _count_selected(block: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    return pa.table({"selected": [pc.sum(block["selected"]).as_py() or 0]})


def _render(ctx: StageContext, source: str, out: str, selected_only: bool, max_length: int, base: str) -> None:
    """Rows to chat messages, in parallel; one that does not fit `max_length` is marked instead of cut."""
    import ray

    filesystem, path = storage.resolve(source)
    columns = [*_COLUMNS, "selected"] if selected_only else _COLUMNS
    rows = ray.data.read_parquet(path, filesystem=filesystem, columns=columns)
    out_filesystem, out_path = storage.resolve(out)
    rows.map_batches(
        _messages,
        batch_size=4096,
        batch_format="pyarrow",
        fn_kwargs={"task": ctx.config.task, "model": base, "max_length": max_length},
    ).write_parquet(out_path, filesystem=out_filesystem)


def _messages(batch: pa.Table, task: TaskConfig, model: str, max_length: int) -> pa.Table:
    from transformers import AutoTokenizer

    path = storage.local_copy(model) if "://" in model else model
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if "selected" in batch.column_names:
        batch = batch.filter(batch["selected"])
    kind = tasks.make(task)
    records: list[dict[str, Any]] = []
    for record in batch.to_pylist():
        row = to_row(record)
        prompt = prompts.messages(kind, row)
        completion = prompts.completion(kind, record["answer"])
        length = len(tokenizer.apply_chat_template([*prompt, *completion], return_dict=False))
        reason = f"over max_length = {max_length} tokens of prompt and response" if length > max_length else None
        ids = {"row_id": record["row_id"], "quarantine_reason": reason}
        records.append(ids | {"prompt": prompt, "completion": completion})
    return pa.Table.from_pylist(records, schema=_RENDERED)


def _count(block: pa.Table) -> pa.Table:
    counts = Counter(reason or "" for reason in block["quarantine_reason"].to_pylist())
    return pa.table(
        {"reason": pa.array(list(counts), pa.string()), "rows": pa.array(list(counts.values()), pa.int64())}
    )
