"""Warm-up (in-weight propagation, paper section 3.1) and the final fine-tuning: both are SFT on rendered rows.

Each writes rows/ (what was trained on, as chat messages), and adapter/ and the merged model/ or, of a training at an
endpoint, model.json.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa

from semievol.config import TrainConfig
from semievol.data import storage
from semievol.data.tables import TRAINING, to_row
from semievol.engines.chat_template import ChatTemplate, load_tokenizer
from semievol.method import prompts
from semievol.runtime.rows import summarize
from semievol.stages.base import Rows, StageContext, StageResult, check_bad_fraction
from semievol.tasks import Task
from semievol.trainers.local import TrainSpec, train
from semievol.trainers.openai import fine_tune

_RENDERED = pa.schema([*TRAINING, ("cut", pa.bool_()), ("quarantine_reason", pa.string())])
_COLUMNS = ["row_id", "question", "options", "context", "answer"]


@dataclass(frozen=True)
class Source:
    """Rows to train on: a folder, whether only its selected rows count, and the solved examples in their prompts."""

    uri: str
    selected_only: bool = False
    context: str = "none"  # as warmup.context; other than none, the rows have neighbours among themselves
    k: int = 0


def run_warmup(ctx: StageContext) -> StageResult:
    """M_warm = SFT(M, D_l)."""
    config = ctx.config.warmup
    if config.context == "none":
        source = Source(storage.join(ctx.inputs["ingest"], "labeled"))
    else:
        source = Source(storage.join(ctx.inputs["index"], "rows"), context=config.context, k=config.k)
    return _run(ctx, [source], ctx.config.model.base, config)


def run_finetune(ctx: StageContext) -> StageResult:
    """M_evol = SFT on labeled and selected rows, from the base or the warm weights, or from the last evolved ones."""
    config = ctx.config.finetune
    sources = [Source(storage.join(ctx.inputs["select"], "rows"), selected_only=True)]
    if config.include_labeled:
        sources.append(Source(storage.join(ctx.inputs["ingest"], "labeled")))
    return _run(ctx, sources, ctx.weights(config.start_from), config)


def _run(ctx: StageContext, sources: list[Source], base: str, config: TrainConfig) -> StageResult:
    pool = ctx.config.resources.train
    at_endpoint = ctx.config.trainer.kind == "openai"
    rendered = storage.join(ctx.out, "rows")
    storage.delete(rendered)  # of an attempt that was cut off
    for source in sources:
        _render(ctx, source, rendered, config.max_length, None if at_endpoint else base)
    came_in = sum(map(_source_rows, sources))
    reasons: Counter[str] = Counter()
    usable = cut = 0
    for fit, were_cut, why in summarize(rendered, ["cut", "quarantine_reason"], _count):
        usable += fit
        cut += were_cut
        reasons.update(why)
    bad = sum(reasons.values())
    examples = [f"{n:,} rows: {reason}" for reason, n in reasons.most_common()]
    check_bad_fraction(ctx, bad, usable + bad, examples)
    spec = TrainSpec(
        rows=rendered, base=base, out=ctx.out, config=config, seed=ctx.config.seed, use_gpu=pool.num_gpus > 0
    )
    rows = Rows(came_in=came_in, out=usable, quarantined=bad)
    if at_endpoint:
        metrics = fine_tune(ctx.name, spec, ctx.config, ctx.emit)
        return StageResult(rows, metrics, f"{metrics['model']}")
    metrics = train(ctx.name, spec, pool, usable, ctx.emit) | {"cut_to_fit": cut}
    return StageResult(rows, metrics, f"loss {metrics['loss']:.3f} after {metrics['steps']} steps")


def _source_rows(source: Source) -> int:
    """Rows that have to come out of rendering, counted at their source."""
    if not source.selected_only:
        return storage.count_rows(source.uri)
    return sum(summarize(source.uri, ["selected"], _count_selected))


def _count_selected(block: pa.Table) -> int:
    return len(block.filter(block["selected"]))


def _render(ctx: StageContext, source: Source, out: str, max_length: int, base: str | None) -> None:
    """Rows to chat messages, in parallel. A prompt that does not fit `max_length` is cut by the rule of `prompts.shorter`.

    Args:
        base: the model whose tokens count; None cuts nothing.
    """
    import ray

    filesystem, path = storage.resolve(source.uri)
    more = ["selected"] if source.selected_only else [] if source.context == "none" else ["neighbor_ids"]
    rows = ray.data.read_parquet(path, filesystem=filesystem, columns=[*_COLUMNS, *more])
    out_filesystem, out_path = storage.resolve(out)
    rows.map_batches(
        _messages,
        batch_size=1024,
        batch_format="pyarrow",
        fn_kwargs={"source": source, "task": ctx.config.task, "model": base, "max_length": max_length},
    ).write_parquet(out_path, filesystem=out_filesystem)


def _messages(batch: pa.Table, source: Source, task: Task, model: str | None, max_length: int) -> pa.Table:
    template = _template(model) if model else None
    if source.selected_only:
        batch = batch.filter(batch["selected"])
    solved = {}
    if source.context != "none":
        solved = {record["row_id"]: to_row(record) for record in storage.read_table(source.uri, _COLUMNS).to_pylist()}
    rendered: list[dict[str, Any]] = []
    for record in batch.to_pylist():
        row, completion = to_row(record), prompts.completion(task, record["answer"])
        shown = [solved[i] for i in record["neighbor_ids"][: source.k]] if _shows_examples(source, record) else []
        for shorter, fewer in prompts.shorter(row, shown):
            prompt = prompts.messages(task, shorter, examples=fewer)
            tokens = template.exchange(prompt, completion) if template else {}
            fits = len(tokens.get("input_ids", ())) <= max_length
            if fits:
                break
        reason = None if fits else f"over max_length = {max_length} tokens of prompt and response"
        ids = {"row_id": record["row_id"], "cut": shorter is not row, "quarantine_reason": reason}
        rendered.append(ids | {"prompt": prompt, "completion": completion} | (tokens if fits else {}))
    return pa.Table.from_pylist(rendered, schema=_RENDERED)


@cache
def _template(model: str) -> ChatTemplate:
    """Loaded once in each process, for all batches that it renders."""
    return ChatTemplate(load_tokenizer(storage.local_copy(model) if "://" in model else model))


def _shows_examples(source: Source, record: dict[str, Any]) -> bool:
    """With `mixed` every other row, so that the model goes on answering without examples too."""
    return source.context == "knn" or (source.context == "mixed" and record["row_id"] % 2 == 0)


def _count(block: pa.Table) -> tuple[int, int, Counter[str]]:
    """Rows that can be used, rows that were cut, and rows that cannot be used by their reason."""
    reasons = Counter(block["quarantine_reason"].drop_null().to_pylist())
    return block["quarantine_reason"].null_count, len(block.filter(block["cut"])), reasons
