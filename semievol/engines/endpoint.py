"""OpenAI-compatible endpoints: the key, the client's settings, and what an endpoint's refusals mean for a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from semievol.config import RunConfig
from semievol.errors import UserError
from semievol.runtime.network import is_here

if TYPE_CHECKING:
    from openai import APIError

_SHOWN = 300  # characters of an endpoint's own words


@dataclass(frozen=True)
class Endpoint:
    """An API, and the names of its key in the environment and in the config."""

    url: str
    key_variable: str
    key_name: str = "engine.api_key_env"

    def client(self, *, timeout_s: float, retries: int) -> dict[str, Any]:
        """Return the arguments of `openai.OpenAI` and `openai.AsyncOpenAI`.

        They retry on 408, 409, 429, 5xx and lost connections, after 0.5 s, 1 s, 2 s, 4 s and then 8 s each time, or
        after what Retry-After says; ten times is about a minute.
        """
        key = os.environ.get(self.key_variable)
        if not key and not is_here(self.url):
            raise UserError(
                f"{self.url} wants a key, and the variable {self.key_variable} ({self.key_name}) is not set where it is "
                f"asked: set it on every node before Ray starts there"
            )
        return {"base_url": self.url, "api_key": key or "none", "timeout": timeout_s, "max_retries": retries}

    def said(self, error: APIError) -> str:
        """Return an endpoint's own words about a request, short and without the key."""
        words = " ".join(error.message.split())
        key = os.environ.get(self.key_variable)
        return (words.replace(key, "***") if key else words)[:_SHOWN]

    def problem(self, error: APIError, model: str) -> UserError:
        """Return why the endpoint answers nothing at all, and the way out."""
        said, status = self.said(error), getattr(error, "status_code", None)
        if status in (401, 403):
            what = (
                f"does not accept the key in {self.key_variable} ({said}): mend it, or name another in {self.key_name}"
            )
        elif status == 404:
            what = f"has no model '{model}', or is not a base URL such as http://host:8000/v1 ({said}): correct it"
        elif status == 429:
            what = f"takes no more requests ({said}): wait, lower engine.concurrency, or raise the limit there"
        elif status is not None and status < 500:
            what = f"refuses every request ({said}): mend that"
        else:
            what = f"is away, after all retries ({said}): bring it back, or raise engine.timeout_s if it is slow"
        return UserError(f"{self.url} {what}")


def variables(config: RunConfig) -> list[str]:
    """Return the names of the variables that nodes need for the endpoints of a config."""
    engine, trainer = config.engine, config.trainer
    urls = [engine.endpoint] if engine.kind == "openai" else []
    urls += [who.endpoint for who in config.label.collaborators if who.kind == "model" and who.endpoint]
    asked = [(url, engine.api_key_env) for url in urls]
    if trainer.kind == "openai":
        asked.append((trainer.endpoint or engine.endpoint, trainer.api_key_env or engine.api_key_env))
    return sorted({variable for url, variable in asked if not is_here(url)})
