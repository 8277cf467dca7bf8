"""Select (adaptive selection, paper section 3.3): keep the pseudo-labels below the theta-quantile of the entropy.

Constant memory on the driver: histograms stream in, and the exact quantile comes out (`semievol.selection`). Writes
rows/: every pseudo-labeled row with `selected` and, where it is not, why.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa

from semievol import selection, storage
from semievol.config import SelectConfig
from semievol.errors import UserError
from semievol.runfolder import Rows, StageResult
from semievol.schema import SELECTED
from semievol.selection import Among
from semievol.stages.context import StageContext, summarize

_DECIDING = ["row_id", "answer", "entropy", "agreement"]


def run(ctx: StageContext) -> StageResult:
    config, source = ctx.config.select, storage.join(ctx.inputs["label"], "rows")
    answered = sum(_count_by_answer(source, Among()).values())
    if not answered:
        raise UserError("select: no row has a pseudo-label; see quarantine_reason in the rows of the label stage")
    # The quantile is among the rows that pass the floor: a model that is sure of itself would otherwise fill it with
    # low entropies of answers that the other collaborators contradict.
    floor = Among(min_agreement=config.min_agreement)
    eligible = sum(_count_by_answer(source, floor).values()) if config.min_agreement else answered
    if not eligible:
        raise UserError(
            f"select: no pseudo-label has an agreement of {config.min_agreement}; lower select.min_agreement"
        )
    threshold = _key_of_rank(source, floor, selection.quantile_rank(eligible, config.theta))
    passing = replace(floor, upto=threshold)
    caps = _caps(source, passing, config)
    out = storage.join(ctx.out, "rows")
    storage.delete(out)  # of an attempt that was cut off
    _write(source, out, passing, caps)

    selected: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for block in summarize(out, ["answer", "rejected_because"], _count_decisions):
        for record in block.to_pylist():
            target, name = (rejected, record["reason"]) if record["reason"] else (selected, record["answer"])
            target[name] += record["rows"]
    kept = sum(selected.values())
    metrics = {
        "selected": kept,
        "selected_by_answer": dict(sorted(selected.items())),
        "rejected": dict(rejected),
        "entropy_threshold": round(selection.entropy_of(threshold), 6),
    }
    rows = Rows(came_in=answered, out=kept + sum(rejected.values()))
    return StageResult(rows, metrics, f"{kept:,} selected, entropy <= {metrics['entropy_threshold']:.4f}")


def _caps(source: str, passing: Among, config: SelectConfig) -> dict[str, int]:
    """For each answer with more passing rows than `max_per_answer`, the key up to which they are kept."""
    cap = config.max_per_answer
    if cap is None:
        return {}
    counts = sorted(_count_by_answer(source, passing).items())
    return {answer: _key_of_rank(source, passing.of(answer), cap) for answer, n in counts if n > cap}


def _key_of_rank(source: str, among: Among, rank: int) -> int:
    """The exact key of a rank, by one streaming pass for each 16 bits of it."""
    search = selection.RankSearch(rank)
    for level in range(selection.LEVELS):
        counts = np.zeros(1 << 16, dtype=np.int64)
        arguments = {"among": among, "prefix": search.prefix, "level": level}
        for block in summarize(source, _DECIDING, _histogram, **arguments):
            np.add.at(counts, block["digit"].to_numpy(), block["rows"].to_numpy())
        search.refine(counts)
    return search.key


def _histogram(block: pa.Table, among: Among, prefix: int, level: int) -> pa.Table:
    keys, agreement, answers = _deciding(block)
    keys = keys[among.mask(keys, agreement, answers)]
    counts = selection.histogram(keys, prefix=prefix, level=level)
    digits = np.flatnonzero(counts)  # most of the 65,536 are empty
    return pa.table({"digit": digits, "rows": counts[digits]})


def _count_by_answer(source: str, among: Among) -> Counter[str]:
    counts: Counter[str] = Counter()
    for block in summarize(source, _DECIDING, _count_block, among=among):
        counts.update(dict(zip(block["answer"].to_pylist(), block["rows"].to_pylist(), strict=True)))
    return counts


def _count_block(block: pa.Table, among: Among) -> pa.Table:
    keys, agreement, answers = _deciding(block)
    counts = Counter(answers[among.mask(keys, agreement, answers)])
    return pa.table({"answer": pa.array(list(counts), pa.string()), "rows": pa.array(counts.values(), pa.int64())})


def _write(source: str, out: str, passing: Among, caps: dict[str, int]) -> None:
    import ray

    filesystem, path = storage.resolve(source)
    out_filesystem, out_path = storage.resolve(out)
    rows = ray.data.read_parquet(path, filesystem=filesystem)
    decided = rows.map_batches(_decide, batch_format="pyarrow", fn_kwargs={"passing": passing, "caps": caps})
    decided.write_parquet(out_path, filesystem=out_filesystem)


def _decide(batch: pa.Table, passing: Among, caps: dict[str, int]) -> pa.Table:
    batch = batch.filter(batch["answer"].is_valid())  # the rest is in quarantine since the label stage
    reasons = selection.rejections(*_deciding(batch), passing=passing, caps=caps)
    rejected = pa.array(reasons, pa.string())
    batch = batch.append_column("selected", rejected.is_null()).append_column("rejected_because", rejected)
    return batch.select(SELECTED.names).cast(SELECTED)


def _count_decisions(block: pa.Table) -> pa.Table:
    counts = Counter(zip(block["answer"].to_pylist(), block["rejected_because"].to_pylist(), strict=True))
    records = [{"answer": answer, "reason": reason, "rows": n} for (answer, reason), n in counts.items()]
    schema = pa.schema([("answer", pa.string()), ("reason", pa.string()), ("rows", pa.int64())])
    return pa.Table.from_pylist(records, schema=schema)


def _deciding(block: pa.Table) -> tuple[selection.Keys, selection.Floats, selection.Strings]:
    """Order keys, agreements and answers of the rows that have an answer."""
    block = block.filter(block["answer"].is_valid())
    keys = selection.order_keys(block["entropy"].to_numpy(), block["row_id"].to_numpy())
    return keys, block["agreement"].to_numpy(), block["answer"].to_numpy()
