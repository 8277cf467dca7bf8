"""A backend of the endpoint without Ray and vLLM."""

import json
from collections.abc import AsyncIterator
from typing import Any

from semievol.method.prompts import Messages
from semievol.tasks import Row


class FakeBackend:
    """Answers "Answer: B" with two tokens of known probability; `failure` is raised instead when set."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.failure: Exception | None = None
        self.status = 200
        self.body: dict[str, Any] | None = None

    def models(self) -> dict[str, str]:
        return {"base": "base", "evolved": "round-1", "round-1": "round-1"}

    async def respond(self, model: str, path: str, body: bytes) -> tuple[int, bytes]:
        self.seen.append({"to": model, "path": path} | json.loads(body))
        if self.failure:
            raise self.failure
        logprobs = {"content": [{"logprob": -0.2}, {"logprob": -0.4}]}
        choice = {"message": {"content": "Answer: B"}, "logprobs": logprobs}
        return self.status, json.dumps(self.body or {"model": model, "choices": [choice]}).encode()

    async def score(self, model: str, messages: Messages, responses: list[str]) -> list[float]:
        self.seen.append({"to": model, "messages": messages, "responses": responses})
        if self.failure:
            raise self.failure
        total = sum(range(1, len(responses) + 1))
        return [place / total for place in range(1, len(responses) + 1)]

    async def stream(self, model: str, path: str, body: bytes) -> AsyncIterator[int | bytes]:
        yield self.status
        yield b'data: {"a": 1}\n\n'
        if self.failure:
            raise self.failure
        yield b"data: [DONE]\n\n"

    async def neighbors(self, rows: list[Row]) -> list[list[tuple[Row, float]]]:
        return [[(Row("Sales grew.", ["negative", "positive"], None, "B"), 0.9)] for _ in rows]
