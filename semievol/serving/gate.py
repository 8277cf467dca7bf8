"""The gate in front of all routes: keys, rate and concurrency limits, the size limit of bodies, and the access log.

It is an ASGI middleware. The limits apply to each replica of the endpoint separately.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from typing import Any

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semievol.config import ServingConfig
from semievol.runtime.network import is_loopback
from semievol.serving.keys import Keys

PUBLIC = {"/", "/health"}  # need no key: a page without data, and the health check
ANONYMOUS = "anonymous"
_KINDS = {401: "authentication_error", 403: "forbidden", 429: "rate_limit_error"}
_CLIENT_LEFT = 499  # in the access log: the client disconnected before a response
log = logging.getLogger("semievol.endpoint")
access_log = logging.getLogger("semievol.access")


def error_response(status: int, message: str, kind: str, headers: Any = None, **more: str | None) -> JSONResponse:
    """Return an error in OpenAI's format; `more` can have its `param` and `code`."""
    error = {"message": message, "type": kind, "param": None, "code": None} | more
    return JSONResponse({"error": error}, status_code=status, headers=headers)


async def refused(_: Any, error: Any) -> JSONResponse:
    """Return the response for an HTTPException, as an exception handler."""
    text = str(error.detail).encode("ascii", "replace").decode()
    kind = _KINDS.get(error.status_code, "invalid_request_error")
    code = "invalid_api_key" if error.status_code == 401 else None
    return error_response(error.status_code, text, kind, error.headers, code=code)


class Gate:
    """Wraps the endpoint's app."""

    def __init__(self, app: ASGIApp, keys: Keys, settings: ServingConfig) -> None:
        self._app = app
        self._keys = keys
        self._settings = settings
        self._rate = parse(settings.rate)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._in_flight: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # websockets are not served
        method, started = scope["method"], time.perf_counter()
        path = "/" + "/".join(filter(None, scope["path"].split("/")))  # as of a base URL with a slash at its end
        scope = {**scope, "path": path, "method": "GET" if method == "HEAD" else method}
        seen = {"status": _CLIENT_LEFT, "bytes": 0}

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
            elif method == "HEAD":
                message = {**message, "body": b""}
            else:
                seen["bytes"] += len(message.get("body", b""))
            await send(message)

        caller = None
        try:
            caller = self._caller(scope)
            await self._admit(caller, scope, receive, watched)
        except HTTPException as error:
            response = await refused(None, error)
            await response(scope, receive, watched)
        except Exception as error:  # noqa: BLE001 - Serve would log its message, which may quote a prompt
            log.error("unexpected %s in the endpoint", type(error).__name__)
            if seen["status"] == _CLIENT_LEFT:  # nothing is sent yet
                response = await refused(None, HTTPException(500, "Something is wrong in the endpoint."))
                await response(scope, receive, watched)
        finally:
            record: dict[str, Any] = {  # without body, query string or headers
                "key": caller,
                "method": method,
                "path": scope["path"][:200],
                "model": scope.get("semievol.model"),
                "ms": round((time.perf_counter() - started) * 1000, 1),
            }
            access_log.info(json.dumps(record | seen))

    def _caller(self, scope: Scope) -> str:
        """Return the name of the caller's key."""
        headers = dict(scope["headers"])
        if not self._keys:
            if _is_local(scope, headers):
                return ANONYMOUS
            raise HTTPException(403, "This endpoint has no keys, so it serves its own machine only.")
        if scope["path"] in PUBLIC:
            return ANONYMOUS
        scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        name = self._keys.owner(key.strip()) if scheme.lower() == "bearer" else None
        if name is None:
            message = "No valid API key. Send it as the header 'Authorization: Bearer KEY'."
            raise HTTPException(401, message, {"WWW-Authenticate": "Bearer"})
        return name

    async def _admit(self, caller: str, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PUBLIC:
            return await self._app(scope, receive, send)
        if not self._limiter.hit(self._rate, caller):
            wait = max(1, round(self._limiter.get_window_stats(self._rate, caller).reset_time - time.time()))
            message = f"The rate limit is {self._settings.rate}; try again in {wait} s."
            raise HTTPException(429, message, {"Retry-After": str(wait)})
        if self._in_flight[caller] >= self._settings.concurrency:
            message = f"The limit is {self._settings.concurrency} requests at a time."
            raise HTTPException(429, message, {"Retry-After": "1"})
        self._in_flight[caller] += 1
        try:
            body = await _read(scope, receive, self._settings.max_body_bytes)
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._in_flight[caller] -= 1


def _is_local(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Tell whether client and Host are this machine. The Host is checked against DNS rebinding by web pages."""
    host = headers.get(b"host", b"").decode("latin-1")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return is_loopback((scope.get("client") or ("",))[0]) and is_loopback(name)


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes:
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    fits, more, body = declared.isdigit() and int(declared) <= limit, True, bytearray()
    while fits and more:
        message = await receive()
        body += message.get("body", b"")
        fits, more = len(body) <= limit, message.get("more_body", False)
    if not fits:
        raise HTTPException(413, f"The body is larger than {limit:,} bytes.", {"Connection": "close"})
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    requests = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return requests.pop() if requests else await receive()  # the disconnect message

    return again
