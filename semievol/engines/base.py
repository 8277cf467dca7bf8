"""The interface of inference engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from semievol.method.prompts import Messages


@dataclass(frozen=True)
class Completion:
    """A generated response. Its log-probabilities are reduced to two means over its tokens, in nats.

    `nll` is the negative log-probability; `token_entropy` the entropy of the next-token distribution, from the top-k
    log-probabilities. Either is None if the engine does not give it.
    """

    text: str
    nll: float | None
    token_entropy: float | None
    tokens: int
    prompt_tokens: int = 0  # of the request; with the first of its responses


class RequestRefused(ValueError):
    """The engine does not take this request; others are not touched."""


class PromptTooLong(RequestRefused):
    """The prompt leaves no room for a response in the context window."""


class EngineDied(RuntimeError):
    """The engine is gone; the actor that holds it has to go too."""


class Engine(Protocol):
    """One model; built from its name and an `EngineConfig` in the actor that uses it."""

    @property
    def figures(self) -> dict[str, float]:
        """Return its counts, to be summed over actors.

        vLLM counts `prompt_tokens`, once for each sample, and of these the `cached_tokens` that the prefix cache had.
        """

    async def generate(
        self, messages: Messages, *, temperature: float, seed: int, max_tokens: int, n: int = 1
    ) -> list[Completion]:
        """Return n responses to a chat prompt; sample i draws with seed + i, unless an endpoint does otherwise.

        Raises:
            RequestRefused: the engine does not take this request; PromptTooLong if it exceeds the context window.
            EngineDied: the engine takes no more requests.
            UserError: its endpoint is away, or refuses everything.
        """

    async def score(self, messages: Messages, responses: list[str]) -> list[float]:
        """Return the probabilities of these responses relative to each other (they sum to 1), from one prefill.

        Raises:
            RequestRefused: as above, or the responses do not differ in their first token after what all begin with.
        """

    async def likelihood(self, messages: Messages, response: str) -> float:
        """Return the mean log-probability of the tokens of a given response, in nats; 0 is certain."""

    def close(self) -> None:
        """Release what it holds."""
