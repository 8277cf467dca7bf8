"""What the routes need of the models behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from semievol.tasks import Row

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class Unavailable(Exception):
    """The model's replica is gone or not there yet; the request can be sent again."""


class Backend(Protocol):
    """The models behind the routes."""

    def models(self) -> dict[str, str]:
        """Names that can be asked for, each with the model it stands for: itself, or the target of an alias."""

    async def respond(self, model: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of a response. Raises Unavailable."""

    def stream(self, model: str, path: str, body: bytes) -> AsyncIterator[int | bytes]:
        """The status, then the parts of the body. Raises Unavailable."""

    async def neighbors(self, rows: list[Row]) -> list[list[tuple[Row, float]]]:
        """The nearest labeled rows of each, nearest first, with their cosines; empty where retrieval is off."""
