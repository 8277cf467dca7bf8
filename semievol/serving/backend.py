"""The interface between the routes and the models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from semievol.method.prompts import Messages
from semievol.tasks import Row

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class Unavailable(Exception):
    """The model's replica died or is not ready yet; the request can be sent again."""


class Refused(Exception):
    """The model refuses this request; the message says why."""


class Backend(Protocol):
    """The models that the routes use."""

    def models(self) -> dict[str, str]:
        """Return the served names, each with its model: itself, or the target of an alias."""

    async def respond(self, model: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body of a response. Raises Unavailable."""

    async def score(self, model: str, messages: Messages, responses: list[str]) -> list[float]:
        """Return the probabilities of responses relative to each other. Raises Unavailable, and Refused with the reason."""

    def stream(self, model: str, path: str, body: bytes) -> AsyncIterator[int | bytes]:
        """Yield the status, then the parts of the body. Raises Unavailable."""

    async def neighbors(self, rows: list[Row]) -> list[list[tuple[Row, float]]]:
        """Return the labeled rows nearest to each row, nearest first, with cosines; empty if `serving.neighbors` is 0.

        Give each row its candidates, where the task's prompts list them.
        """
