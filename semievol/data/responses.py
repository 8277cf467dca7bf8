"""Responses and their distributions as records of the tables, and back."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from semievol.method.confidence import Response, Verdict
from semievol.tasks import Task

_SHARES = 32  # of a distribution over a large label set, the most that a finished row keeps


def to_record(response: Response) -> dict[str, Any]:
    """Return a response as a record, with the largest shares of its distribution."""
    shares = response.distribution
    return vars(response) | {"distribution": None if shares is None else listed(shares)}


def from_record(record: dict[str, Any], choices: Sequence[str] | None = None) -> Response:
    """Return the response of a record; `choices` are as for `unlisted`."""
    given = record["distribution"]
    return Response(**record | {"distribution": None if given is None else unlisted(given, choices)})


def of_verdict(verdict: Verdict, task: Task) -> dict[str, Any]:
    """Return a verdict as the columns of a row; an open set of answers has too many shares to keep."""
    shares = listed(verdict.shares) if task.closed or task.sets else None
    return vars(verdict) | {"shares": shares}


def listed(shares: Mapping[Any, float]) -> list[dict[str, Any]]:
    """Return shares as records: of many the largest, with the rest as the share of the answer null."""
    kept: Mapping[Any, float] = (
        dict(heapq.nlargest(_SHARES, shares.items(), key=lambda item: item[1])) if len(shares) > _SHARES else shares
    )
    found: list[dict[str, Any]] = [{"answer": a, "share": s} for a, s in kept.items()]
    if len(kept) < len(shares):
        found.append({"answer": None, "share": max(0.0, sum(shares.values()) - sum(kept.values()))})
    return found


def unlisted(entries: Iterable[dict[str, Any]], choices: Sequence[str] | None = None) -> dict[str, float]:
    """Return the shares in records. What is left to the answer null goes to the other `choices`, to each the same."""
    shares = {entry["answer"]: entry["share"] for entry in entries}
    rest = shares.pop(None, None)
    if rest is not None:
        others = [choice for choice in choices or () if choice not in shares]
        shares |= dict.fromkeys(others, rest / max(len(others), 1))
    return shares
