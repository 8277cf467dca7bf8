"""The routes of the endpoint: a FastAPI app over a `Backend`, independent of Ray and vLLM."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from semievol.config import RunConfig, ServingConfig
from semievol.serving.answer import answer
from semievol.serving.backend import CHAT, COMPLETIONS, Backend, Unavailable
from semievol.serving.gate import error_response, refused
from semievol.serving.protocol import (
    MAX_PROMPTS,
    MAX_QUESTIONS,
    Answer,
    ChatRequest,
    CompletionRequest,
    ErrorBody,
    Example,
    Question,
    TaskCard,
)
from semievol.tasks import Row

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 405, 413, 415, 429, 503, 504)
}
_FAILURES: dict[type[Exception], tuple[int, str, str]] = {
    Unavailable: (503, "The model is not available at the moment; send the request again.", "unavailable"),
    TimeoutError: (504, "The model did not answer in time.", "timeout"),
    # The gate logs only its type: messages of validation and decoding errors quote their input.
    Exception: (500, "The endpoint failed on this request; its log names the error.", "server_error"),
}
log = logging.getLogger("semievol.endpoint")


def build(
    backend: Backend, config: RunConfig, example: Row | None = None, styles: Mapping[str, str] | None = None
) -> FastAPI:
    """Return the app, without the `Gate` in front of it.

    Args:
        config: its task knows the labels.
        example: a labeled row that the page offers to try.
        styles: of the prompts that a model was trained with, where not plain.
    """
    card = _task_card(config, example)
    serving = config.serving
    app = FastAPI(
        title="SemiEvol endpoint", version="1", docs_url=None, redoc_url=None, responses=_ERRORS, redirect_slashes=False
    )
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _refused)
    for kind in _FAILURES:
        app.add_exception_handler(kind, _failed)

    def resolve(name: str, request: Request) -> str:
        model = backend.models().get(name)
        if model is None and name in serving.models:
            raise Unavailable  # still loading
        if model is None:
            raise HTTPException(404, f"There is no model '{name[:128]}'; /v1/models lists the models.")
        request.scope["semievol.model"] = model
        return model

    async def forward(body: ChatRequest | CompletionRequest, request: Request, path: str) -> Response:
        model = resolve(body.model, request)
        _check_limits(body, serving)
        payload = json.dumps(_content(body, model, serving), ensure_ascii=False).encode()
        if not body.stream:
            async with asyncio.timeout(serving.timeout_s):
                return _relay(*await backend.respond(model, path, payload))
        parts = backend.stream(model, path, payload)
        async with asyncio.timeout(serving.timeout_s):
            status = int(await anext(parts))
        if status != 200:
            return _relay(status, b"".join([part async for part in parts]))  # type: ignore[misc]
        return StreamingResponse(_to_the_end(parts), media_type="text/event-stream")

    @app.post(CHAT)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """OpenAI's chat completions, including streaming, logprobs, n, stop and seed."""
        return await forward(body, request, CHAT)

    @app.post(COMPLETIONS)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """OpenAI's plain completions."""
        return await forward(body, request, COMPLETIONS)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the models. `evolved` is an alias of the round that was promoted last."""
        return {"object": "list", "data": [_card(name, model) for name, model in backend.models().items()]}

    @app.get("/v1/models/{name:path}")
    async def model_card(name: str, request: Request) -> dict[str, Any]:
        """Describe one model."""
        return _card(name, resolve(name, request))

    @app.post("/v1/answer")
    async def task_answer(
        body: Question | Annotated[list[Question], Field(min_length=1, max_length=MAX_QUESTIONS)],
        request: Request,
    ) -> Answer | list[Answer]:
        """Answer one question or a list: the parsed answer, its confidence, and the nearest labeled rows."""
        questions = body if isinstance(body, list) else [body]
        names = [resolve(question.model, request) for question in questions]
        async with asyncio.timeout(serving.timeout_s):
            answers = await answer(backend, config, questions, names, styles)
        return answers if isinstance(body, list) else answers[0]

    @app.get("/v1/task")
    async def task_card() -> TaskCard:
        """Describe the task: what a question is made of, and the labels."""
        return card

    @app.get("/health")
    async def health() -> Response:
        """Return 200 if every model of `serving.models` is ready, else 503."""
        ready = set(serving.models) <= set(backend.models())
        return JSONResponse({"status": "ok" if ready else "starting"}, status_code=200 if ready else 503)

    page = files("semievol.serving").joinpath("page.html").read_text("utf-8")
    policy = _content_policy(page)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})

    return app


def _check_limits(body: ChatRequest | CompletionRequest, serving: ServingConfig) -> None:
    n, prompts, responses = body.n or 1, getattr(body, "prompts", 1), max(MAX_PROMPTS, serving.max_n)
    if n > serving.max_n:
        raise HTTPException(400, f"n: {n} is over this endpoint's limit of {serving.max_n}.")
    if n * prompts > responses:
        raise HTTPException(
            400, f"prompt: {n} responses to each of {prompts} prompts are over the limit of {responses}."
        )
    for name in ("max_completion_tokens", "max_tokens", "min_tokens"):
        if (tokens := getattr(body, name) or 0) > serving.max_tokens:
            raise HTTPException(400, f"{name}: {tokens} is over this endpoint's limit of {serving.max_tokens}.")


def _content(body: ChatRequest | CompletionRequest, model: str, serving: ServingConfig) -> dict[str, Any]:
    """Return the body for the model. If it sets no limit, the model's server does, as it knows what the window leaves."""
    dropped = {"user", "max_completion_tokens"} | (set() if body.stream else {"stream_options"})
    content = body.model_dump(exclude_unset=True, exclude_none=True, exclude=dropped)
    tokens, least = body.max_completion_tokens or body.max_tokens, body.min_tokens or 0
    return content | {"model": model, "max_tokens": tokens or (least if least > serving.default_max_tokens else None)}


def _task_card(config: RunConfig, example: Row | None) -> TaskCard:
    task, columns = config.task, config.data.columns
    labels = task.listed(Row("", [], None, None)) if task.names_labels else None
    asks = [*(["options"] if "options" in task.needs else []), *(["context"] if columns.context else [])]
    shown = {name: getattr(example, name) for name in Example.model_fields} if example else {}
    return TaskCard(
        kind=task.kind,
        asks=asks,
        fields=config.prompt.columns,
        labels=labels,
        descriptions=task.descriptions,
        multiple=task.sets,
        example=Example(**shown) if example else None,
    )


def _card(name: str, model: str) -> dict[str, Any]:
    card = {"id": name, "object": "model", "created": 0, "owned_by": "semievol"}
    return card if name == model else card | {"root": model}


async def _to_the_end(parts: AsyncIterator[int | bytes]) -> AsyncIterator[bytes]:
    """Yield the stream. If the replica dies, yield an error event in place of the rest: the status is sent already."""
    try:
        async for part in parts:
            yield part  # type: ignore[misc]
    except Unavailable:
        body = error_response(503, "The model's replica was lost; send the request again.", "unavailable").body
        yield b"data: " + bytes(body) + b"\n\n"


def _relay(status: int, content: bytes) -> Response:
    """Return the engine's response. Of an error, keep only the status and the message."""
    if status == 200:
        return Response(content, media_type="application/json")
    if status == 503:
        raise Unavailable
    if status >= 500:
        log.error("the engine answered %d", status)
        return error_response(status, "The engine failed on this request.", "server_error")
    try:
        text = str(json.loads(content)["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        text = "The engine refused this request."
    return error_response(status, text, "invalid_request_error")


async def _refused(request: Request, error: Any) -> JSONResponse:
    if error.detail == "Not Found":  # Starlette's, of an unknown route
        error.detail = f"There is no route {request.url.path[:128]}; the API's base URL ends with /v1."
    return await refused(request, error)


_FORMS = re.compile(r"(list|[\w-]*union|function-\w+)\[")  # pydantic's names for the forms that a body may have


async def _invalid(request: Request, error: Any) -> JSONResponse:
    """Return the place and message of the innermost problem, without the input, which may be a prompt."""
    first = max(error.errors(), key=lambda each: len(each["loc"]))
    kind = request.headers.get("content-type", "")
    if first["loc"] == ("body",) and "json" not in kind:
        message = "body: is not sent as JSON; set the header 'Content-Type: application/json'."
        return error_response(400, message, "invalid_request_error")
    place = ".".join(str(part)[:64] for part in first["loc"] if part != "body" and not _FORMS.match(str(part)))
    way_out = "; leave it out" if first["type"] == "extra_forbidden" else ""
    place, message = (text.encode("ascii", "replace").decode() for text in (place, first["msg"][:200] + way_out))
    return error_response(400, f"{place or 'body'}: {message}", "invalid_request_error", param=place or None)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    kind = next(kind for kind in _FAILURES if isinstance(error, kind))
    status, message, name = _FAILURES[kind]
    return error_response(status, message, name, None if kind is Exception else {"Retry-After": "1"})


def _content_policy(page: str) -> str:
    """Return a policy that allows only the page's own style and script, and requests to this endpoint."""
    allowed = {"script": "", "style": ""}
    for tag, block in re.findall(r"<(script|style)>(.*?)</\1>", page, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        allowed[tag] += f" 'sha256-{digest}'"
    return (
        f"default-src 'none'; script-src{allowed['script']}; style-src{allowed['style']}; connect-src 'self'; "
        f"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
