"""Look at a run before it is started: its prompts, their tokens against the window, and what labeling costs."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from semievol.config import RunConfig
from semievol.data.tables import to_row
from semievol.errors import UserError
from semievol.method.prompts import Prompts
from semievol.preview import requests, rows
from semievol.preview.requests import Request
from semievol.preview.rows import Record, Split
from semievol.preview.tokens import CHARACTERS, Fitted, Renderer
from semievol.retrieval.dense import LabeledIndex
from semievol.retrieval.embedding import Embedder, text_of
from semievol.retrieval.lexical import LexicalIndex
from semievol.retrieval.search import NEAR, Candidates
from semievol.tasks import Row

# Embedding takes most of the time: 100,000 characters take 3 s on two cores.
_INDEXED = 80_000  # characters of labeled rows to search among
_SEARCHED = 60  # rows of a sample to search for


@dataclass(frozen=True)
class Shown:
    """A request for one row, as the model gets it.

    Attributes:
        row: where the row stands.
        tokens: of what is sent; None if nothing that fits is left.
        same_as: an earlier request for this row whose prompt has the same tokens.
        pieces: text, whether it is a control token, whether it is trained on; without what `same_as` shows.
    """

    row: str
    request: str
    tokens: int | None
    exact: bool
    same_as: str | None
    lost: tuple[str, ...]
    pieces: list[tuple[str, bool, bool]]
    ids: list[Any] | None


@dataclass(frozen=True)
class Measured:
    """The lengths of one request over a sample of rows.

    Attributes:
        lengths: in tokens, before anything is cut, by row id.
        sent: after that; rows that do not fit are not in it.
        limit: tokens that fit; None if that is not known.
        lost: what is cut, and of how many rows.
    """

    request: Request
    exact: bool
    lengths: dict[int, int]
    sent: dict[int, int]
    limit: int | None
    lost: dict[str, int]

    @property
    def too_long(self) -> int:
        return len(self.lengths) - len(self.sent)


@dataclass(frozen=True)
class Preview:
    """All that there is to see."""

    config: RunConfig
    splits: dict[str, Split]
    labels: dict[str, int]
    shown: list[Shown]
    measured: list[Measured]
    notes: list[str] = field(default_factory=list)


def look(config: RunConfig, n: int, size: int) -> Preview:
    """Render each request of a run for n rows, and measure it over a sample of at most `size` rows of each split."""
    splits = rows.read(config, size)
    for name, split in splits.items():
        if not split.kept:
            found = {fate: n for fate, n in split.fates.items() if fate != "quarantined"} | split.reasons
            raise UserError(f"data.{name}: no usable row: {', '.join(f'{n:,} {why}' for why, n in found.items())}")
    labeled = [to_row(record) for record in splits["labeled"].kept]
    parts = [part for row in labeled for part in config.task.parts(row.answer or "")]
    labels = dict(Counter(parts).most_common())
    task = config.task.learned(labels)
    config = config.model_copy(update={"task": task})
    by_length = sorted(labeled, key=lambda row: len(task.respond(row.answer or "")))
    stand_in = by_length[len(labeled) // 2]
    other = next((row for row in by_length if row.answer != stand_in.answer), stand_in)
    asked = [request for request in requests.of_config(config) if splits.keys() & request.splits]
    examples = _Examples(config, splits["labeled"], max(request.k for request in asked))
    with tempfile.TemporaryDirectory(prefix="semievol-preview-") as scratch:
        renderer = Renderer(Prompts(task, config.prompt), [stand_in, other], config, scratch)
        shown = [each for record in splits["labeled"].records[:n] for each in _show(asked, record, renderer, examples)]
        for name, request in (("unlabeled", "labeling"), ("test", "evaluation")):
            first = [each for each in asked if name in each.splits and each.name.startswith(request)][:1]
            if first:
                shown += _show(first, splits[name].records[0], renderer, examples)
        measured = [_measure(request, splits, renderer, examples) for request in asked]
    return Preview(config, splits, labels, shown, measured, examples.notes)


class _Examples:
    """The nearest labeled rows of rows, and the labels that prompts list, as the run finds them."""

    def __init__(self, config: RunConfig, labeled: Split, k: int) -> None:
        self.notes: list[str] = []
        self._k = k
        self._found: dict[int, list[Row]] = {}
        self._candidates: Candidates | None = None
        self._listed: dict[int, list[str]] = {}
        if not k and not config.task.lists_candidates:
            return
        self._solved = {record["row_id"]: to_row(record) for record in labeled.records}
        texts = [text_of(row) for row in self._solved.values()]
        length = np.cumsum([min(len(text), CHARACTERS * config.embedding.max_length) for text in texts])
        texts = texts[: max(2, int((length <= _INDEXED).sum()))]
        ids = np.array(list(self._solved)[: len(texts)], np.int64)
        self._encode: Any = list  # for BM25
        if config.retrieve.by == "embedding":
            self._encode = self._embedder(config)
        self._index: Any
        if self._encode is list:
            self._index = LexicalIndex(texts, ids)
        else:
            self._index = LabeledIndex.build(self._encode(texts), ids)
        if config.task.lists_candidates:
            known = pa.table({"row_id": ids, "answer": [self._solved[i].answer for i in ids.tolist()]})
            self._candidates = Candidates(config.task, known, self._encode)
        if len(ids) < labeled.usable:
            self.notes.append(f"Solved examples are the nearest of {len(ids):,} labeled rows, not of all.")

    @property
    def lists(self) -> bool:
        """Tell whether prompts list labels that are searched for."""
        return self._candidates is not None

    def _embedder(self, config: RunConfig) -> Any:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        try:
            return Embedder(config.embedding).encode
        except OSError as error:  # the model is not here
            problem = str(error).strip().splitlines()[0]
            why = f"as embedding.model cannot be loaded: {problem}"
            self.notes.append(f"Solved examples are the nearest by words (BM25) and not by embedding, {why}")
            return list

    def rows(self, records: Sequence[Record]) -> list[Row]:
        """Return records as rows, with the labels that their prompts list."""
        rows = [to_row(record) for record in records]
        if self._candidates is None:
            return rows
        new = {record["row_id"]: row for record, row in zip(records, rows, strict=True)}
        new = {i: row for i, row in new.items() if i not in self._listed}
        if new:
            queries = self._encode([text_of(row) for row in new.values()])
            near, _ = self._index.search(queries, NEAR, np.array(list(new), np.int64))
            self._listed |= dict(zip(new, self._candidates.of(near, queries), strict=True))
        return [replace(row, candidates=self._listed[r["row_id"]]) for r, row in zip(records, rows, strict=True)]

    def of(self, request: Request, records: Sequence[Record]) -> list[list[Row]]:
        """Return the solved examples that a request shows with each row."""
        k = [0 if request.every_other and record["row_id"] % 2 else request.k for record in records]
        new = [
            record for record, count in zip(records, k, strict=True) if count and record["row_id"] not in self._found
        ]
        if new:
            ids = np.array([record["row_id"] for record in new], np.int64)
            queries = self._encode([text_of(to_row(record)) for record in new])
            found, _ = self._index.search(queries, self._k, ids)
            self._found |= dict(zip(ids.tolist(), ([self._solved[i] for i in near] for near in found), strict=True))
        return [self._found[r["row_id"]][:count] if count else [] for r, count in zip(records, k, strict=True)]


def _show(asked: Sequence[Request], record: Record, renderer: Renderer, examples: _Examples) -> list[Shown]:
    """Show a row in each request."""
    shown: list[Shown] = []
    seen: dict[str, str] = {}  # a prompt, or a prompt and its response -> the request that showed it
    place = f"{record['split']} row, {record['source'].rpartition('/')[2]}:{record['position']}"
    for request in asked:
        [fitted] = renderer.fit(request, examples.rows([record]), examples.of(request, [record]))
        model, sent = renderer.model(request), fitted.sent
        exact = model.template is not None
        if sent is None:
            shown.append(Shown(place, request.name, None, exact, None, (), [], None))
            continue
        prompt, whole = repr(sent.parts[: sent.prompt]), repr(sent.parts)
        same = seen.get(whole) or seen.get(prompt)
        rest = sent.after((len(sent.parts) if whole in seen else sent.prompt) if same else 0)
        for known in (prompt, whole):
            seen.setdefault(known, request.name)
        ids = list(sent.parts) if exact else None
        shown.append(Shown(place, request.name, sent.tokens, exact, same, fitted.lost, model.pieces(rest), ids))
    return shown


def _measure(request: Request, splits: dict[str, Split], renderer: Renderer, examples: _Examples) -> Measured:
    """Measure a request over the sample of its rows."""
    records = [record for split in request.splits if split in splits for record in splits[split].records]
    if request.k or examples.lists:
        records = records[:: -(-len(records) // _SEARCHED)]
    fitted: dict[int, Fitted] = dict(
        zip(
            (record["row_id"] for record in records),
            renderer.fit(request, examples.rows(records), examples.of(request, records)),
            strict=True,
        )
    )
    lost = Counter(what for one in fitted.values() for what in one.lost)
    return Measured(
        request,
        exact=renderer.model(request).template is not None,
        lengths={i: one.whole.tokens for i, one in fitted.items()},
        sent={i: one.sent.tokens for i, one in fitted.items() if one.sent},
        limit=renderer.limit(request),
        lost=dict(lost.most_common()),
    )
