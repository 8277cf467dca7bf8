"""Bulk inference: a panel of collaborators answers every row of a folder, one pass for each set of weights."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from semievol.config import EngineConfig, PoolResources
from semievol.data import storage
from semievol.data.tables import in_part
from semievol.inference.labeler import Labeling, Panel, Pass
from semievol.inference.pool import EnginePool
from semievol.inference.relay import Relay
from semievol.runtime import cluster
from semievol.runtime.rows import RowJob, run_rows, summarize

_TOKENS = ("prompt_tokens", "output_tokens")


@dataclass(frozen=True)
class Request:
    """Rows to answer, and everything that it takes."""

    job: RowJob
    source: str  # URI of the rows, with their neighbors if the panel wants solved examples
    out: str  # URI below the job's folder
    schema: pa.Schema
    panel: Panel
    passes: Sequence[Pass]
    engine: EngineConfig
    resources: PoolResources
    no_progress_s: float  # an engine that finishes no row for so long is replaced
    columns: dict[str, str] | None = None  # renames of columns of the source, old to new


def answer_rows(engines: EnginePool, *requests: Request) -> list[dict[str, float]]:
    """Answer the rows of requests, from where an earlier attempt stopped. Return the figures of the engines.

    The requests have the same passes: an engine answers the rows of all of them before the next one starts.
    """
    sources, figures = [request.source for request in requests], []
    for number in range(len(requests[0].passes)):
        for i, request in enumerate(requests):
            sources[i], counted = _pass(engines, request, number, sources[i])
            figures += counted
    return figures


def _pass(engines: EnginePool, request: Request, number: int, source: str) -> tuple[str, list[dict[str, float]]]:
    """Return where a pass has written the rows of `source`, and the figures of its engines."""
    work, panel = request.passes[number], request.panel
    resources = request.resources.model_copy(update={"max_actors": cluster.at_most(request.resources)})
    names = [panel.collaborators[i].name for i in work.members]
    part = request.out.rpartition("/")[2]
    written = request.out if work.last else storage.join(request.job.folder, f"pass-{number}", part)
    at_endpoint = {"kind": "openai", "endpoint": work.endpoint} if work.endpoint else {}
    config = request.engine.model_copy(update=at_endpoint)
    elsewhere = config.kind == "openai"
    whose = f"label.collaborators[{_place(panel, work.members[0])}]" if work.endpoint else "engine"
    schema = request.schema if work.last else in_part(request.schema)
    key = f"{whose}.endpoint" if elsewhere else f"model {work.model}"
    at_a_time = config.extra.get("max_num_seqs", config.max_num_seqs)
    figures = run_rows(
        request.job,
        source=source,
        out=written,
        actor=Relay,
        arguments={
            "name": uuid.uuid4().hex,
            "keeper": engines.keeper(work, config, resources),
            "labeling": Labeling(work, panel, schema, key),
            "no_progress_s": None if elsewhere else request.no_progress_s,  # endpoints have their own limits
        },
        pool=resources.model_copy(update={"num_cpus": 0.0, "num_gpus": 0.0}),  # the engines reserve them
        rows_in_flight=config.concurrency if elsewhere else int(at_a_time),
        columns=request.columns if number == 0 else None,
        note=f"{', '.join(names)}, pass {number + 1} of {len(request.passes)}" if len(request.passes) > 1 else "",
    )
    return written, figures


def _place(panel: Panel, number: int) -> int:
    """Return the place of a collaborator in the config, where all members of a committee are one."""
    names = [who.name.partition("@")[0] for who in panel.collaborators]
    return list(dict.fromkeys(names)).index(names[number])


def engine_figures(actors: list[dict[str, float]]) -> dict[str, float]:
    """Return the slowest start of the actors, the share of prompt tokens that the prefix cache had, and requests per score."""
    prompt, cached = (sum(actor.get(f"{kind}_tokens", 0.0) for actor in actors) for kind in ("prompt", "cached"))
    slowest = max((actor["start_s"] for actor in actors), default=0.0)
    scored, requests = (sum(actor.get(name, 0.0) for actor in actors) for name in ("scored_rows", "score_requests"))
    figures = {"start_s": round(slowest, 1), "prefix_cache_hits": round(cached / max(prompt, 1), 4)}
    return figures | ({"requests_per_score": round(requests / scored, 1)} if scored else {})


def count_answers(out: str, *, paid: list[str]) -> tuple[Counter[str], Counter[str]]:
    """Return totals over the answered rows, and how many rows were quarantined for which reason.

    `failed:NAME` counts the rows to which a collaborator gave an error in place of responses. The tokens of the
    collaborators in `paid` also count as `paid_prompt_tokens` and `paid_output_tokens`.
    """
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    columns = ["answer", "agreement", "justified", *_TOKENS, "responses", "quarantine_reason"]
    for counted, why in summarize(out, columns, _count, paid=paid):
        totals.update(counted)
        reasons.update(why)
    return totals, reasons


def _count(block: pa.Table, paid: list[str]) -> tuple[dict[str, int], dict[str, int]]:
    import pyarrow.compute as pc

    answered = pc.is_valid(block["answer"])
    responses = block["responses"].combine_chunks()
    given, row_of = pc.list_flatten(responses), pc.list_parent_indices(responses)
    erroneous = pc.struct_field(given, "error").is_valid()
    rows = pa.array(range(len(block)), pa.int64())
    marks = (erroneous, pc.struct_field(given, "cut"))
    failed, cut = (pc.is_in(rows, value_set=row_of.filter(marked)) for marked in marks)
    at_endpoint = given.filter(pc.is_in(pc.struct_field(given, "collaborator"), value_set=pa.array(paid, pa.string())))
    counted = {name: block[name] for name in _TOKENS} | {
        "in_part": pc.and_(answered, failed),
        "cut": cut,
        "answered": answered,
        "quarantined": pc.invert(answered),
        "unanimous": pc.and_(answered, pc.and_(pc.equal(block["agreement"], 1.0), pc.invert(block["justified"]))),
        "justified": pc.and_(answered, block["justified"]),
        "paid_prompt_tokens": pc.struct_field(at_endpoint, "prompt_tokens"),
        "paid_output_tokens": pc.struct_field(at_endpoint, "tokens"),
    }
    totals = {name: pc.sum(values).as_py() or 0 for name, values in counted.items()}
    failures = Counter(pc.struct_field(given.filter(erroneous), "collaborator").to_pylist())
    totals |= {f"failed:{name}": count for name, count in failures.items()}
    return totals, Counter(block["quarantine_reason"].drop_null().to_pylist())
