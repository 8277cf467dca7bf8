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
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semievol.config import ServingConfig
from semievol.runtime.network import is_loopback
from semievol.serving.keys import Keys

PUBLIC = {"/", "/health"}  # need no key: a page without data, and the health check
ANONYMOUS = "anonymous"
_CLIENT_LEFT = 499  # in the access log: the client disconnected before a response
log = logging.getLogger("semievol.engines.endpoint")
access_log = logging.getLogger("semievol.access")


def error_response(
    status: int, message: str, kind: str, *, param: str | None = None, code: str | None = None, **headers: str
) -> JSONResponse:
    """Return an error in OpenAI's format. Names of headers have underscores in place of dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status_code=status, headers=named)


class _Refused(Exception):
    """The request gets this response instead of the app's."""

    def __init__(self, response: JSONResponse) -> None:
        self.response = response


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
        started = time.perf_counter()
        seen = {"status": _CLIENT_LEFT, "bytes": 0}

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                message.setdefault("headers", [])
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            else:
                seen["bytes"] += len(message.get("body", b""))
            await send(message)

        caller = None
        try:
            caller = self._caller(scope)
            await self._admit(caller, scope, receive, watched)
        except _Refused as refused:
            await refused.response(scope, receive, watched)
        except Exception as error:  # noqa: BLE001 - Serve would log its message, which may quote a prompt
            log.error("unexpected %s in the endpoint", type(error).__name__)
            if seen["status"] == _CLIENT_LEFT:
                failed = error_response(500, "The endpoint failed on this request.", "server_error")
                await failed(scope, receive, watched)
        finally:
            self._log(scope, caller, seen, time.perf_counter() - started)

    def _caller(self, scope: Scope) -> str:
        """Return the name of the caller's key."""
        headers = dict(scope["headers"])
        if not self._keys:
            if _is_local(scope, headers):
                return ANONYMOUS
            message = "This endpoint has no keys, so it serves its own machine only."
            raise _Refused(error_response(403, message, "forbidden"))
        if scope["path"] in PUBLIC:
            return ANONYMOUS
        scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        name = self._keys.owner(key.strip()) if scheme.lower() == "bearer" else None
        if name is None:
            message = "No valid API key. Send it as the header 'Authorization: Bearer KEY'."
            known = {"code": "invalid_api_key", "www_authenticate": "Bearer"}
            raise _Refused(error_response(401, message, "authentication_error", **known))
        return name

    async def _admit(self, caller: str, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PUBLIC:
            return await self._app(scope, receive, send)
        if not self._limiter.hit(self._rate, caller):
            wait = max(1, round(self._limiter.get_window_stats(self._rate, caller).reset_time - time.time()))
            message = f"The rate limit is {self._settings.rate}; try again in {wait} s."
            raise _Refused(error_response(429, message, "rate_limit_error", retry_after=str(wait)))
        if self._in_flight[caller] >= self._settings.concurrency:
            message = f"The limit is {self._settings.concurrency} requests at a time."
            raise _Refused(error_response(429, message, "rate_limit_error", retry_after="1"))
        self._in_flight[caller] += 1
        try:
            body = await _read(scope, receive, self._settings.max_body_bytes)
            if body is None:
                message = f"The body is larger than {self._settings.max_body_bytes:,} bytes."
                raise _Refused(error_response(413, message, "invalid_request_error", connection="close"))
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._in_flight[caller] -= 1

    def _log(self, scope: Scope, caller: str | None, seen: dict[str, int], seconds: float) -> None:
        """Log one line of JSON, without body, query string or headers."""
        record: dict[str, Any] = {
            "key": caller,
            "method": scope["method"],
            "path": scope["path"][:200],
            "model": scope.get("semievol.model"),
            "ms": round(seconds * 1000, 1),
        }
        access_log.info(json.dumps(record | seen))


def _is_local(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Tell whether client and Host are this machine. The Host is checked against DNS rebinding by web pages."""
    host = headers.get(b"host", b"").decode("latin-1")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return is_loopback((scope.get("client") or ("",))[0]) and is_loopback(name)


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """Return the body, or None if it is over the limit."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > limit:
        return None
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    requests = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return requests.pop() if requests else await receive()  # the disconnect message

    return again
