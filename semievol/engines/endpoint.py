"""The client side of OpenAI-compatible endpoints: key, client settings, and errors that stop a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from semievol.config import RunConfig
from semievol.errors import UserError
from semievol.runtime.network import connect_directly, is_here, proxy_of

if TYPE_CHECKING:
    from openai import APIError


@dataclass(frozen=True)
class ApiEndpoint:
    """The address of an API, and the names of its key in the environment and in the config."""

    url: str
    key_variable: str
    key_name: str = "engine.api_key_env"

    def client(self, *, timeout_s: float, retries: int) -> dict[str, Any]:
        """Return the arguments for `openai.OpenAI` and `openai.AsyncOpenAI`, which do the retries.

        They retry on 408, 409, 429, 5xx and lost connections, after 0.5 s and up to 8 s, or after the time in
        Retry-After. Ten retries take about a minute.
        """
        key = os.environ.get(self.key_variable)
        if not key and not is_here(self.url):
            raise UserError(
                f"{self.url} needs a key, and the variable {self.key_variable} ({self.key_name}) is not set on this "
                f"node: set it on every node before Ray starts there"
            )
        connect_directly(self.url)
        return {"base_url": self.url, "api_key": key or "none", "timeout": timeout_s, "max_retries": retries}

    def said(self, error: APIError) -> str:
        """Return the endpoint's error message, shortened and with the key masked."""
        words = " ".join(error.message.split())
        key = os.environ.get(self.key_variable)
        return (words.replace(key, "***") if key else words)[:300]

    def problem(self, error: APIError, model: str) -> UserError:
        """Return the error for an endpoint that answers no request, with the way to fix it."""
        message, status = self.said(error), getattr(error, "status_code", None)
        if status in (401, 403):
            fix = f"correct it, or name another in {self.key_name}"
            problem = f"does not accept the key in {self.key_variable} ({message}): {fix}"
        elif status == 404:
            fix = "correct the model or the address, for example http://host:8000/v1"
            problem = f"has no model '{model}', or is not the base URL of an API ({message}): {fix}"
        elif status == 429:
            problem = f"takes no more requests ({message}): wait, lower engine.concurrency, or raise the limit there"
        elif status is not None and status < 500:
            problem = f"refuses every request ({message}): correct the cause"
        else:
            problem = f"is unavailable after all retries ({message}): restart it, or, if slow, raise engine.timeout_s"
        proxy = proxy_of(self.url)
        hint = (
            f". Requests to it go through the proxy of {proxy[0]} ({proxy[1]}); NO_PROXY lists hosts without it"
            if proxy
            else ""
        )
        return UserError(f"{self.url} {problem}{hint}")


def variables(config: RunConfig) -> list[str]:
    """Return the names of the variables that nodes need for the endpoints of a config."""
    engine, trainer = config.engine, config.trainer
    urls = [engine.endpoint] if engine.kind == "openai" else []
    urls += [c.endpoint for c in config.label.collaborators if c.kind == "model" and c.endpoint]
    keys = [(url, engine.api_key_env) for url in urls]
    if trainer.kind == "openai":
        keys.append((trainer.endpoint or engine.endpoint, trainer.api_key_env or engine.api_key_env))
    return sorted({variable for url, variable in keys if not is_here(url)})
