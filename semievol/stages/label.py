"""Label (collaborative learning, paper section 3.2): every collaborator answers every unlabeled row.

Collaborators that share weights share one engine pass; in the last pass, which gives the verdict, rows whose answers
differ go straight back into the engine for self-justification. Writes rows/, in which a row without a usable answer has a
`quarantine_reason` instead of one, and pass-N/ where there are several passes.

With a committee, each pass also answers the labeled rows, for crossfit/: of the members only the one that has not seen a
row does, and what is shown beside the row is from the other folds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from semievol.config import Collaborator, EngineConfig
from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.data.tables import CROSSFITTED, PSEUDO_LABELED
from semievol.inference.bulk import Request, answer_rows, count_answers, engine_figures
from semievol.inference.labeler import Panel, Pass
from semievol.method.prompts import Prompts
from semievol.retrieval.search import CROSSFIT
from semievol.stages.base import Key, Place, Rows, Stage, StageContext, StageResult

GOLD = {"answer": "gold"}  # of held-out rows, which get answers of their own
# Keys of the config that the answers of an engine depend on.
ENGINE_SETTINGS = (
    *("engine.kind", "engine.endpoint", "engine.dtype", "engine.max_model_len", "engine.output_extra", "task"),
    "model.thinking",
)


def run(ctx: StageContext) -> StageResult:
    config, engine = ctx.config.label, ctx.config.engine
    source, out = ctx.input("retrieve"), ctx.rows
    how, asked = ctx.config.label_how, (config.collaborators, passes(ctx))
    requests = [request(ctx, source, out, *asked, PSEUDO_LABELED, how)]
    if "index" in ctx.inputs:  # no verdict by a model that has seen the row: the best member may have
        labeled, crossfit = ctx.input("index", CROSSFIT), storage.join(ctx.out, CROSSFIT)
        requests.append(request(ctx, labeled, crossfit, *asked, CROSSFITTED, how | {"justify": False}, GOLD))
    actors = answer_rows(ctx.engines, *requests)
    paid = [who.name for who in config.collaborators if who.endpoint]
    totals, reasons = count_answers(out, paid=paid)
    crossfitted: dict[str, Any] = {}
    for each in requests[1:]:
        counted, why = count_answers(each.out, paid=paid)
        totals.update({name: count for name, count in counted.items() if name.endswith("_tokens")})
        unheard = {who.name: counted[f"failed:{who.name}"] for who in config.collaborators}
        labeled_rows = counted["answered"] + counted["quarantined"]
        crossfitted = {"crossfit": {"rows": labeled_rows, "quarantined": counted["quarantined"], "failed": unheard}}
        reasons_there = [f"{n:,} labeled rows: {reason}" for reason, n in why.most_common()]
        ctx.check_bad_fraction(counted["quarantined"], labeled_rows, reasons_there)
        for name, count in unheard.items():
            ctx.check_bad_fraction(count, labeled_rows, [f"labeled rows, all of collaborator '{name}'"])
    rows = Rows(came_in=storage.count_rows(source), out=totals["answered"], quarantined=totals["quarantined"])
    ctx.check_bad_fraction(rows.quarantined, rows.came_in, [f"{n:,} rows: {r}" for r, n in reasons.most_common()])
    failed = {who.name: totals[f"failed:{who.name}"] for who in config.collaborators}
    for name, count in failed.items():
        ctx.check_bad_fraction(count, rows.came_in, [f"all of collaborator '{name}'; responses[].error says why"])
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
        "cost": _cost(engine, totals),
        "reasons": dict(reasons.most_common(20)),
    } | crossfitted
    headline = f"{share['unanimous']:.0%} unanimous, {share['justified']:.0%} justified"
    headline += "".join(f"; {name} failed on {count:,}" for name, count in failed.items() if count)
    return StageResult(rows, metrics, headline)


def request(
    ctx: StageContext,
    source: str,
    out: str,
    collaborators: Sequence[Collaborator],
    passes: Sequence[Pass],
    schema: pa.Schema,
    how: dict[str, Any],
    columns: dict[str, str] | None = None,
) -> Request:
    """Return the request that lets collaborators answer the rows of `source`; `how` sets up their panel."""
    config, task = ctx.config, ctx.task
    labeled = ctx.input("ingest", "labeled")
    if "max_tokens" in how:  # a label that is cut off is no answer
        how = how | {"max_tokens": max(how["max_tokens"], task.longest)}
    return Request(
        job=ctx.row_job,
        source=source,
        out=out,
        schema=schema,
        panel=Panel(
            Prompts(task, config.prompt), tuple(collaborators), labeled, config.embedding, seed=config.seed, **how
        ),
        passes=passes,
        engine=config.engine,
        resources=config.resources.label,
        no_progress_s=config.limits.no_progress_s,
        columns=columns,
    )


def passes(ctx: StageContext) -> list[Pass]:
    """Group the collaborators by their weights. The justifier's weights come last; neighbors and a probe go with them."""
    config = ctx.config.label
    groups: dict[tuple[str, str | None], list[int]] = {}
    free = []
    for i, who in enumerate(config.collaborators):
        if who.kind != "model":
            free.append(i)
        else:
            model = who.model if who.endpoint else ctx.weights(who.model)
            groups.setdefault((model, who.endpoint), []).append(i)
    if ctx.config.label_how["justify"] and sum(who.samples for who in config.collaborators) > 1:
        judge = (ctx.weights("warm"), None)
        groups[judge] = groups.pop(judge, [])  # to the end
    groups = groups or {("", None): []}
    *_, last = groups
    groups[last] += free
    others = {who.model for who in config.collaborators if who.brings_weights()}  # of another family, maybe
    chats = {weights: replace(ctx.chat, template=None) if weights[0] in others else ctx.chat for weights in groups}
    return [
        Pass(*weights, tuple(members), last=weights == last, chat=chats[weights]) for weights, members in groups.items()
    ]


def _cost(engine: EngineConfig, totals: Counter[str]) -> float | None:
    """Return what the endpoints charge, in the currency of the prices; None without prices. vLLM's tokens cost nothing."""
    price = engine.price_per_million
    if price.input is None or price.output is None:
        return None
    which = "" if engine.kind == "openai" else "paid_"
    prompt, output = (totals[f"{which}{kind}_tokens"] for kind in ("prompt", "output"))
    return round((prompt * price.input + output * price.output) / 1e6, 4)


def _inputs(place: Place) -> dict[str, Key]:
    read = {"ingest": ("ingest", 0), "warmup": place.warm, "retrieve": ("retrieve", place.rows)}
    read |= {"index": ("index", 0)} if place.config.folds and not place.number else {}
    earlier = {who.earlier_round() for who in place.config.label.collaborators}
    return read | {f"round-{n}": ("finetune", n) for n in range(place.number) if n in earlier}


def _verify(checks: RowChecks) -> None:
    checks.same_rows("retrieve")
    if "index" in checks.inputs:
        checks.ids(storage.join(checks.uri, CROSSFIT), equal=storage.join(checks.inputs["index"], CROSSFIT))


STAGE = Stage(
    name="label",
    run=run,
    inputs=_inputs,
    verify=_verify,
    after=("validate/warm",),
    version=2,
    settings=(
        *(*ENGINE_SETTINGS, "seed", "engine.top_logprobs"),
        *("label_prompt", "label.collaborators", "label_how"),
    ),
    models=("collaborators", "chat_template"),
    pool="label",
)
