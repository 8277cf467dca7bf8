"""Combine: weigh every voter by what it is worth on labeled rows that it has not seen, and let the weighted mixture decide.

A voter is a collaborator; all members of a committee that answer for it are one. Writes rows/ as the label stage does, with
the verdict of the weighted mixture, unless self-justification has decided. Rounds after the first, whose model has seen all
labeled rows, have the weights of the first one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from semievol.data import storage
from semievol.data.responses import from_record, of_verdict
from semievol.data.tables import PSEUDO_LABELED, ROW_COLUMNS, to_row
from semievol.inference.bulk import count_answers
from semievol.method import weights
from semievol.method.confidence import Response, verdict
from semievol.method.weights import Cases
from semievol.runtime.rows import map_rows, summarize
from semievol.stages.base import Key, Place, Rows, Stage, StageContext, StageResult
from semievol.tasks import Row, Task

_NOBODY = "no voter that has weight has answered"


def run(ctx: StageContext) -> StageResult:
    source, task = ctx.input("label"), ctx.task
    asked = [who for who in ctx.config.label.collaborators if who.takes_part(0)]  # later ones get the mean weight
    voters = list(dict.fromkeys(weights.voter(who.name) for who in asked))
    # Where embeddings tell whether answers agree, the verdicts of the label stage stand.
    compared = task.cosine is None
    seen = _seen(ctx.input("crossfit", "crossfit"), task, voters) if compared else Cases.joined([], len(voters))
    worth = weights.learn(seen, voters)
    given = {name: each.weight for name, each in worth.items()} if compared else None
    map_rows(source, ctx.rows, _combined, task=task, given=given)
    totals, reasons = count_answers(ctx.rows, paid=[])
    rows = Rows(came_in=storage.count_rows(source), out=totals["answered"], quarantined=totals["quarantined"])
    ctx.check_bad_fraction(rows.quarantined, rows.came_in, [f"{n:,} rows: {r}" for r, n in reasons.most_common()])
    metrics = {
        "voters": {name: _rounded(asdict(each)) for name, each in worth.items()},
        "unanimous": round(totals["unanimous"] / max(rows.out, 1), 4),
        "reasons": dict(reasons.most_common(20)),
    }
    headline = ", ".join(f"{name} {each.weight:.2f}" for name, each in worth.items())
    return StageResult(rows, metrics, f"weights: {headline}")


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}


def _seen(uri: str, task: Task, voters: Sequence[str]) -> Cases:
    """Return what the voters have said about the labeled rows that they have not seen."""
    columns = [*ROW_COLUMNS, "gold", "responses"]
    return Cases.joined(list(summarize(uri, columns, _cases, task=task, voters=voters)), len(voters))


def _cases(block: pa.Table, task: Task, voters: Sequence[str]) -> Cases:
    found = []
    for record in block.to_pylist():
        row, responses = _read(record, task)
        found.append(weights.cases(task, row, record["gold"], responses, voters))
    return Cases.joined(found, len(voters))


def _read(record: dict[str, Any], task: Task) -> tuple[Row, list[Response]]:
    """Return the row of a record, and the responses to it."""
    row = to_row(record | {"answer": None})
    choices = task.choices(row)
    return row, [from_record(response, choices) for response in record["responses"] or []]


def _combined(batch: pa.Table, task: Task, given: Mapping[str, float] | None) -> pa.Table:
    """Return rows of the label stage with the verdict of the weighted mixture; as they are without weights."""
    if given is None:
        return batch.select(PSEUDO_LABELED.names).cast(PSEUDO_LABELED)
    records = [_decided(record, task, given) for record in batch.to_pylist()]
    return pa.Table.from_pylist(records, schema=PSEUDO_LABELED)


def _decided(record: dict[str, Any], task: Task, given: Mapping[str, float]) -> dict[str, Any]:
    if record["answer"] is None:
        return record  # in quarantine since the label stage
    _, responses = _read(record, task)
    own = Response("justification", record["answer"], record["nll"], record["token_entropy"])
    each = weights.of_responses(given, responses)
    decided = own if record["justified"] else None
    found = verdict(task.same, responses, decided=decided, task=task, weights=each)
    nothing = dict.fromkeys(("answer", "agreement", "nll", "token_entropy", "vote_entropy", "shares"))
    nothing |= {"justified": False, "quarantine_reason": _NOBODY}
    return record | (of_verdict(found, task) if found else nothing)


def _inputs(place: Place) -> dict[str, Key]:
    return {"ingest": ("ingest", 0), "label": ("label", place.number), "crossfit": ("label", 0)}


STAGE = Stage(
    name="combine",
    run=run,
    inputs=_inputs,
    verify=lambda checks: checks.same_rows("label"),
    after=("label",),
    wanted=lambda config: config.folds is not None,
    figures=lambda metrics: {"voters": metrics["voters"]},
)
