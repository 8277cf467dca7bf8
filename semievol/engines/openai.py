"""Use any OpenAI-compatible endpoint as the labeler's engine, through the official client.

The client retries on 429, 5xx and lost connections. If that does not help, or if the endpoint rejects every request (401,
403, 404, ..), a `UserError` stops the run. A 400, 413 or 422 refuses this request only, and so does a 500 at each try while
the endpoint answers others: one row would block the run. If a 400 or 422 names an optional parameter, the engine repeats
the request without it, and, if that works, leaves it out of all later requests.
"""

from __future__ import annotations

import asyncio
import math
import re
from typing import TYPE_CHECKING, Any

from semievol.config import EngineConfig
from semievol.engines.base import Completion, PromptTooLong, RequestRefused
from semievol.engines.endpoint import ApiEndpoint
from semievol.errors import UserError
from semievol.method.confidence import token_entropy
from semievol.method.prompts import Messages

if TYPE_CHECKING:
    from openai import APIError
    from openai.types.chat import ChatCompletion
    from openai.types.chat.chat_completion import Choice

_LOGPROBS = {"logprobs", "top_logprobs"}
_NAMED = re.compile(r"\b(?P<plain>top_logprobs|logprobs|seed)\b|['\"`](?P<quoted>n)['\"`]")
_TOO_LONG = re.compile(r"context.?(length|window)|maximum (context|input)|(prompt|input) is too long", re.IGNORECASE)


class OpenAIEngine:
    """One model at an endpoint; see `semievol.engines.Engine`."""

    def __init__(self, model: str, config: EngineConfig) -> None:
        """Set up the client, without a request."""
        from openai import AsyncOpenAI

        self._model = model
        self._endpoint = ApiEndpoint(config.endpoint, config.api_key_env)
        self._client = AsyncOpenAI(**self._endpoint.client(timeout_s=config.timeout_s, retries=config.retries))
        self._slots = asyncio.Semaphore(config.concurrency)
        self._top_logprobs = config.top_logprobs
        self.figures: dict[str, float] = {}  # none: responses carry their token counts
        self._unsupported: set[str] = set()  # optional parameters that the endpoint rejects
        self._unusable: UserError | None = None

    async def generate(
        self, messages: Messages, *, temperature: float, seed: int, max_tokens: int, n: int = 1
    ) -> list[Completion]:
        request = {"messages": messages, "temperature": temperature, "max_tokens": max_tokens}
        request |= {"logprobs": True, "top_logprobs": self._top_logprobs}
        done: list[Completion] = []
        while len(done) < n:  # without support of `n`, an endpoint gives one response at a time
            samples = {"n": n - len(done)} if n - len(done) > 1 else {}
            seeded = {"seed": seed + len(done)} if temperature > 0 else {}
            done += _completions(await self._ask(request | samples | seeded))
        return done[:n]

    async def score(self, messages: Messages, responses: list[str]) -> list[float]:
        raise RequestRefused(
            "label.mode: score needs the exact probabilities of given responses, and an OpenAI-compatible endpoint "
            "does not give them. Use label.mode: sample, or engine.kind: vllm"
        )

    async def likelihood(self, messages: Messages, response: str) -> float:
        raise RequestRefused("an OpenAI-compatible endpoint does not give the probability of a given response")

    def close(self) -> None:
        """Do nothing: the endpoint keeps running."""

    async def _ask(self, request: dict[str, Any]) -> ChatCompletion:
        from openai import APIError

        async with self._slots:
            if self._unusable:
                raise self._unusable
            try:
                return await self._create_twice(request)
            except APIError as error:
                status = getattr(error, "status_code", None)
                if _too_long(error):
                    raise PromptTooLong(self._endpoint.said(error)) from None
                if status in (400, 422) or (status == 500 and await self._answers()):
                    raise RequestRefused(self._endpoint.said(error)) from None
                self._unusable = self._endpoint.problem(error, self._model)
        raise self._unusable

    async def _create_twice(self, request: dict[str, Any]) -> ChatCompletion:
        """Repeat a request that got a 500 if the endpoint answers others: it may have been the end of an outage."""
        from openai import InternalServerError

        try:
            return await self._create(request)
        except InternalServerError as error:
            if error.status_code != 500 or not await self._answers():
                raise
        return await self._create(request)

    async def _create(self, request: dict[str, Any]) -> ChatCompletion:
        from openai import BadRequestError, UnprocessableEntityError

        options: dict[str, Any] = {name: value for name, value in request.items() if name not in self._unsupported}
        try:
            reply = await self._client.chat.completions.create(model=self._model, **options)
        except (BadRequestError, UnprocessableEntityError) as error:
            rejected = _rejected_parameters(error) & options.keys()
            if not rejected or _too_long(error):
                raise
            reply = await self._create({name: value for name, value in options.items() if name not in rejected})
            self._unsupported |= rejected
        return self._checked(reply)

    def _checked(self, reply: Any) -> ChatCompletion:
        """Return a valid reply. The client turns a page that does not come from an API into a string."""
        if isinstance(reply, str):
            self._unusable = UserError(
                f"{self._endpoint.url} is not the base URL of an API: the answer is not a chat completion. Correct the "
                f"address, for example http://host:8000/v1"
            )
            raise self._unusable
        if not reply.choices:
            raise RequestRefused(f"{self._endpoint.url} answers without a choice")
        return reply

    async def _answers(self) -> bool:
        """Tell whether the endpoint answers a trivial request."""
        from openai import APIError

        once: Any = self._client.with_options(max_retries=0).chat.completions
        try:
            await once.create(model=self._model, messages=[{"role": "user", "content": "Hello"}], max_tokens=1)
        except APIError:
            return False
        return True


def _rejected_parameters(error: APIError) -> set[str]:
    """Return the optional parameters that an error names."""
    names = {match["plain"] or match["quoted"] for match in _NAMED.finditer(f"'{error.param}' {error.message}")}
    return names | _LOGPROBS if names & _LOGPROBS else names


def _too_long(error: APIError) -> bool:
    status = getattr(error, "status_code", None)
    named = status in (400, 422) and _TOO_LONG.search(error.message) is not None
    return named or status == 413 or error.code == "context_length_exceeded"


def _completions(reply: ChatCompletion) -> list[Completion]:
    """Return the choices of a reply. They share the tokens of its usage, for which the user pays."""
    usage = reply.usage
    tokens, rest = divmod(usage.completion_tokens if usage else 0, len(reply.choices))
    prompt_tokens = usage.prompt_tokens if usage else 0
    return [
        Completion(choice.message.content or "", *_entropies(choice), tokens + (i < rest), 0 if i else prompt_tokens)
        for i, choice in enumerate(reply.choices)
    ]


def _entropies(choice: Choice) -> tuple[float | None, float | None]:
    """Return nll and token entropy of a response, or None without log-probabilities."""
    tokens = (choice.logprobs.content if choice.logprobs else None) or []
    if not tokens:
        return None, None
    nll = -sum(token.logprob for token in tokens) / len(tokens)
    top = [[entry.logprob for entry in token.top_logprobs or []] for token in tokens]
    if not all(top):
        return nll, None
    k = max(map(len, top))
    return nll, token_entropy([position + [-math.inf] * (k - len(position)) for position in top])
