"""Label (collaborative learning, paper section 3.2): every collaborator answers every unlabeled row in one engine pass.

Rows whose answers all agree stand; the others go straight back into the same engine for self-justification. Writes
rows/, in which a row without a usable answer has a `quarantine_reason` instead of one.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa

from semievol import confidence, prompts, storage, tasks
from semievol.confidence import Response
from semievol.config import Collaborator, EngineConfig, TaskConfig
from semievol.engines import Engine, EngineDied, PromptTooLong, RequestRefused
from semievol.runfolder import Rows, StageResult
from semievol.schema import PSEUDO_LABELED
from semievol.stages.context import StageContext, check_bad_fraction, run_rows, summarize, to_row
from semievol.tasks import Row

BATCHES_IN_FLIGHT = 2  # so that the engine does not run dry at the end of a batch


def run(ctx: StageContext) -> StageResult:
    source, out = (storage.join(ctx.inputs["retrieve"], "rows"), storage.join(ctx.out, "rows"))
    answer_rows(
        ctx,
        source=source,
        out=out,
        schema=PSEUDO_LABELED,
        model=storage.join(ctx.inputs["warmup"], "model"),
        labeled=storage.join(ctx.inputs["ingest"], "labeled"),
        collaborators=ctx.config.label.collaborators,
        justify=ctx.config.label.justify,
        max_tokens=ctx.config.label.max_tokens,
    )
    totals, reasons = count_answers(out)
    rows = Rows(came_in=storage.count_rows(source), out=totals["answered"], quarantined=totals["quarantined"])
    check_bad_fraction(ctx, rows.quarantined, rows.came_in, [f"{n:,} rows: {r}" for r, n in reasons.most_common()])
    share = {name: round(totals[name] / max(rows.out, 1), 4) for name in ("unanimous", "justified")}
    metrics = {
        "unanimous": share["unanimous"],
        "justified": share["justified"],
        "output_tokens": totals["output_tokens"],
        "reasons": dict(reasons.most_common(20)),
    }
    return StageResult(rows, metrics, f"{share['unanimous']:.0%} unanimous, {share['justified']:.0%} justified")


def answer_rows(
    ctx: StageContext,
    *,
    source: str,
    out: str,
    schema: pa.Schema,
    model: str,
    labeled: str | None,
    collaborators: list[Collaborator],
    justify: bool,
    max_tokens: int,
    columns: dict[str, str] | None = None,
) -> None:
    """Let `collaborators` on the weights `model` answer the rows of `source`; also what evaluation is made of."""
    from semievol import cluster

    pool = ctx.config.resources.label
    cluster.require("label", pool.actors, pool.num_cpus, pool.num_gpus)
    run_rows(
        ctx,
        source=source,
        out=out,
        actor=Labeler,
        arguments={
            "model": model,
            "engine": ctx.engine,
            "engine_config": ctx.config.engine,
            "task": ctx.config.task,
            "labeled": labeled if any(c.k for c in collaborators) else None,
            "collaborators": collaborators,
            "justify": justify,
            "max_tokens": max_tokens,
            "seed": ctx.config.seed,
            "schema": schema,
        },
        pool=pool,
        concurrency=BATCHES_IN_FLIGHT,
        columns=columns,
    )


def count_answers(out: str) -> tuple[Counter[str], Counter[str]]:
    """Totals over the answered rows, and how many rows were quarantined for which reason."""
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    columns = ["answer", "agreement", "justified", "output_tokens", "quarantine_reason"]
    for block in summarize(out, columns, _count):
        for record in block.to_pylist():
            target = totals if record["kind"] == "total" else reasons
            target[record["name"]] += record["rows"]
    return totals, reasons


def _count(block: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    answered = pc.is_valid(block["answer"])
    unanimous = pc.and_(answered, pc.and_(pc.equal(block["agreement"], 1.0), pc.invert(block["justified"])))
    totals = {
        "answered": pc.sum(answered).as_py() or 0,
        "quarantined": pc.sum(pc.invert(answered)).as_py() or 0,
        "unanimous": pc.sum(unanimous).as_py() or 0,
        "justified": pc.sum(pc.and_(answered, block["justified"])).as_py() or 0,
        "output_tokens": pc.sum(block["output_tokens"]).as_py() or 0,
    }
    records = [{"kind": "total", "name": name, "rows": n} for name, n in totals.items()]
    reasons = Counter(block["quarantine_reason"].drop_null().to_pylist())
    records += [{"kind": "reason", "name": name, "rows": n} for name, n in reasons.items()]
    schema = pa.schema([("kind", pa.string()), ("name", pa.string()), ("rows", pa.int64())])
    return pa.Table.from_pylist(records, schema=schema)


class Labeler:
    """Actor: an engine with one set of weights; rows in, answered rows out."""

    def __init__(
        self,
        *,
        model: str,
        engine: type[Engine],
        engine_config: EngineConfig,
        task: TaskConfig,
        labeled: str | None,
        collaborators: list[Collaborator],
        justify: bool,
        max_tokens: int,
        seed: int,
        schema: pa.Schema,
        progress: Any,
    ) -> None:
        self._engine = engine(model, engine_config)
        self._task = tasks.make(task)
        examples = storage.read_table(labeled).to_pylist() if labeled else []
        self._labeled = {record["row_id"]: to_row(record) for record in examples}
        self._collaborators = collaborators
        self._justify = justify
        self._max_tokens = max_tokens
        self._seed = seed
        self._schema = schema
        self._progress = progress

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        try:
            answered = await asyncio.gather(*(self._label(record) for record in batch.to_pylist()))
        except EngineDied as error:
            # Ray replaces the actor and hands its rows to another one; a labeler without an engine would fail them all.
            print(f"labeler: the engine died ({error}); leaving", flush=True)
            os._exit(1)
        if answered:
            self._progress.add.remote(len(answered))
        yield pa.Table.from_pylist(answered, schema=self._schema)

    async def _label(self, record: dict[str, Any]) -> dict[str, Any]:
        row = to_row(record | {"answer": None})
        try:
            return record | await self._answer(record, row)
        except RequestRefused as error:
            return record | {"answer": None, "justified": False, "output_tokens": 0, "quarantine_reason": str(error)}

    async def _answer(self, record: dict[str, Any], row: Row) -> dict[str, Any]:
        ids, cosines = record.get("neighbor_ids") or [], record.get("neighbor_scores") or []
        neighbors = [(self._labeled[i], s) for i, s in zip(ids, cosines, strict=True)] if self._labeled else []
        asked = [self._ask(i, c, record["row_id"], row, neighbors) for i, c in enumerate(self._collaborators)]
        given = await asyncio.gather(*asked)
        # Neighbours whose answers mean nothing for this row have no say; the others decide.
        responses = [response for response in given if response is not None]
        decided = None
        candidates = confidence.distinct(self._task, responses)
        if self._justify and candidates and not confidence.agree(self._task, responses):
            prompt = prompts.justification(self._task, row, candidates)
            try:
                # Greedy: the judgement is the model's best one, not a sample.
                decided = await self._respond(prompt, row, temperature=0.0, seed=0)
            except PromptTooLong:
                decided = None  # the answers are there; the majority stands
        verdict = confidence.verdict(self._task, responses, decided=decided)
        tokens = sum(r.tokens for r in responses) + (decided.tokens if decided else 0)
        return {
            "answer": verdict.answer if verdict else None,
            "entropy": verdict.entropy if verdict else None,
            "agreement": verdict.agreement if verdict else None,
            "justified": decided is not None and decided.answer is not None,
            "answers": [r.answer or "" if r else "" for r in given],
            "entropies": [r.entropy if r else None for r in given],
            "output_tokens": tokens,
            "quarantine_reason": None if verdict else "no response could be parsed",
        }

    async def _ask(
        self, number: int, collaborator: Collaborator, row_id: int, row: Row, neighbors: list[tuple[Row, float]]
    ) -> Response | None:
        """One collaborator's response; examples are left out, farthest first, where the window is too small."""
        nearest = neighbors[: collaborator.k]
        if collaborator.kind == "neighbors":
            return confidence.vote(self._task, row, nearest)
        examples = [solved for solved, _ in nearest]
        seed = confidence.sampling_seed(self._seed, row_id, number)
        while True:
            prompt = prompts.messages(self._task, row, examples=examples, style=collaborator.prompt)
            try:
                return await self._respond(prompt, row, temperature=collaborator.temperature, seed=seed)
            except PromptTooLong:
                if not examples:
                    raise
                examples.pop()

    async def _respond(self, prompt: prompts.Messages, row: Row, *, temperature: float, seed: int) -> Response:
        tokens = self._engine.tokenize(prompt)
        done = await self._engine.generate(tokens, temperature=temperature, seed=seed, max_tokens=self._max_tokens)
        return Response(self._task.parse(done.text, row), done.entropy, done.tokens)
