"""From several responses to one pseudo-label with a confidence (paper, sections 3.2 and 3.3)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from semievol.tasks import Row, Task

_VOTE_TEMPERATURE = 0.1


@dataclass(frozen=True)
class Response:
    """One sampled response, reduced: the canonical answer (None if unparsable) and its length-normalised entropy.

    `entropy` is H(y) = -(1/|y|) * sum_t log p(y_t), in nats: the authors' released estimate.
    """

    answer: str | None
    entropy: float
    tokens: int


@dataclass(frozen=True)
class Verdict:
    """The standing answer of a row. `entropy` is the mean over the responses that gave it."""

    answer: str
    entropy: float
    agreement: float


def vote(task: Task, row: Row, neighbors: list[tuple[Row, float]]) -> Response | None:
    """The answer that the nearest labeled rows give, or None where none of theirs is an answer to this row.

    A neighbour at cosine s weighs exp(s / 0.1). The entropy is -log of the answer's share. A model's is a mean over
    tokens of which one carries the choice, so the vote weighs more where the two are averaged.

    Args:
        neighbors: labeled rows with their cosines.
    """
    shares: dict[str, float] = {}
    for solved, cosine in neighbors:
        answer = task.transfer(solved.answer or "", solved, row)
        if answer is not None:
            shares[answer] = shares.get(answer, 0.0) + math.exp(cosine / _VOTE_TEMPERATURE)
    if not shares:
        return None
    answer = max(shares, key=lambda a: shares[a])
    return Response(answer, -math.log(shares[answer] / sum(shares.values())), 0)


def distinct(task: Task, responses: list[Response]) -> list[str]:
    """The differing answers, in the order of first mention; unparsable responses give none."""
    found: list[str] = []
    for response in responses:
        if response.answer is not None and not any(task.same(response.answer, a) for a in found):
            found.append(response.answer)
    return found


def agree(task: Task, responses: list[Response]) -> bool:
    """Whether every collaborator gave the same, parsable answer: then it stands without justification."""
    return all(r.answer is not None for r in responses) and len(distinct(task, responses)) == 1


def verdict(task: Task, responses: list[Response], *, decided: Response | None = None) -> Verdict | None:
    """The pseudo-label of a row, or None when no response could be parsed.

    Args:
        decided: the response of self-justification. When it is parsable its answer stands, with its own entropy;
            otherwise the majority stands, ties going to the lower entropy.
    """
    candidates = distinct(task, responses)
    if decided is not None and decided.answer is not None:
        votes = [r for r in responses if r.answer is not None and task.same(r.answer, decided.answer)]
        return Verdict(decided.answer, decided.entropy, len(votes) / len(responses))
    if not candidates:
        return None

    def standing(answer: str) -> Verdict:
        votes = [r for r in responses if r.answer is not None and task.same(r.answer, answer)]
        return Verdict(answer, sum(r.entropy for r in votes) / len(votes), len(votes) / len(responses))

    return max(map(standing, candidates), key=lambda v: (v.agreement, -v.entropy))


def sampling_seed(run_seed: int, row_id: int, collaborator: int) -> int:
    """A 31-bit seed that depends on nothing but these three, so that a resumed run draws the same samples."""
    digest = hashlib.blake2b(f"{run_seed}:{row_id}:{collaborator}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
