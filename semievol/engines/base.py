"""Inference engines behind one small interface: vLLM in the labeler's own process, or any OpenAI-compatible endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from semievol.config import EngineConfig
from semievol.method.prompts import Messages


@dataclass(frozen=True)
class Completion:
    """A generated response, its log-probabilities reduced to two means over its tokens, in nats.

    `nll` is the negative log-probability (the released estimate of the entropy); `token_entropy` the entropy of the
    next-token distribution, from the top-k log-probabilities. Either is None where the engine does not give it.
    `prompt_tokens` are those of the request, which stand at the first of its responses.
    """

    text: str
    nll: float | None
    token_entropy: float | None
    tokens: int
    prompt_tokens: int = 0


class RequestRefused(ValueError):
    """The engine does not take this request; others are not touched."""


class PromptTooLong(RequestRefused):
    """The prompt leaves no room for a response in the context window."""


class EngineDied(RuntimeError):
    """The engine is gone; the actor that holds it has to go too."""


class Engine(Protocol):
    """One model; built in the actor that uses it."""

    def __init__(self, model: str, config: EngineConfig) -> None: ...

    @property
    def figures(self) -> dict[str, float]:
        """What it has counted of itself, to be summed over actors.

        vLLM counts `prompt_tokens`, those of a prompt once for each of its samples, and of these `cached_tokens`, which the
        prefix cache had.
        """

    async def generate(
        self, messages: Messages, *, temperature: float, seed: int, max_tokens: int, n: int = 1
    ) -> list[Completion]:
        """n responses to a chat prompt; sample i draws with seed + i, unless an endpoint does it in another way.

        Raises:
            PromptTooLong: prompt and response do not fit the context window.
            RequestRefused: the engine does not take this request.
            EngineDied: the engine failed; it takes no more requests.
            UserError: its endpoint is away, or refuses everything; the row may be asked again when that is mended.
        """

    async def score(self, messages: Messages, responses: list[str]) -> list[float]:
        """The probabilities of these responses relative to each other (they sum to 1), without sampling: one prefill.

        Raises:
            RequestRefused: the responses do not differ in their first token after what all begin with.
            PromptTooLong, EngineDied: as above.
        """

    async def likelihood(self, messages: Messages, response: str) -> float:
        """Mean log-probability of the tokens of a given response, in nats; 0 is certain.

        Raises:
            RequestRefused: the engine cannot tell.
            PromptTooLong, EngineDied: as above.
        """

    def close(self) -> None:
        """Give back what it holds; it is asked nothing any more."""
