"""Turn the responses to a row into one pseudo-label with its confidences (paper, sections 3.2 and 3.3)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from semievol.tasks import Row, Task

Default = TypeVar("Default", float, None)
Same = Callable[[str, str], bool]  # tells whether two canonical answers agree

_VOTE_TEMPERATURE = 0.1


@dataclass(frozen=True)
class Response:
    """One collaborator's response to a row, reduced to a few numbers. Entropies are in nats.

    Attributes:
        answer: canonical; None if the response holds none.
        nll: mean negative log-probability of the response's tokens: the authors' released estimate of H(y). With a
            distribution, -log of the answer's share.
        token_entropy: mean entropy of the next-token distributions. With a distribution, its entropy.
        distribution: shares of all answers, if the collaborator gives them; None for a sampled response.
        error: the reason if there is no response.
        cut: the row was shortened for the prompt to fit.
        prompt_tokens: of the request, only on the first of its responses; 0 if the engine does not tell.
    """

    collaborator: str
    answer: str | None = None
    nll: float | None = None
    token_entropy: float | None = None
    tokens: int = 0
    distribution: dict[str, float] | None = None
    error: str | None = None
    cut: bool = False
    prompt_tokens: int = 0


Weighted = tuple[Response, float]


@dataclass(frozen=True)
class Verdict:
    """The pseudo-label of a row and its confidence measures, in nats.

    `nll` and `token_entropy` are means over the responses that give the answer, or those of self-justification if it
    decided. `vote_entropy` is the entropy of the mean of the collaborators' distributions; responses without an answer
    count as one more answer. `agreement` is the share of all responses that give the answer. `shares` is that mean, or
    of a task whose answers are sets the share of the responses that have each label; then `vote_entropy` is the sum of
    the entropies of having each label or not.
    """

    answer: str
    agreement: float
    nll: float | None
    token_entropy: float | None
    vote_entropy: float
    shares: dict[str, float]


def token_entropy(logprobs: npt.ArrayLike) -> float:
    """Return the mean of the `token_entropies` of a response, 0 if it has no tokens."""
    each = token_entropies(logprobs)
    return float(each.mean()) if each.size else 0.0


def token_entropies(logprobs: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the entropies of next-token distributions, in nats, from top-k log-probabilities; shape (tokens,).

    The rest of the probability counts as one more token, so each is a lower bound, tight for peaked distributions.

    Args:
        logprobs: shape (tokens of the response, k), the log-probabilities of the likeliest tokens; -inf pads.
    """
    top = np.atleast_2d(np.asarray(logprobs, dtype=np.float64))
    if not top.size:
        return np.empty(0)
    shares = np.exp(top)
    rest = np.maximum(1.0 - shares.sum(axis=1), 0.0)
    each = (shares * np.where(shares > 0, top, 0.0)).sum(axis=1) + rest * np.log(np.where(rest > 0, rest, 1.0))
    return -each + 0.0  # never -0.0


def entropy(shares: Iterable[float]) -> float:
    """Return the Shannon entropy in nats."""
    return -sum(p * math.log(p) for p in shares if p > 0) + 0.0  # never -0.0


def from_distribution(collaborator: str, shares: dict[str, float]) -> Response:
    """Return the response of a collaborator that gives the share of every answer."""
    answer = max(shares, key=lambda a: shares[a])
    return Response(collaborator, answer, -math.log(shares[answer]), entropy(shares.values()), 0, shares)


def vote(task: Task, row: Row, neighbors: list[tuple[Row, float]]) -> dict[str, float] | None:
    """Return the answers of the nearest labeled rows with their shares, or None if none of them fits this row.

    A neighbor with cosine s has weight exp(s / 0.1).
    """
    weights: dict[str, float] = {}
    for solved, cosine in neighbors:
        answer = task.transfer(solved.answer or "", solved, row)
        if answer is not None:
            weights[answer] = weights.get(answer, 0.0) + math.exp(cosine / _VOTE_TEMPERATURE)
    total = sum(weights.values())
    return {answer: weight / total for answer, weight in weights.items()} or None


def mixture(same: Same, responses: list[Response], weights: Sequence[float] | None = None) -> dict[str, float]:
    """Return the weighted mean of the responses' distributions over answers; a sampled answer has share 1.

    Answers that agree count as the first of them. Responses without an answer, or without weight, are left out.

    Args:
        weights: of each response; default: equal.
    """
    shares: dict[str, float] = {}
    weights = [1.0] * len(responses) if weights is None else weights
    answered = [(r, weight) for r, weight in zip(responses, weights, strict=True) if r.answer is not None and weight]
    total = sum(weight for _, weight in answered)
    for response, weight in answered:
        before = list(shares)  # the answers of one distribution differ, so they are compared with earlier ones only
        for answer, share in (response.distribution or {response.answer or "": 1.0}).items():
            name = answer if answer in shares else next((known for known in before if same(known, answer)), answer)
            shares[name] = shares.get(name, 0.0) + share * weight / total
    return shares


def distinct(same: Same, responses: list[Response]) -> list[str]:
    """Return the different answers, in the order of first mention."""
    answers: list[str] = []
    for response in responses:
        if response.answer is not None and not any(same(response.answer, a) for a in answers):
            answers.append(response.answer)
    return answers


def agree(same: Same, responses: list[Response]) -> bool:
    """Tell whether all responses give the same answer, so that none needs justification. Errors do not count."""
    given = [r for r in responses if r.error is None]
    return all(r.answer is not None for r in given) and len(distinct(same, given)) == 1


def verdict(
    same: Same,
    responses: list[Response],
    *,
    decided: Response | None = None,
    task: Task | None = None,
    weights: Sequence[float] | None = None,
) -> Verdict | None:
    """Return the pseudo-label of a row, or None if no response that has weight has an answer.

    The answer with the largest share of the mixture wins: of sampled responses, the majority's. The lower mean `nll`
    breaks ties. Of sets, each label that more than half of the responses have is in the answer.

    Args:
        decided: the response of self-justification. If it has an answer, that one wins, with its own entropies.
        task: needed if its answers are sets.
        weights: of each response, in the mixture and in all means and shares of responses; default: equal.
    """
    weights = [1.0] * len(responses) if weights is None else weights
    shares = mixture(same, responses, weights)
    if not shares:
        return None
    given = [(r, weight) for r, weight in zip(responses, weights, strict=True) if r.error is None and weight]
    silent = _weight((r, weight) for r, weight in given if r.answer is None) / _weight(given)
    vote_entropy = entropy([*(share * (1 - silent) for share in shares.values()), silent])

    def supporting(answer: str) -> list[Weighted]:
        return [(r, weight) for r, weight in given if r.answer is not None and same(r.answer, answer)]

    if task is not None and task.sets:
        shares = marginals(task, shares)
        top = task.joined(label for label, share in shares.items() if share > 0.5)
        vote_entropy = sum(entropy([share * (1 - silent), 1 - share * (1 - silent)]) for share in shares.values())
        sources = supporting(top) or [(r, w) for r, w in given if r.answer is not None]  # no response may give this set
    else:
        most = round(max(shares.values()), 9)
        tied = [answer for answer, share in shares.items() if round(share, 9) == most]
        top = min(tied, key=lambda a: _mean(supporting(a), "nll", math.inf)) if len(tied) > 1 else tied[0]
        # The mixture's top answer may be the top answer of no single response.
        sources = supporting(top) or [(from_distribution("", shares), 1.0)]
    if decided is not None and decided.answer is not None:
        top, sources = decided.answer, [(decided, 1.0)]
    return Verdict(
        answer=top,
        agreement=_weight(supporting(top)) / _weight(given),
        nll=_mean(sources, "nll", None),
        token_entropy=_mean(sources, "token_entropy", None),
        vote_entropy=vote_entropy,
        shares=shares,
    )


def marginals(task: Task, shares: dict[str, float]) -> dict[str, float]:
    """Return the share of each label over sets of labels with these shares."""
    found: dict[str, float] = {}
    for answer, share in shares.items():
        for label in task.parts(answer):
            found[label] = found.get(label, 0.0) + share
    return found


def _weight(responses: Iterable[Weighted]) -> float:
    return sum(weight for _, weight in responses)


def _mean(responses: Iterable[Weighted], measure: str, default: Default) -> float | Default:
    """Return the weighted mean of a measure over the responses that have it."""
    known = [(getattr(r, measure), weight) for r, weight in responses if getattr(r, measure) is not None]
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else default


def sampling_seed(run_seed: int, row_id: int, collaborator: int) -> int:
    """Return a 31-bit seed that depends only on the arguments, so that a resumed run draws the same samples."""
    digest = hashlib.blake2b(f"{run_seed}:{row_id}:{collaborator}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
