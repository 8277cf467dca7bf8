"""Any OpenAI-compatible endpoint as the labeler's engine, through the official client. What its answers mean:

- 429, 5xx, a lost connection: the client retries (`semievol.engines.endpoint`). An endpoint that stays away, or refuses
  all requests (401, 403, 404, ..), stops the run with a `UserError`. The next attempt asks the remaining rows.
- 400, 413, 422: this request is refused, or its prompt is too long.
- 400, 422 that name an optional parameter (logprobs, top_logprobs, seed, n): this request and later ones omit it.
- 500 at each try while the endpoint lives: this request is refused, or one row would keep a run from ending.
"""

from __future__ import annotations

import asyncio
import math
import re
from typing import TYPE_CHECKING, Any

from semievol.config import EngineConfig
from semievol.engines.base import Completion, PromptTooLong, RequestRefused
from semievol.engines.endpoint import Endpoint
from semievol.errors import UserError
from semievol.method.confidence import token_entropy
from semievol.method.prompts import Messages

if TYPE_CHECKING:
    from openai import APIStatusError
    from openai.types.chat import ChatCompletion
    from openai.types.chat.chat_completion import Choice

_LOGPROBS = {"logprobs", "top_logprobs"}
_NAMED = re.compile(r"\b(?P<plain>top_logprobs|logprobs|seed)\b|['\"`](?P<quoted>n)['\"`]")
_TOO_LONG = re.compile(r"context.?(length|window)|maximum (context|input)|(prompt|input) is too long", re.IGNORECASE)


class OpenAIEngine:
    """One model of an endpoint; see `semievol.engines.Engine`."""

    def __init__(self, model: str, config: EngineConfig) -> None:
        from openai import AsyncOpenAI

        self._model = model
        self._endpoint = Endpoint(config.endpoint, config.api_key_env)
        self._client = AsyncOpenAI(**self._endpoint.client(timeout_s=config.timeout_s, retries=config.retries))
        self._slots = asyncio.Semaphore(config.concurrency)
        self._top_logprobs = config.top_logprobs
        self.figures: dict[str, float] = {}  # responses carry their tokens
        self._not_taken: set[str] = set()  # optional parameters
        self._unusable: UserError | None = None

    async def generate(
        self, messages: Messages, *, temperature: float, seed: int, max_tokens: int, n: int = 1
    ) -> list[Completion]:
        request = {"messages": messages, "temperature": temperature, "max_tokens": max_tokens}
        request |= {"logprobs": True, "top_logprobs": self._top_logprobs}
        done: list[Completion] = []
        while len(done) < n:  # an endpoint without `n` gives one response at a time
            samples = {"n": n - len(done)} if n - len(done) > 1 else {}
            seeded = {"seed": seed + len(done)} if temperature > 0 else {}
            done += _completions(await self._ask(request | samples | seeded))
        return done[:n]

    async def score(self, messages: Messages, responses: list[str]) -> list[float]:
        raise RequestRefused(
            "label.mode: score needs the probabilities of given responses, which an OpenAI-compatible endpoint does "
            "not give. Use label.mode: sample, or engine.kind: vllm"
        )

    async def likelihood(self, messages: Messages, response: str) -> float:
        raise RequestRefused("an OpenAI-compatible endpoint does not give the probability of a given response")

    def close(self) -> None:
        """The endpoint goes on without us."""

    async def _ask(self, request: dict[str, Any]) -> ChatCompletion:
        from openai import APIError, APIStatusError

        async with self._slots:
            if self._unusable:
                raise self._unusable
            try:
                return await self._insist(request)
            except APIStatusError as error:
                if _too_long(error):
                    raise PromptTooLong(self._endpoint.said(error)) from None
                if error.status_code in (400, 422) or (error.status_code == 500 and await self._lives()):
                    raise RequestRefused(self._endpoint.said(error)) from None
                self._unusable = self._endpoint.problem(error, self._model)
            except APIError as error:
                self._unusable = self._endpoint.problem(error, self._model)
        raise self._unusable

    async def _insist(self, request: dict[str, Any]) -> ChatCompletion:
        """Ask once more where the endpoint lives after all: the 500 may have been the end of an outage."""
        from openai import InternalServerError

        try:
            return await self._create(request)
        except InternalServerError as error:
            if error.status_code != 500 or not await self._lives():
                raise
        return await self._create(request)

    async def _create(self, request: dict[str, Any]) -> ChatCompletion:
        from openai import BadRequestError, UnprocessableEntityError

        asked: dict[str, Any] = {name: value for name, value in request.items() if name not in self._not_taken}
        try:
            reply = await self._client.chat.completions.create(model=self._model, **asked)
        except (BadRequestError, UnprocessableEntityError) as error:
            named = _named(error) & asked.keys()
            if not named or _too_long(error):
                raise
            reply = await self._create({name: value for name, value in asked.items() if name not in named})
            self._not_taken |= named
        if isinstance(reply, str):  # as the client returns any other page
            self._unusable = UserError(
                f"{self._endpoint.url} is no base URL of an API, as in http://host:8000/v1: it answers something else than "
                f"a chat completion. Mend the address"
            )
            raise self._unusable
        if not reply.choices:
            raise RequestRefused(f"{self._endpoint.url} answers without a choice")
        return reply

    async def _lives(self) -> bool:
        """Tell whether it answers anything."""
        from openai import APIError

        once: Any = self._client.with_options(max_retries=0).chat.completions
        try:
            await once.create(model=self._model, messages=[{"role": "user", "content": "Hello"}], max_tokens=1)
        except APIError:
            return False
        return True


def _named(error: APIStatusError) -> set[str]:
    """Return the optional parameters that a refusal names."""
    found = {match["plain"] or match["quoted"] for match in _NAMED.finditer(f"'{error.param}' {error.message}")}
    return found | _LOGPROBS if found & _LOGPROBS else found


def _too_long(error: APIStatusError) -> bool:
    if error.status_code == 413 or error.code == "context_length_exceeded":
        return True
    return error.status_code in (400, 422) and _TOO_LONG.search(error.message) is not None


def _completions(reply: ChatCompletion) -> list[Completion]:
    """Return the choices; the tokens of the usage, which is what is paid for, are divided among them."""
    used = reply.usage
    tokens, rest = divmod(used.completion_tokens if used else 0, len(reply.choices))
    prompt_tokens = used.prompt_tokens if used else 0
    return [
        Completion(choice.message.content or "", *_entropies(choice), tokens + (i < rest), 0 if i else prompt_tokens)
        for i, choice in enumerate(reply.choices)
    ]


def _entropies(choice: Choice) -> tuple[float | None, float | None]:
    """Return nll and token entropy of a response, if there are log-probabilities."""
    listed = (choice.logprobs.content if choice.logprobs else None) or []
    if not listed:
        return None, None
    nll = -sum(token.logprob for token in listed) / len(listed)
    top = [[entry.logprob for entry in token.top_logprobs or []] for token in listed]
    if not all(top):
        return nll, None
    k = max(map(len, top))
    return nll, token_entropy([position + [-math.inf] * (k - len(position)) for position in top])
