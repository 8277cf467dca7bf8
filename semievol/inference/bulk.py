"""Bulk inference: a panel of collaborators answers every row of a folder, one pass for each set of weights."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from semievol.config import EngineConfig, PoolResources
from semievol.data import storage
from semievol.data.tables import ANSWERED_IN_PART
from semievol.inference.labeler import Labeling, Panel, Pass
from semievol.inference.pool import EnginePool
from semievol.inference.relay import Relay
from semievol.runtime import cluster
from semievol.runtime.rows import RowJob, run_rows, summarize


@dataclass(frozen=True)
class Request:
    """Rows to answer, and everything that it takes.

    Attributes:
        source: URI of the rows, with their neighbors where the panel wants solved examples.
        out: URI that the answered rows are written to, below the job's folder.
        schema: of the answered rows.
        passes: in this order; only the last one gives the verdict.
        resources: of each engine, and how many there are.
        no_progress_s: an engine that finishes no row for so long is replaced.
        columns: renames of columns of the source, old to new.
    """

    job: RowJob
    source: str
    out: str
    schema: pa.Schema
    panel: Panel
    passes: Sequence[Pass]
    engine: EngineConfig
    resources: PoolResources
    no_progress_s: float
    columns: dict[str, str] | None = None


def answer_rows(engines: EnginePool, request: Request) -> list[dict[str, float]]:
    """Answer the rows of a request; they resume where an earlier attempt stopped.

    Returns:
        What each actor's engine has counted of itself, with `start_s`, the seconds that it took to start.
    """
    resources = request.resources.model_copy(update={"max_actors": cluster.at_most(request.resources)})
    source, figures = request.source, []
    for number, work in enumerate(request.passes):
        names = [request.panel.collaborators[i].name for i in work.members]
        written = request.out if work.last else storage.join(request.job.folder, f"pass-{number}", "rows")
        at_endpoint = {"kind": "openai", "endpoint": work.endpoint} if work.endpoint else {}
        config = request.engine.model_copy(update=at_endpoint)
        elsewhere = config.kind == "openai"
        whose = f"label.collaborators[{work.members[0]}]" if work.endpoint else "engine"
        labeling = Labeling(
            work=work,
            panel=request.panel,
            schema=request.schema if work.last else ANSWERED_IN_PART,
            key=f"{whose}.endpoint" if elsewhere else f"model {work.model}",
        )
        figures += run_rows(
            request.job,
            source=source,
            out=written,
            actor=Relay,
            arguments={
                "name": uuid.uuid4().hex,
                "keeper": engines.keeper(work, config, resources),
                "labeling": labeling,
                # An endpoint has time limits and retries of its own.
                "no_progress_s": None if elsewhere else request.no_progress_s,
            },
            pool=resources.model_copy(update={"num_cpus": 0.0, "num_gpus": 0.0}),  # the engines reserve them
            rows_in_flight=_requests_at_a_time(config),
            columns=request.columns,
            note=f"{', '.join(names)}, pass {number + 1} of {len(request.passes)}" if len(request.passes) > 1 else "",
        )
        source = written
    return figures


def _requests_at_a_time(config: EngineConfig) -> int:
    return config.concurrency if config.kind == "openai" else int(config.extra.get("max_num_seqs", config.max_num_seqs))


def engine_figures(actors: list[dict[str, float]]) -> dict[str, float]:
    """Return the slowest start of the actors, and the share of prompt tokens that the prefix cache had."""
    prompt, cached = (sum(actor.get(f"{kind}_tokens", 0.0) for actor in actors) for kind in ("prompt", "cached"))
    slowest = max((actor["start_s"] for actor in actors), default=0.0)
    return {"start_s": round(slowest, 1), "prefix_cache_hits": round(cached / max(prompt, 1), 4)}


def count_answers(out: str, *, paid: list[str]) -> tuple[Counter[str], Counter[str]]:
    """Return totals over the answered rows, and how many rows were quarantined for which reason.

    One of the totals is `failed:NAME`: rows to which a collaborator gave an error in place of responses.

    Args:
        paid: names of the collaborators whose tokens are also counted separately, as `paid_prompt_tokens` and
            `paid_output_tokens`.
    """
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    tokens = ["prompt_tokens", "output_tokens"]
    columns = ["answer", "agreement", "justified", *tokens, "responses", "quarantine_reason"]
    for counted, why in summarize(out, columns, _count, paid=paid):
        totals.update(counted)
        reasons.update(why)
    return totals, reasons


def _count(block: pa.Table, paid: list[str]) -> tuple[dict[str, int], dict[str, int]]:
    import pyarrow.compute as pc

    answered = pc.is_valid(block["answer"])
    unanimous = pc.and_(answered, pc.and_(pc.equal(block["agreement"], 1.0), pc.invert(block["justified"])))
    given = pc.list_flatten(block["responses"].combine_chunks())
    at_endpoint = given.filter(pc.is_in(pc.struct_field(given, "collaborator"), value_set=pa.array(paid, pa.string())))
    failed, cut = (_rows_with(block["responses"], field) for field in ("error", "cut"))
    totals = {
        "in_part": pc.sum(pc.and_(answered, failed)).as_py() or 0,
        "cut": pc.sum(cut).as_py() or 0,
        "answered": pc.sum(answered).as_py() or 0,
        "quarantined": pc.sum(pc.invert(answered)).as_py() or 0,
        "unanimous": pc.sum(unanimous).as_py() or 0,
        "justified": pc.sum(pc.and_(answered, block["justified"])).as_py() or 0,
        "prompt_tokens": pc.sum(block["prompt_tokens"]).as_py() or 0,
        "output_tokens": pc.sum(block["output_tokens"]).as_py() or 0,
        "paid_prompt_tokens": pc.sum(pc.struct_field(at_endpoint, "prompt_tokens")).as_py() or 0,
        "paid_output_tokens": pc.sum(pc.struct_field(at_endpoint, "tokens")).as_py() or 0,
    }
    failures = given.filter(pc.is_valid(pc.struct_field(given, "error")))
    totals |= {f"failed:{n}": c for n, c in Counter(pc.struct_field(failures, "collaborator").to_pylist()).items()}
    return totals, Counter(block["quarantine_reason"].drop_null().to_pylist())


def _rows_with(responses: pa.ChunkedArray, field: str) -> pa.Array:
    """Mark the rows of which any response has an error, or was cut."""
    import pyarrow.compute as pc

    whole = responses.combine_chunks()
    value = pc.struct_field(pc.list_flatten(whole), field)
    marked = value.is_valid() if field == "error" else value
    rows = pc.list_parent_indices(whole).filter(marked)
    return pc.is_in(pa.array(range(len(whole)), pa.int64()), value_set=rows)
