"""Select (adaptive selection, paper section 3.3): keep the pseudo-labels below the theta-quantile of the entropy.

Constant memory on the driver: histograms stream in, and the exact quantile comes out (`semievol.method.selection`). Writes
rows/: every pseudo-labeled row with `selected` and, where it is not, why. With select.ceiling the oracle's answers stand
in for the pseudo-labels, which shows what perfect ones would give.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol.config import SelectConfig
from semievol.data import storage
from semievol.data.oracle import true_answers
from semievol.data.row_checks import RowChecks
from semievol.data.tables import SELECTED, fill
from semievol.errors import UserError
from semievol.method import selection
from semievol.method.selection import Bounds, Candidates
from semievol.runtime.rows import map_rows, summarize
from semievol.stages.base import Key, Place, Rows, Stage, StageContext, StageResult

Integers = npt.NDArray[np.int64]
_NO_TRUTH = "no true answer is known"
_PLACES = {"pseudo-labels": "rows"}
_DECIDING = ["row_id", "answer", "agreement", "stratum", "nll", "token_entropy", "vote_entropy"]


def run(ctx: StageContext) -> StageResult:
    if ctx.config.select.ceiling:
        return _run_ceiling(ctx)
    config, source = ctx.config.select, ctx.input("label")
    # The quantile is among the rows that pass the floor: a model that is sure of itself would otherwise fill it with
    # low entropies of answers that the other collaborators contradict.
    bounds = Bounds(config.per, config.min_agreement, config.sample, config.keep_unanimous)
    answered, measured, eligible = _count(source, config, bounds, config.per)
    if not answered:
        raise UserError("select: no row has a pseudo-label; see quarantine_reason in the rows of the label stage")
    if answered - measured > ctx.config.limits.max_bad_fraction * answered:
        raise UserError(
            f"select.confidence: {answered - measured:,} of {answered:,} pseudo-labels have no {config.confidence}, because "
            f"the engine gave no log-probabilities for it. nll needs those of the chosen tokens only, vote_entropy none"
        )
    ranks = {group: selection.quantile_rank(rows, config.theta) for group, rows in eligible.items()}
    bounds = replace(bounds, upto=_keys_of_ranks(source, config, bounds, config.per, ranks))
    map_rows(source, ctx.rows, _decide, config=config, bounds=bounds, caps=_caps(source, config, bounds))

    selected: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    closed = ctx.config.task.closed  # an open answer set has as many answers as rows
    for kept_of, turned_down in summarize(ctx.rows, ["answer", "rejected_because"], _count_decisions, by_answer=closed):
        selected.update(kept_of)
        rejected.update(turned_down)
    kept = sum(selected.values())
    if not kept:
        raise UserError(
            f"select: no pseudo-label is in a sample of {config.sample:g} with an agreement of at least "
            f"{config.min_agreement:g}; change select.sample or select.min_agreement"
        )
    highest = max((selection.entropy_of(key) for key in (bounds.upto or {}).values()), default=0.0)
    metrics = {
        "selected": kept,
        "selected_by_answer": dict(selected.most_common()) if closed else {},
        "rejected": dict(rejected),
        "confidence": config.confidence,
        "entropy_threshold": round(highest, 6),  # the highest of all groups
    }
    rows = Rows(came_in=answered, out=kept + sum(rejected.values()))
    return StageResult(rows, metrics, f"{kept:,} selected, {config.confidence} <= {highest:.4f}", _PLACES)


def _run_ceiling(ctx: StageContext) -> StageResult:
    """Select every row whose true answer is known, with that answer: no pseudo-label takes part."""
    oracle = ctx.input("ingest", "oracle")
    source = ctx.input("retrieve") if "retrieve" in ctx.inputs else ctx.input("ingest", "unlabeled")
    known = storage.count_rows(oracle)
    if not known:
        column = ctx.config.data.columns.oracle
        raise UserError(f"select.ceiling: no unlabeled row has a true answer in data.columns.oracle = '{column}'")
    map_rows(source, ctx.rows, _answer_truly, oracle=oracle)
    rows = Rows(came_in=storage.count_rows(source), out=storage.count_rows(ctx.rows))
    metrics = {"selected": known, "rejected": {_NO_TRUTH: rows.came_in - known}, "ceiling": True}
    return StageResult(rows, metrics, f"{known:,} with their true answers: a ceiling, not a result", _PLACES)


def _answer_truly(batch: pa.Table, oracle: str) -> pa.Table:
    truths = true_answers(oracle, batch["row_id"].to_numpy())
    reasons = [_NO_TRUTH if truth is None else None for truth in truths]
    columns = {name: batch[name] for name in batch.column_names if name in SELECTED.names}
    columns |= {"answer": pa.array(truths, pa.string()), "rejected_because": pa.array(reasons, pa.string())}
    columns |= {"selected": pa.array([truth is not None for truth in truths], pa.bool_())}
    return fill(columns, SELECTED)


def _caps(source: str, config: SelectConfig, bounds: Bounds) -> dict[str, int]:
    """Return for each answer with more passing rows than `max_per_answer` the key up to which they are kept."""
    cap = config.max_per_answer
    if cap is None:
        return {}
    _, _, passing = _count(source, config, bounds, "answer")
    over = {answer: cap for answer, rows in passing.items() if rows > cap}
    return _keys_of_ranks(source, config, bounds, "answer", over)


def _keys_of_ranks(
    source: str, config: SelectConfig, bounds: Bounds, per: str, ranks: dict[str, int]
) -> dict[str, int]:
    """Return the exact key of a rank in each group, by one streaming pass over all groups for each 16 bits of it."""
    found = {group: (0, rank) for group, rank in ranks.items() if rank}
    for level in range(selection.LEVELS if found else 0):
        counts = {group: np.zeros(1 << 16, dtype=np.int64) for group in found}
        prefixes = {group: prefix for group, (prefix, _) in found.items()}
        arguments = {"config": config, "bounds": bounds, "per": per, "prefixes": prefixes, "level": level}
        for part in summarize(source, _DECIDING, _histograms, **arguments):
            for group, (digits, rows) in part.items():
                counts[group][digits] += rows
        found = {group: selection.descend(*at, counts[group]) for group, at in found.items()}
    return {group: key for group, (key, _) in found.items()}


def _histograms(
    block: pa.Table, config: SelectConfig, bounds: Bounds, per: str, prefixes: dict[str, int], level: int
) -> dict[str, tuple[Integers, Integers]]:
    """Return for each group the digits that occur (most of the 65,536 do not), and how many rows have them."""
    rows = _candidates(block, config)
    groups, mask = rows.groups(per), bounds.mask(rows)
    found = {}
    for group, prefix in prefixes.items():
        counts = selection.histogram(rows.keys[mask & (groups == group)], prefix=prefix, level=level)
        digits = np.flatnonzero(counts)
        found[group] = (digits, counts[digits])
    return found


def _count(source: str, config: SelectConfig, bounds: Bounds, per: str) -> tuple[int, int, Counter[str]]:
    """Count the rows with a pseudo-label, those that have the measure that selects, and by group those within bounds."""
    answered = measured = 0
    groups: Counter[str] = Counter()
    for rows, of_them, within in summarize(source, _DECIDING, _count_block, config=config, bounds=bounds, per=per):
        answered += rows
        measured += of_them
        groups.update(within)
    return answered, measured, groups


def _count_block(block: pa.Table, config: SelectConfig, bounds: Bounds, per: str) -> tuple[int, int, Counter[str]]:
    rows = _candidates(block, config)
    return len(rows.ids), int(rows.measured.sum()), Counter(rows.groups(per)[bounds.mask(rows)])


def _decide(batch: pa.Table, config: SelectConfig, bounds: Bounds, caps: dict[str, int]) -> pa.Table:
    batch = batch.filter(batch["answer"].is_valid())  # the rest is in quarantine since the label stage
    rejected = pa.array(selection.rejections(_candidates(batch, config), bounds, caps), pa.string())
    batch = batch.append_column("selected", rejected.is_null()).append_column("rejected_because", rejected)
    return batch.select(SELECTED.names).cast(SELECTED)


def _candidates(block: pa.Table, config: SelectConfig) -> Candidates:
    """Return the rows that have an answer."""
    block = block.filter(block["answer"].is_valid())
    ids = block["row_id"].to_numpy()
    return Candidates(
        keys=selection.order_keys(block[config.confidence].to_numpy(), ids),
        measured=block[config.confidence].is_valid().to_numpy(),
        ids=ids,
        agreement=block["agreement"].to_numpy(),
        answers=block["answer"].to_numpy(),
        strata=block["stratum"].to_numpy(),
    )


def _count_decisions(block: pa.Table, by_answer: bool) -> tuple[Counter[str], Counter[str]]:
    """Selected rows by answer, all as one where it is not asked for, and the others by reason."""
    answers = block.filter(block["rejected_because"].is_null())["answer"].to_pylist()
    selected = Counter(answers if by_answer else [""] * len(answers))
    return selected, Counter(block["rejected_because"].drop_null().to_pylist())


def _inputs(place: Place) -> dict[str, Key]:
    if place.config.select.ceiling:  # the only stage that may see the oracle, and only then
        candidates: dict[str, Key] = (
            {"retrieve": ("retrieve", place.rows)} if place.config.task.lists_candidates else {}
        )
        return {"ingest": ("ingest", place.rows)} | candidates
    return {"label": ("combine" if place.config.folds else "label", place.number)}


def _verify(checks: RowChecks) -> None:
    source = {"label": "rows"} if "label" in checks.inputs else {"ingest": "unlabeled"}
    checks.rows_of(source, checks.out + checks.quarantined)


STAGE = Stage(
    name="select",
    run=run,
    after=("combine",),
    inputs=_inputs,
    verify=_verify,
    settings=("select.output_settings",),
    figures=lambda metrics: {"selected": metrics["selected"]},
)
