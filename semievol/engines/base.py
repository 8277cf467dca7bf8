"""The interface of inference engines, and their errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from semievol.method.prompts import Messages


@dataclass(frozen=True)
class Completion:
    """A generated response, with its log-probabilities reduced to two means over its tokens, in nats.

    `nll` is the negative log-probability (the released estimate of the entropy). `token_entropy` is the entropy of the
    next-token distribution, from the top-k log-probabilities. Either is None if the engine does not give it.
    `prompt_tokens` counts those of the request, on the first of its responses only.
    """

    text: str
    nll: float | None
    token_entropy: float | None
    tokens: int
    prompt_tokens: int = 0


class RequestRefused(ValueError):
    """The engine rejects this request; it does not affect others."""


class PromptTooLong(RequestRefused):
    """The prompt leaves no room for a response in the context window."""


class EngineDied(RuntimeError):
    """The engine is dead; the actor that holds it must exit too."""


class Engine(Protocol):
    """An engine with one model, built in the actor that uses it.

    Requests raise PromptTooLong, RequestRefused or EngineDied, and UserError if an endpoint is unavailable or rejects every
    request; ask again after the user has fixed that.
    """

    @property
    def figures(self) -> dict[str, float]:
        """Return the engine's own counts, to be summed over actors.

        vLLM counts `prompt_tokens`, for each sample of a prompt, and `cached_tokens`: those that the prefix cache had. It
        also counts the rows that `score` has answered and its requests: `scored_rows`, `score_requests`.
        """

    async def generate(
        self, messages: Messages, *, temperature: float, seed: int, max_tokens: int, n: int = 1
    ) -> list[Completion]:
        """Generate n responses to a chat prompt; sample i uses seed + i, unless an endpoint does it in another way."""

    async def score(self, messages: Messages, responses: list[str]) -> list[float]:
        """Return the probabilities of the responses relative to each other (they sum to 1), to 1e-3.

        Each is the likelihood of the response's tokens, normalised. If a response of the set is a prefix of another one, the
        token that ends a turn counts as the last token of all. Refuse a set in which two responses are the same tokens.
        """

    async def likelihood(self, messages: Messages, response: str) -> float:
        """Return the mean log-probability of the tokens of a given response, in nats; 0 is certain."""

    def close(self) -> None:
        """Release all resources. No request follows."""
