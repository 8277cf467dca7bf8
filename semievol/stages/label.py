"""Label (collaborative learning, paper section 3.2): every collaborator answers every unlabeled row.

Collaborators that share weights share one engine pass; the common case is one pass for all, in which rows whose answers
differ go straight back into the same engine for self-justification. Other weights cost a pass each: the rows stream
through one after the other, and the last one, which holds the justifier's weights, gives the verdict. Writes rows/, in
which a row without a usable answer has a `quarantine_reason` instead of one, and pass-N/ where there are several.
"""

from __future__ import annotations

import uuid
from collections import Counter

import pyarrow as pa

from semievol.config import EngineConfig, LabelConfig
from semievol.data import storage
from semievol.data.tables import ANSWERED_IN_PART, PSEUDO_LABELED
from semievol.inference.labeler import Labeling, Pass
from semievol.inference.pool import ENGINES, Relay
from semievol.runtime import cluster
from semievol.runtime.rows import run_rows, summarize
from semievol.stages.base import Rows, StageContext, StageResult, check_bad_fraction


def run(ctx: StageContext) -> StageResult:
    source, out = (storage.join(ctx.inputs["retrieve"], "rows"), storage.join(ctx.out, "rows"))
    actors = answer_rows(
        ctx,
        source=source,
        out=out,
        schema=PSEUDO_LABELED,
        passes=passes(ctx),
        settings=ctx.config.label,
        labeled=storage.join(ctx.inputs["ingest"], "labeled"),
    )
    totals, reasons = count_answers(out, paid=[who.name for who in ctx.config.label.collaborators if who.endpoint])
    rows = Rows(came_in=storage.count_rows(source), out=totals["answered"], quarantined=totals["quarantined"])
    check_bad_fraction(ctx, rows.quarantined, rows.came_in, [f"{n:,} rows: {r}" for r, n in reasons.most_common()])
    failed = {who.name: totals[f"failed:{who.name}"] for who in ctx.config.label.collaborators}
    for name, count in failed.items():
        check_bad_fraction(ctx, count, rows.came_in, [f"all of collaborator '{name}'; responses[].error says why"])
    share = {name: round(totals[name] / max(rows.out, 1), 4) for name in ("unanimous", "justified")}
    metrics = {
        "unanimous": share["unanimous"],
        "justified": share["justified"],
        "answered_in_part": totals["in_part"],  # rows on which a collaborator failed
        "failed": failed,  # rows, by collaborator
        "cut_to_fit": totals["cut"],
        "prompt_tokens": totals["prompt_tokens"],  # with label.mode: score none are counted
        "output_tokens": totals["output_tokens"],
        "engine": engine_figures(actors),
        "cost": _cost(ctx.config.engine, totals),
        "reasons": dict(reasons.most_common(20)),
    }
    headline = f"{share['unanimous']:.0%} unanimous, {share['justified']:.0%} justified"
    headline += "".join(f"; {name} failed on {count:,}" for name, count in failed.items() if count)
    return StageResult(rows, metrics, headline)


def passes(ctx: StageContext) -> list[Pass]:
    """The collaborators grouped by their weights; the justifier's weights come last, and neighbours go with them."""
    config = ctx.config.label
    groups: dict[tuple[str, str | None], list[int]] = {}
    free = []
    for i, who in enumerate(config.collaborators):
        if who.kind == "neighbors":
            free.append(i)
        else:
            model = who.model if who.endpoint else ctx.weights(who.model)
            groups.setdefault((model, who.endpoint), []).append(i)
    if config.justify and sum(who.samples for who in config.collaborators) > 1:
        judge = (ctx.weights("warm"), None)
        groups[judge] = groups.pop(judge, [])  # to the end
    groups = groups or {("", None): []}
    *_, last = groups
    groups[last] += free
    return [Pass(*weights, tuple(members), last=weights == last) for weights, members in groups.items()]


def answer_rows(
    ctx: StageContext,
    *,
    source: str,
    out: str,
    schema: pa.Schema,
    passes: list[Pass],
    settings: LabelConfig,
    labeled: str | None,
    columns: dict[str, str] | None = None,
) -> list[dict[str, float]]:
    """Let the collaborators of `settings` answer the rows of `source`; also what evaluation is made of.

    Returns:
        What each actor's engine has counted of itself, with `start_s`, the seconds that it took to start.
    """
    pool = ctx.config.resources.label
    pool = pool.model_copy(update={"max_actors": cluster.at_most(pool)})
    engine_config = ctx.config.engine
    max_seqs = int(engine_config.extra.get("max_num_seqs", engine_config.max_num_seqs))
    figures = []
    for number, work in enumerate(passes):
        names = [settings.collaborators[i].name for i in work.members]
        written = out if work.last else storage.join(ctx.out, f"pass-{number}", "rows")
        elsewhere = {"kind": "openai", "endpoint": work.endpoint} if work.endpoint else {}
        at_endpoint = engine_config.model_copy(update=elsewhere)
        whose = f"label.collaborators[{work.members[0]}]" if work.endpoint else "engine"
        labeling = Labeling(
            work=work,
            task=ctx.config.task,
            embedding=ctx.config.embedding,
            labeled=labeled if any(settings.collaborators[i].k for i in work.members) else None,
            settings=settings,
            seed=ctx.config.seed,
            schema=schema if work.last else ANSWERED_IN_PART,
            key=f"{whose}.endpoint" if at_endpoint.kind == "openai" else f"model {work.model}",
        )
        figures += run_rows(
            ctx.row_job,
            source=source,
            out=written,
            actor=Relay,
            arguments={
                "name": uuid.uuid4().hex,
                "hosts": ENGINES.hosts(work, ctx.engine, at_endpoint, pool),
                "labeling": labeling,
                # An endpoint has time limits and retries of its own.
                "no_progress_s": None if at_endpoint.kind == "openai" else ctx.config.limits.no_progress_s,
            },
            pool=pool.model_copy(update={"num_cpus": 0.0, "num_gpus": 0.0}),  # the engines reserve them
            rows_in_flight=at_endpoint.concurrency if at_endpoint.kind == "openai" else max_seqs,
            columns=columns,
            note=f"{', '.join(names)}, pass {number + 1} of {len(passes)}" if len(passes) > 1 else "",
        )
        source = written
    return figures


def engine_figures(actors: list[dict[str, float]]) -> dict[str, float]:
    """Of the actors of this attempt: the slowest start, and the share of prompt tokens that the prefix cache had."""
    prompt, cached = (sum(actor.get(f"{kind}_tokens", 0.0) for actor in actors) for kind in ("prompt", "cached"))
    slowest = max((actor["start_s"] for actor in actors), default=0.0)
    return {"start_s": round(slowest, 1), "prefix_cache_hits": round(cached / max(prompt, 1), 4)}


def _cost(engine: EngineConfig, totals: Counter[str]) -> float | None:
    """What the endpoints charge, in the currency of the prices; None without prices. vLLM's tokens cost nothing."""
    price = engine.price_per_million
    if price.input is None or price.output is None:
        return None
    which = "" if engine.kind == "openai" else "paid_"
    prompt, output = (totals[f"{which}{kind}_tokens"] for kind in ("prompt", "output"))
    return round((prompt * price.input + output * price.output) / 1e6, 4)


def count_answers(out: str, *, paid: list[str]) -> tuple[Counter[str], Counter[str]]:
    """Totals over the answered rows, and how many rows were quarantined for which reason.

    Among the totals, as `failed:NAME`, rows to which a collaborator gave an error in place of responses.

    Args:
        paid: names of the collaborators whose tokens are also counted by themselves, as `paid_prompt_tokens` and
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
    """Whether any response of a row has an error, or was cut."""
    import pyarrow.compute as pc

    whole = responses.combine_chunks()
    value = pc.struct_field(pc.list_flatten(whole), field)
    marked = value.is_valid() if field == "error" else value
    rows = pc.list_parent_indices(whole).filter(marked)
    return pc.is_in(pa.array(range(len(whole)), pa.int64()), value_set=rows)
