"""Render a task's rows for a trainer, as chat messages and as tokens of the base model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol.data import storage
from semievol.data.tables import FOLDS, ROW_COLUMNS, TRAINING, to_row
from semievol.engines.chat_template import ChatTemplate, load_tokenizer
from semievol.engines.templates import ChatSettings
from semievol.method.prompts import Prompts, shorter
from semievol.runtime.rows import summarize
from semievol.trainers.base import TrainSpec
from semievol.trainers.targets import soft_targets

_RENDERED = pa.schema([*TRAINING, ("cut", pa.bool_()), ("quarantine_reason", pa.string())])
_COLUMNS = [*ROW_COLUMNS, "answer"]


@dataclass(frozen=True)
class Source:
    """Rows to train on, and how many of their nearest rows each one shows as solved examples.

    Attributes:
        uri: of a folder of Parquet parts.
        soft: teach the collaborators' shares; the rows are pseudo-labeled.
        context: as warmup.context; other than none, the rows have neighbors among themselves.
        style: of the prompts, by its name in `prompt.styles`.
        folds: URI of the fold of each row, in the schema `FOLDS`. The rows of `fold` are left out, or with `held_out` all
            others are; solved examples are never of this fold.
    """

    uri: str
    selected_only: bool = False
    soft: bool = False
    context: str = "none"
    k: int = 0
    style: str = "plain"
    folds: str = ""
    fold: int = 0
    held_out: bool = False

    @property
    def left_out(self) -> frozenset[int]:
        """Return the ids of the rows of the fold."""
        table = storage.read_table(self.folds) if self.folds else FOLDS.empty_table()
        return frozenset(table.filter(pc.equal(table["fold"], self.fold))["row_id"].to_pylist())


@dataclass(frozen=True)
class Rendered:
    """What became of the rows: counts, and why rows cannot be used."""

    came_in: int
    usable: int
    cut: int  # usable rows that were shortened to fit
    reasons: Counter[str]

    @property
    def quarantined(self) -> int:
        return self.reasons.total()

    @property
    def examples(self) -> list[str]:
        """The reasons, for people."""
        return [f"{n:,} rows: {reason}" for reason, n in self.reasons.most_common()]


def render(sources: Sequence[Source], spec: TrainSpec, prompts: Prompts, *, tokens: bool) -> Rendered:
    """Write `spec.rows`, in parallel.

    Args:
        tokens: whether the rows hold the base model's tokens. If so, a prompt that does not fit `max_length` is cut by
            `semievol.method.prompts.shorter`, and quarantined if it does not fit then either.
    """
    storage.delete(spec.rows)  # of an attempt that was cut off
    for source in sources:
        _render(source, spec, prompts, spec.base if tokens else None)
    reasons: Counter[str] = Counter()
    usable = cut = 0
    for fit, were_cut, why in summarize(spec.rows, ["cut", "quarantine_reason"], _count):
        usable += fit
        cut += were_cut
        reasons.update(why)
    return Rendered(sum(map(_source_rows, sources)), usable, cut, reasons)


def _source_rows(source: Source) -> int:
    """Count the rows that have to come out of rendering."""
    if source.folds:
        of_fold = len(source.left_out)
        return of_fold if source.held_out else storage.count_rows(source.uri) - of_fold
    if not source.selected_only:
        return storage.count_rows(source.uri)
    return sum(summarize(source.uri, ["selected"], lambda block: len(block.filter(block["selected"]))))


def _render(source: Source, spec: TrainSpec, prompts: Prompts, model: str | None) -> None:
    import ray

    filesystem, path = storage.resolve(source.uri)
    more = ["selected"] if source.selected_only else [] if source.context == "none" else ["neighbor_ids"]
    more += ["shares", "justified"] if source.soft else []
    rows = ray.data.read_parquet(path, filesystem=filesystem, columns=[*_COLUMNS, *more])
    out_filesystem, out_path = storage.resolve(spec.rows)
    rows.map_batches(
        _messages,
        batch_size=1024,
        batch_format="pyarrow",
        fn_kwargs={
            "source": source,
            "prompts": prompts,
            "model": model,
            "chat": spec.chat,
            "max_length": spec.config.max_length,
        },
    ).write_parquet(out_path, filesystem=out_filesystem)


def _messages(
    batch: pa.Table, source: Source, prompts: Prompts, model: str | None, chat: ChatSettings, max_length: int
) -> pa.Table:
    template = _template(model, chat) if model else None
    if source.selected_only:
        batch = batch.filter(batch["selected"])
    left_out, solved = source.left_out, {}
    if source.folds:
        here = pa.array([(row_id in left_out) == source.held_out for row_id in batch["row_id"].to_pylist()], pa.bool_())
        batch = batch.filter(here)
    if source.context != "none":
        solved = {record["row_id"]: to_row(record) for record in storage.read_table(source.uri, _COLUMNS).to_pylist()}
    rendered: list[dict[str, Any]] = []
    for record in batch.to_pylist():
        row, completion = to_row(record), prompts.completion(record["answer"])
        # With `mixed` every other row shows examples: the model must still answer without.
        shows = source.context == "knn" or (source.context == "mixed" and record["row_id"] % 2 == 0)
        near = [i for i in record["neighbor_ids"] if i not in left_out][: source.k] if shows else []
        shown = [solved[i] for i in near]
        for fitting, fewer in shorter(row, shown):
            prompt = prompts.messages(fitting, examples=fewer, style=source.style)
            tokens = template.exchange(prompt, completion, all_turns=prompts.task.all_turns) if template else {}
            fits = len(tokens.get("input_ids", ())) <= max_length
            if fits:
                break
        reason = None if fits else f"over max_length = {max_length} tokens of prompt and response"
        ids = {"row_id": record["row_id"], "cut": fitting is not row, "quarantine_reason": reason}
        if template and fits and source.soft and not record["justified"]:
            ids["soft"] = _soft(record, len(tokens["input_ids"]), prompts, template)
        rendered.append(ids | {"prompt": prompt, "completion": completion} | (tokens if fits else {}))
    return pa.Table.from_pylist(rendered, schema=_RENDERED)


def _soft(record: dict[str, Any], length: int, prompts: Prompts, template: ChatTemplate) -> list[dict[str, Any]]:
    """Return the soft targets of a row with so many tokens, the last of which are its answer's."""
    shares = {entry["answer"]: entry["share"] for entry in record["shares"] or ()}
    answers = prompts.task.choices(to_row(record)) or []
    spelled = dict(zip(answers, _spelled(template, tuple(map(prompts.task.respond, answers))), strict=True))
    begin = length - len(spelled[record["answer"]])
    return [at | {"place": begin + at["place"]} for at in soft_targets(record["answer"], shares, spelled)]


@lru_cache(maxsize=16)
def _spelled(template: ChatTemplate, responses: tuple[str, ...]) -> list[list[int]]:
    return list(map(template.response, responses))


@cache
def _template(model: str, chat: ChatSettings) -> ChatTemplate:
    """Return the chat template of a model, loaded once in each process."""
    tokenizer = load_tokenizer(storage.local_copy(model) if "://" in model else model)
    return ChatTemplate(tokenizer, chat.template, chat.thinking)


def _count(block: pa.Table) -> tuple[int, int, Counter[str]]:
    """Count the usable rows, those that were cut, and the others by their reason."""
    reasons = Counter(block["quarantine_reason"].drop_null().to_pylist())
    return block["quarantine_reason"].null_count, len(block.filter(block["cut"])), reasons
