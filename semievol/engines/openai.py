"""Use any OpenAI-compatible endpoint as the labeler's engine, through the official client.

The client retries on 429, 5xx and lost connections. If that does not help, or if the endpoint rejects every request (401,
403, 404, ..), a `UserError` stops the run. A 400, 413 or 422 refuses this request only, and so do a 403, 404, 501, or a 500 at
each try, while the endpoint answers others: one row would block the run. What the first request of a kind is refused for may be its
parameters; see `openai_parameters`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from asyncio import sleep
from typing import TYPE_CHECKING, Any

from semievol.config import EngineConfig
from semievol.engines.base import Completion, PromptTooLong, RequestRefused
from semievol.engines.endpoint import ApiEndpoint
from semievol.engines.openai_parameters import Parameters, Request
from semievol.engines.openai_reply import completions, ends_in_thought, error_inside
from semievol.errors import UserError
from semievol.method.prompts import Messages

if TYPE_CHECKING:
    from openai import APIError
    from openai.types.chat import ChatCompletion

_MAY_BE_PARAMETERS = (400, 403, 404, 405, 422, 500, 501)  # or the row, by the habits of endpoints
_TOO_LONG = re.compile(
    r"context.?(length|window|size)|maximum (context|input)|(prompt|input|request) is too long|reduce the length|too many tokens"
    r"|input token count|(prompt|inputs?|messages|request)\b[^.]{0,40}\b(exceed|must have less than)"
    r"|exceeded model token limit|maximum (prompt|(supported )?sequence) length|range of input length",
    re.IGNORECASE,
)
_OVER_LIMIT = re.compile(r"could not finish the message|output limit was reached", re.IGNORECASE)  # in a thought
_ROOM, _MOST_ROOM = 1024, 32_768  # tokens
log = logging.getLogger("semievol.engine")


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
        self._parameters = Parameters(self._accepts)
        self._finding = asyncio.Lock()
        self._room, self._most_room = 0, _MOST_ROOM  # tokens for thoughts
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
            done += completions(await self._ask(request | samples | seeded))
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

    async def _ask(self, request: Request) -> ChatCompletion:
        """Ask. The first request of a kind goes alone: it finds out what the endpoint takes."""
        async with self._slots:
            if not self._parameters.known(request):
                async with self._finding:
                    if not self._parameters.known(request):
                        return await self._answered(request)
            return await self._answered(request)

    async def _answered(self, request: Request) -> ChatCompletion:
        """Return the reply, or raise what a refusal means: for this row, or for the run."""
        from openai import APIError

        if self._unusable:
            raise self._unusable
        try:
            return await self._with_room(request)
        except APIError as error:
            status = getattr(error, "status_code", None)
            if _too_long(error):
                raise PromptTooLong(self._endpoint.said(error)) from None
            of_row = status in (400, 422) or _OVER_LIMIT.search(error.message)
            if of_row or (status in _MAY_BE_PARAMETERS and await self._answers(request)):
                raise RequestRefused(self._endpoint.said(error)) from None
            self._unusable = self._endpoint.problem(error, self._model)
        raise self._unusable

    async def _with_room(self, request: Request) -> ChatCompletion:
        """Give models that think room for that, and more as long as the limit of tokens cuts their thoughts."""
        from openai import APIError

        reply: ChatCompletion | None = None
        while True:
            room = self._room
            try:
                reply = await self._create_twice(request | {"max_tokens": request["max_tokens"] + room})
                cut = ends_in_thought(reply, wanted="max_completion_tokens" in self._parameters.of(request))
            except APIError as error:
                if reply is not None and _too_long(error):  # the window has no more
                    self._room = self._most_room = room // 2
                    return reply
                if not _OVER_LIMIT.search(error.message) or room >= self._most_room:
                    raise
                cut = True
            if reply is not None and (not cut or room >= self._most_room):
                return reply
            if self._room == room:  # not raised by another row
                self._room = min(max(_ROOM, 2 * room), self._most_room)
                log.warning(
                    "%s thinks before it answers: requests allow %d tokens more than the answer needs",
                    self._model,
                    self._room,
                )

    async def _create_twice(self, request: Request) -> ChatCompletion:
        """Repeat a request that got a 500 if the endpoint answers others: it may have been the end of an outage."""
        from openai import InternalServerError

        try:
            return await self._create(request)
        except InternalServerError as error:
            if error.status_code != 500 or not await self._answers(request):
                raise
        return await self._create(request)

    async def _create(self, request: Request) -> ChatCompletion:
        from openai import APIStatusError

        parameters = self._parameters
        try:
            reply = await self._send(parameters.of(request))
        except APIStatusError as error:
            if error.status_code not in _MAY_BE_PARAMETERS or _too_long(error) or _OVER_LIMIT.search(error.message):
                raise
            if not parameters.known(request):
                # Rate limits may pass; what is always a 500 is retried less often.
                refused = await parameters.find(request, 2 if error.status_code >= 500 else self._client.max_retries)
                parameters.settle(request, refused)
                if refused is None:
                    raise
                log.warning("%s does not take %s: requests go without", self._endpoint.url, ", ".join(sorted(refused)))
                return await self._send(parameters.of(request))
            # Behind one address there may be endpoints that take different parameters.
            if not (named := parameters.named(f"'{error.param}' {error.message}", request)):
                raise
            reply = await self._send(parameters.of(request, named))
        parameters.settle(request)
        return reply

    async def _send(self, options: Request) -> ChatCompletion:
        """Send a request. Some endpoints say 200 and put the error into the body; it is retried as others are."""
        attempt = 0
        while True:
            reply = self._checked(await self._client.chat.completions.create(model=self._model, **options))
            if not (problem := error_inside(reply)):
                return reply
            if not problem.may_pass or attempt == self._client.max_retries:
                break
            await sleep(min(0.5 * 2**attempt, 8))
            attempt += 1
        if _TOO_LONG.search(problem.message):
            raise PromptTooLong(problem.message)
        raise RequestRefused(f"{self._endpoint.url} answers with an error: {problem.message}")

    async def _accepts(self, options: Request, retries: int) -> bool:
        """Tell whether the endpoint answers a request, whatever the answer."""
        from openai import APIStatusError

        client = self._client.with_options(max_retries=min(retries, self._client.max_retries))
        try:
            await client.chat.completions.create(model=self._model, **options)
        except APIStatusError as error:
            if error.status_code in _MAY_BE_PARAMETERS:
                return bool(_OVER_LIMIT.search(error.message))
            raise
        return True

    async def _answers(self, request: Request) -> bool:
        """Tell whether the endpoint answers a trivial request."""
        from openai import APIError

        try:
            return await self._accepts(self._parameters.hello(request), retries=0)
        except APIError:
            return False

    def _checked(self, reply: Any) -> ChatCompletion:
        """Return a valid reply. The client turns a page that does not come from an API into a string."""
        if isinstance(reply, str):
            self._unusable = UserError(
                f"{self._endpoint.url} is not the base URL of an API: the answer is not a chat completion. Correct the "
                f"address, for example http://host:8000/v1"
            )
            raise self._unusable
        if not reply or not (reply.choices or error_inside(reply)):
            raise RequestRefused(f"{self._endpoint.url} answers without a choice")
        return reply


def _too_long(error: APIError) -> bool:
    status = getattr(error, "status_code", None)
    named = status in (400, 422) and _TOO_LONG.search(error.message) is not None
    return named or status == 413 or error.code == "context_length_exceeded"
