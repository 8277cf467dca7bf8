"""Find out which optional parameters an OpenAI-compatible endpoint takes, whatever words it refuses them with.

If the first request of a kind is refused, a chat with nothing in it tells whether the parameters are the reason or the row
is: it is asked with the parameters and, if they are refused, without them; then they are added again one after the other,
and those that the endpoint takes stay.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

_HELLO = [{"role": "user", "content": "Hello"}]
# In the order in which they are tried again. Of log-probabilities, an endpoint may give only those of its own tokens.
_OPTIONAL = ({"logprobs", "top_logprobs"}, {"logprobs"}, {"temperature"}, {"n"}, {"seed"})
_BUDGET = "max_tokens"
_RENAMED = frozenset({_BUDGET})
_NAMED = re.compile(r"\b(?P<plain>top_logprobs|logprobs|seed|temperature)\b|['\"`](?P<quoted>n)['\"`]")

Request = dict[str, Any]
Kind = tuple[Any, ...]


class Parameters:
    """What an endpoint does not take, for each kind of request: its parameters, and its temperature.

    `accepts` asks the endpoint with a number of retries, and tells whether it takes the parameters of a request.
    """

    def __init__(self, accepts: Callable[[Request, int], Awaitable[bool]]) -> None:
        self._accepts = accepts
        self._refused: dict[Kind, frozenset[str]] = {}

    def known(self, request: Request) -> bool:
        """Tell whether an endpoint has answered a request of this kind."""
        return _kind(request) in self._refused

    def settle(self, request: Request, refused: frozenset[str] | None = None) -> None:
        """Remember what is refused; by default what other kinds of requests are sent without."""
        self._refused.setdefault(_kind(request), self._refused_of(request) if refused is None else refused)

    def of(self, request: Request, without: frozenset[str] = frozenset()) -> Request:
        """Return a request as the endpoint takes it."""
        return _without(request, self._refused_of(request) | without)

    def hello(self, request: Request) -> Request:
        """Return a chat with nothing in it, and with no parameter but the limit of tokens."""
        bare = {"messages": _HELLO, _BUDGET: request[_BUDGET]}
        return _without(bare, self._refused_of(request))

    def named(self, message: str, request: Request) -> frozenset[str]:
        """Return the optional parameters of a request that an error names."""
        names = {match["plain"] or match["quoted"] for match in _NAMED.finditer(message)}
        names |= _OPTIONAL[0] if names & _OPTIONAL[0] else set()
        return frozenset(names & self.of(request).keys())

    async def find(self, request: Request, retries: int) -> frozenset[str] | None:
        """Return what is refused of a request that was refused; None if the parameters are not the reason."""
        bare, asked = {"messages": _HELLO, _BUDGET: request[_BUDGET]}, request | {"messages": _HELLO}
        refused = self._refused_of(request) & _RENAMED
        if await self._accepts(_without(bare, refused), retries):
            if await self._accepts(self.of(asked), retries):
                return None
        elif not refused and await self._accepts(_without(bare, _RENAMED), retries):
            refused = _RENAMED
        else:
            return None
        taken = set(bare)
        for names in _OPTIONAL:
            if names <= asked.keys() - taken:
                more = {name: value for name, value in asked.items() if name in taken | names}
                taken |= names if await self._accepts(_without(more, refused), retries) else set()
        return frozenset(asked.keys() - taken) | refused

    def _refused_of(self, request: Request) -> frozenset[str]:
        """Return what is refused of this kind or, as long as that is unknown, of others. Temperatures differ."""
        others = frozenset().union(*self._refused.values()) - {"temperature"}
        return self._refused.get(_kind(request), others)


def _kind(request: Request) -> Kind:
    return request.get("temperature"), *sorted(request)


def _without(request: Request, names: frozenset[str]) -> Request:
    """Leave parameters out. Where `max_tokens` is refused, current models want it by another name."""
    options = {name: value for name, value in request.items() if name not in names}
    return options | ({"max_completion_tokens": request[_BUDGET]} if _BUDGET in names else {})
