"""Label rows: one engine with one set of weights answers for its collaborators and self-justifies.

If collaborators use different weights, rows pass through one labeler after another (`semievol.inference.bulk`). Each
adds its responses; the last one gives the verdict.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from semievol.config import Collaborator, EmbeddingConfig
from semievol.data import storage
from semievol.data.responses import from_record, of_verdict, to_record, unlisted
from semievol.data.tables import to_row
from semievol.engines import Engine, PromptTooLong, RequestRefused
from semievol.engines.templates import OWN_TEMPLATE, ChatSettings
from semievol.errors import UserError
from semievol.method import confidence
from semievol.method.confidence import Response
from semievol.method.prompts import Messages, Prompts, shorter
from semievol.retrieval.embedding import Embedder, Similar
from semievol.tasks import Row

_LEAST_SHARE = 1e-300  # exact scores underflow
Prompt = Callable[[Row, list[Row]], Messages]  # of a row and its solved examples


@dataclass(frozen=True)
class Panel:
    """The collaborators who answer the same rows, and how they do it."""

    prompts: Prompts
    collaborators: tuple[Collaborator, ...]
    labeled: str  # URI of the rows that solved examples are taken from
    embedding: EmbeddingConfig  # compares answers that have no exact form
    mode: str = "sample"  # or score, if all answers are known beforehand
    justify: bool = False  # let the last pass decide where answers differ
    max_tokens: int = 16
    seed: int = 0  # of the run; each request gets its own from it


@dataclass(frozen=True)
class Pass:
    """The part of a panel that one set of weights answers for."""

    model: str  # folder, URI or hub id; with an endpoint, the model's name there; "" if no engine is needed
    endpoint: str | None
    members: tuple[int, ...]  # places among the panel's collaborators
    last: bool  # it gives the verdict
    chat: ChatSettings = OWN_TEMPLATE


@dataclass(frozen=True)
class Labeling:
    """One pass over rows, as a labeler is asked for it."""

    work: Pass
    panel: Panel
    schema: pa.Schema  # of what comes out
    key: str  # config key to name when the engine is unusable


class Labeler:
    """Adds responses to rows, and after the last pass a verdict; runs in the process of its engine."""

    def __init__(
        self, engine: Engine | UserError | None, labeling: Labeling, progress: Any, *, start_s: float = 0.0
    ) -> None:
        self._unusable = engine if isinstance(engine, UserError) else None  # why there is no engine
        self._engine = None if isinstance(engine, UserError) else engine
        self._start_s = start_s  # how long the engine took to start, if it was started for this
        self._counted_before = dict(self._engine.figures) if self._engine else {}
        self._name = uuid.uuid4().hex
        self._labeling, self._work, self._panel = labeling, labeling.work, labeling.panel
        self._prompts, self._task = self._panel.prompts, self._panel.prompts.task
        self._embedder: Embedder | None = None  # once answers have to be compared by it
        self._members = [self._panel.collaborators[i] for i in self._work.members]
        shows_examples = any(who.k for who in self._members if who.kind != "probe")
        examples = storage.read_table(self._panel.labeled).to_pylist() if shows_examples else []
        self._labeled = {record["row_id"]: to_row(record) for record in examples}
        self._responses: dict[tuple[str, ...], list[str]] = {}  # by the answers that they give
        self._progress = progress
        self.finished = 0  # rows

    async def answer(self, batch: pa.Table, refused: str | None = None) -> pa.Table:
        """Add responses to the rows and return them, without rows that must be retried later.

        `refused` is the reason not to send these rows to the engine; responses record it.
        """
        records = sorted(batch.to_pylist(), key=self._shown)
        asked = await asyncio.gather(*(self._label_if_usable(record, refused) for record in records))
        if self._unusable:
            await self._progress.stop.remote(f"{self._labeling.key}: {self._unusable}")
        answered = [record for record in asked if record is not None]
        self._progress.add.remote(len(answered))
        if self._engine:
            counted = {name: n - self._counted_before.get(name, 0) for name, n in self._engine.figures.items()}
            self._progress.report.remote(self._name, counted | {"start_s": self._start_s})
        return pa.Table.from_pylist(answered, schema=self._labeling.schema)

    def _shown(self, record: dict[str, Any]) -> tuple[int, ...]:
        """Return the sort key of a row: prompts that begin with the same examples share the engine's prefix cache."""
        k = max((who.k for who in self._members if who.kind == "model"), default=0)
        return tuple(reversed((record.get("neighbor_ids") or [])[:k]))  # as they stand in the prompt: nearest last

    async def _label_if_usable(self, record: dict[str, Any], refused: str | None) -> dict[str, Any] | None:
        """Label a row. Return None, to retry it later, if the endpoint is down or rejects every request."""
        if self._unusable:
            return None
        try:
            answered = await self._label(record, refused)
        except UserError as error:
            self._unusable = error
            return None
        self.finished += 1
        return answered

    async def _label(self, record: dict[str, Any], refused: str | None) -> dict[str, Any]:
        row = to_row(record | {"answer": None})
        ids, cosines = record.get("neighbor_ids") or [], record.get("neighbor_scores") or []
        neighbors = [(self._labeled[i], s) for i, s in zip(ids, cosines, strict=True)] if self._labeled else []
        places = [i for i in self._work.members if self._may_answer(i, record.get("fold"))]
        asked = [self._ask(i, record, row, neighbors, refused) for i in places]
        given = [response for responses in await asyncio.gather(*asked) for response in responses]
        choices = self._task.choices(row)
        responses = [*(from_record(response, choices) for response in record.get("responses") or []), *given]
        order = [c.name for c in self._panel.collaborators]
        responses.sort(key=lambda r: order.index(r.collaborator))
        verdict = await self._verdict(row, responses, refused) if self._work.last else {}
        alone = len(self._panel.collaborators) == 1
        if record.get("gold") is not None and self._panel.mode == "score" and self._work.last:
            verdict["likelihood"] = self._scored(responses, row, record["gold"])
        elif record.get("gold") is not None and self._task.cosine is not None and not refused and alone:
            verdict["likelihood"] = await self._likelihood(row, record["gold"], neighbors)
        return record | {"responses": list(map(to_record, responses))} | verdict

    def _may_answer(self, number: int, fold: int | None) -> bool:
        """Tell whether a collaborator answers a row: of a labeled row, the one member that has not seen it does."""
        member = self._panel.collaborators[number].member()
        return fold is None or member is None or member == fold

    def _scored(self, responses: list[Response], row: Row, gold: str) -> float | None:
        """Return the log of the mean share that those who scored the answers give the true one; None if nobody did."""
        truth = self._task.transfer(gold, row, row) or gold
        scored = [response for response in responses if response.distribution is not None]
        share = confidence.mixture(self._task.same, scored).get(truth)
        return None if share is None else math.log(max(share, _LEAST_SHARE))

    async def _likelihood(self, row: Row, gold: str, neighbors: list[tuple[Row, float]]) -> float | None:
        """Return the likelihood of the true response, for the first collaborator; None if the engine cannot tell."""
        who, response = self._members[0], self._task.respond(gold)
        asked = self._prompt(who, row, [solved for solved, _ in neighbors[: who.k]])
        with suppress(RequestRefused):
            return await self._engine.likelihood(asked, response) if self._engine else None
        return None

    def _prompt(self, who: Collaborator, asked: Row, examples: list[Row]) -> Messages:
        return self._prompts.messages(asked, examples=examples, style=who.prompt, order=who.order)

    async def _verdict(self, row: Row, responses: list[Response], refused: str | None) -> dict[str, Any]:
        same = self._same(responses)
        decided = None
        candidates = confidence.distinct(same, responses)
        if self._panel.justify and candidates and not refused and not confidence.agree(same, responses):
            decided = await self._justify(row, candidates)
        found = confidence.verdict(same, responses, decided=decided, task=self._task)
        spent = [*responses, decided] if decided else responses
        errors = [f"{r.collaborator}: {r.error}" for r in responses if r.error]
        return (of_verdict(found, self._task) if found else {}) | {
            "justified": decided is not None and decided.answer is not None,
            "prompt_tokens": sum(r.prompt_tokens for r in spent),
            "output_tokens": sum(r.tokens for r in spent),
            "quarantine_reason": None if found else (errors or ["no response could be parsed"])[0],
        }

    def _same(self, responses: list[Response]) -> confidence.Same:
        answers = [r.answer for r in responses if r.answer is not None]
        if self._task.cosine is None or len(answers) < 2:
            return self._task.same
        self._embedder = self._embedder or Embedder(self._panel.embedding)
        similar = Similar(self._embedder, self._task.cosine)
        similar.learn(answers)
        return similar

    async def _ask(
        self, number: int, record: dict[str, Any], row: Row, neighbors: list[tuple[Row, float]], refused: str | None
    ) -> list[Response]:
        """Return one collaborator's responses: an empty list if no neighbor's answer applies to this row, or no probe's."""
        who = self._panel.collaborators[number]
        nearest = neighbors[: who.k]
        if who.kind == "neighbors":
            voted = confidence.vote(self._task, row, nearest)
            return [confidence.from_distribution(who.name, voted)] if voted else []
        if who.kind == "probe":
            shares = unlisted(record.get("probe") or (), self._task.choices(row))
            return [confidence.from_distribution(who.name, shares)] if shares else []
        if refused:
            return [Response(who.name, error=refused)]
        seed = confidence.sampling_seed(self._panel.seed, record["row_id"], number)
        try:
            return await self._respond(who, row, [solved for solved, _ in nearest], partial(self._prompt, who), seed)
        except RequestRefused as error:
            return [Response(who.name, error=str(error))]

    async def _justify(self, row: Row, candidates: list[str]) -> Response | None:
        """Ask the model to decide, at temperature 0. Return None if it refuses; then the majority wins."""

        def prompt(asked: Row, _: list[Row]) -> Messages:
            return self._prompts.justification(asked, candidates)

        with suppress(RequestRefused):
            return (await self._respond(Collaborator(name="justification", temperature=0.0), row, [], prompt, 0))[0]
        return None

    def _said(self, choices: tuple[str, ...]) -> list[str]:
        """Return the responses that give these answers; most rows share theirs."""
        if choices not in self._responses:
            self._responses[choices] = list(map(self._task.respond, choices))
        return self._responses[choices]

    async def _respond(
        self, who: Collaborator, row: Row, examples: list[Row], prompt: Prompt, seed: int
    ) -> list[Response]:
        assert self._engine is not None
        choices = self._task.choices(row) if self._panel.mode == "score" else None
        if choices is not None:
            score = partial(self._engine.score, responses=self._said(tuple(choices)))
            shares, cut = await _fitting(score, prompt, row, examples)
            distribution = dict(zip(choices, shares, strict=True))
            return [replace(confidence.from_distribution(who.name, distribution), tokens=1, cut=cut)]
        settings: dict[str, Any] = {"temperature": who.temperature, "seed": seed, "n": who.samples}
        generate = partial(self._engine.generate, max_tokens=self._panel.max_tokens, **settings)
        done, cut = await _fitting(generate, prompt, row, examples)
        parse = self._task.parse
        return [
            Response(who.name, parse(d.text, row), d.nll, d.token_entropy, d.tokens, None, None, cut, d.prompt_tokens)
            for d in done
        ]


async def _fitting(
    ask: Callable[[Messages], Awaitable[Any]], prompt: Prompt, row: Row, examples: list[Row]
) -> tuple[Any, bool]:
    """Ask with the longest prompt that fits the window. Return the response, and whether the row itself had to be cut."""
    for fitting, fewer in shorter(row, examples):
        try:
            return await ask(prompt(fitting, fewer)), fitting is not row
        except PromptTooLong as error:
            refused = error
    raise refused
