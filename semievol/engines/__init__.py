"""Inference engines behind one small interface; vLLM is the one there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from semievol.config import EngineConfig
from semievol.prompts import Messages


@dataclass(frozen=True)
class Completion:
    """A generated response. `entropy` is the mean negative log-probability of its tokens, in nats."""

    text: str
    entropy: float
    tokens: int


class RequestRefused(ValueError):
    """The engine does not take this request; others are not touched."""


class PromptTooLong(RequestRefused):
    """The prompt leaves no room for a response in the context window."""


class EngineDied(RuntimeError):
    """The engine is gone; the actor that holds it has to go too."""


class Engine(Protocol):
    """One loaded model; built in the actor that uses it."""

    def __init__(self, model: str, config: EngineConfig) -> None: ...

    def tokenize(self, messages: Messages) -> list[int]:
        """The prompt's token ids by the model's chat template, ready for the response."""

    async def generate(self, prompt: list[int], *, temperature: float, seed: int, max_tokens: int) -> Completion:
        """One response to a tokenized prompt.

        Raises:
            PromptTooLong: prompt and response do not fit the context window.
            RequestRefused: the engine does not take this request.
            EngineDied: the engine failed; it takes no more requests.
        """
