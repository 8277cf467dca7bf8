"""Soft targets: what a row teaches where the tokens of its answer tell it from the other answers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any


def soft_targets(
    answer: str, shares: Mapping[str | None, float], spelled: Mapping[str, Sequence[int]]
) -> list[dict[str, Any]]:
    """Return the places in an answer's tokens where other tokens may stand too, or that not all answers lead to.

    The loss with these targets is what is expected if the answer is drawn by the shares, along the path of this answer: a place
    counts by the share of the answers that lead to it, and all other places count in full.

    Args:
        answer: a key of `spelled`.
        shares: of the answers. What `spelled` does not have is left out, and the others make up for it.
        spelled: the tokens of each answer, with those that end a turn.

    Returns:
        For each place `place`, `tokens` that may stand there, and their `shares`.
    """
    total = sum(share for name, share in shares.items() if name in spelled)
    likely = [(tuple(spelled[name]), share / total) for name, share in shares.items() if name in spelled and share]
    path, found = tuple(spelled[answer]), []
    for place in range(len(path) if likely else 0):
        following: dict[int, float] = defaultdict(float)
        for tokens, share in likely:
            if tokens[:place] == path[:place]:
                following[tokens[place]] += share
        if len(following) != 1 or not math.isclose(following[path[place]], 1.0, abs_tol=1e-6):
            found.append({"place": place, "tokens": list(following), "shares": list(following.values())})
    return found
