"""Score a closed set of responses exactly, with as few questions to a model as their prefix tree allows.

A question is asked about a branch of the tree: how likely are the tokens that lead to it, and each token that may follow?
The walk goes down where the probability is. It ends when what lies under the branches that it left out cannot matter.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from semievol.engines.base import RequestRefused

# How far a probability may be from the exact one. The walk counts half of what may lie under the branches that it leaves out, so
# twice this part of the total may lie there, but no more than this part under a branch with several responses.
TOLERANCE = 9e-4


@dataclass(eq=False)
class Branch:
    """A place in the tree where responses part, or where the rest of a single response begins.

    The log-probability of `path[:known]` is known when the branch is reached; `path[known:]` has no other branch.
    """

    path: tuple[int, ...]  # tokens of the response before this branch
    known: int
    tokens: list[int]  # that may follow
    responses: list[int]  # all of those below
    below: list[Branch | int] = field(default_factory=list)  # for each token: a branch, or the response that it ends


Answer = tuple[float, Sequence[float]]  # log-probabilities: of path[known:] in all, and of each of the tokens
Ask = Callable[[Branch], Awaitable[Answer]]


class LabelTree:
    """The prefix tree of a set of responses, built once for all rows that share the set.

    The probabilities are those of the responses' own tokens, relative to each other. If a response is a prefix of another
    one, the token that ends a turn counts as the last token of every response: only it tells the two apart. In other sets
    it is left out, because it would cost a question for each response.

    Args:
        responses: the texts; only messages show them.
        tokens: the token ids of each response.
        end: the token that the model says after a response, or None if it has none.
    """

    def __init__(self, responses: Sequence[str], tokens: Sequence[Sequence[int]], end: int | None) -> None:
        spelled = [tuple(ids) for ids in tokens]
        if end is not None and any(_prefixes(spelled)):
            spelled = [(*ids, end) for ids in spelled]
        for a, b in _prefixes(spelled):
            same = spelled[a] == spelled[b]
            raise RequestRefused(
                f"the labels {responses[a]!r} and {responses[b]!r} cannot be told apart: with this model's vocabulary "
                f"{'both are the same tokens' if same else 'the second begins with all tokens of the first'}. Rename or "
                f"remove one of them"
            )
        self.size = len(spelled)
        self.longest = max(map(len, spelled), default=0)
        self.root = _grow(spelled) if self.size > 1 else None

    async def shares(self, ask: Ask, tolerance: float = TOLERANCE) -> list[float]:
        """Return the probabilities of the responses relative to each other; they sum to 1.

        Args:
            ask: asks the model about a branch; the branches of a level are asked together.
            tolerance: bounds the error of each probability.
        """
        if self.root is None:
            return [1.0] * self.size
        logs = np.full(self.size, -np.inf)
        open_branches = [(0.0, self.root)]  # with log-probabilities, which bound from above what is below them
        while wanted := _needed(logs, open_branches, tolerance):
            answers = await asyncio.gather(*(ask(branch) for _, branch in wanted))
            asked = {branch for _, branch in wanted}
            open_branches = [pair for pair in open_branches if pair[1] not in asked]
            for (above, branch), (path, following) in zip(wanted, answers, strict=True):
                for below, logprob in zip(branch.below, following, strict=True):
                    if isinstance(below, Branch):
                        open_branches.append((above + path + logprob, below))
                    else:
                        logs[below] = above + path + logprob
        if not np.isfinite(best := logs.max()):
            raise RequestRefused(f"the model gives none of the {self.size:,} responses a probability")
        for bound, branch in open_branches:
            logs[branch.responses] = bound - np.log(2 * len(branch.responses))
        shares = np.exp(logs - best)
        return [float(share) for share in shares / shares.sum()]


def _needed(
    logs: np.ndarray, open_branches: list[tuple[float, Branch]], tolerance: float
) -> list[tuple[float, Branch]]:
    """Return the open branches that no walk can leave out, however little the rest turns out to be."""
    if not open_branches:
        return []
    bounds = np.array([bound for bound, _ in open_branches])
    best = max(logs.max(), bounds.max())
    if not np.isfinite(best):
        return []
    bounds = np.exp(bounds - best)
    at_most = np.exp(logs - best).sum() + bounds.sum()  # of the total
    rising = np.argsort(bounds, kind="stable")
    needed = np.cumsum(bounds[rising]) > 2 * tolerance * at_most
    several = np.array([len(branch.responses) > 1 for _, branch in open_branches])
    needed |= (several & (bounds > tolerance * at_most))[rising]
    return [open_branches[place] for place in rising[needed][::-1]]


def _prefixes(spelled: list[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    """Yield pairs of sequences, of which the first is a prefix of the second or equals it."""
    for a, b in itertools.pairwise(sorted(range(len(spelled)), key=spelled.__getitem__)):
        if spelled[b][: len(spelled[a])] == spelled[a]:
            yield a, b


def _grow(spelled: list[tuple[int, ...]]) -> Branch:
    """Build the tree of token sequences, none of which is a prefix of another."""
    root = _branch(spelled, sorted(range(len(spelled)), key=spelled.__getitem__))
    root.known = len(root.path)  # the beginning of all responses tells none apart
    growing = [root]
    while growing:  # no recursion: labels may be longer than Python's stack
        branch = growing.pop()
        depth = len(branch.path)
        for _, group in itertools.groupby(branch.responses, lambda response: spelled[response][depth]):  # noqa: B023
            responses = list(group)
            if len(spelled[responses[0]]) == depth + 1:
                branch.below.append(responses[0])
            else:
                growing.append(_branch(spelled, responses, known=depth + 1))
                branch.below.append(growing[-1])
    return root


def _branch(spelled: list[tuple[int, ...]], responses: list[int], known: int = 0) -> Branch:
    first, last = spelled[responses[0]], spelled[responses[-1]]
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    depth = sum(1 for _ in alike) if len(responses) > 1 else len(first) - 1
    tokens = dict.fromkeys(spelled[response][depth] for response in responses)
    return Branch(first[:depth], known, list(tokens), responses)
