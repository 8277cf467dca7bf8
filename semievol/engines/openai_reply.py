"""Read chat completions of OpenAI-compatible endpoints: texts without thoughts, entropies, and what was cut."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from semievol.engines.base import Completion
from semievol.method.confidence import token_entropy
from semievol.tasks.parsing import thoughts

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion
    from openai.types.chat.chat_completion import Choice


@dataclass(frozen=True)
class ErrorInside:
    """An error in the body of a reply that says 200."""

    message: str
    may_pass: bool  # if the request is sent again


def error_inside(reply: ChatCompletion) -> ErrorInside | None:
    """Return the error in a reply, as OpenRouter and other routers give those of their providers; None if there is none."""
    found: Any = (reply.model_extra or {}).get("error")
    for choice in reply.choices or []:
        found = found or (choice.model_extra or {}).get("error")
    if not found:
        return None
    given = found if isinstance(found, dict) else {"message": found}
    code = str(given.get("code") or given.get("status") or "")
    message = " ".join(str(given.get("message") or given).split())[:300]
    return ErrorInside(message, code in ("408", "409", "429") or bool(re.fullmatch(r"5\d\d", code)))


def completions(reply: ChatCompletion) -> list[Completion]:
    """Return the choices of a reply. They share the tokens of its usage, for which the user pays."""
    usage = reply.usage
    tokens, rest = divmod((usage and usage.completion_tokens) or 0, len(reply.choices))
    prompt_tokens = (usage and usage.prompt_tokens) or 0
    return [
        Completion(_text(choice), *_entropies(choice), tokens + (i < rest), 0 if i else prompt_tokens)
        for i, choice in enumerate(reply.choices)
    ]


def ends_in_thought(reply: ChatCompletion, *, wanted: bool) -> bool:
    """Tell whether the limit of tokens cut a choice while the model was thinking, so that it has no answer.

    Args:
        wanted: the endpoint wants max_completion_tokens, which models that think do.
    """
    details = reply.usage and reply.usage.completion_tokens_details
    thinks = wanted or bool(details and details.reasoning_tokens)
    cut = [choice for choice in reply.choices if choice.finish_reason == "length" and not _text(choice)]
    return any(thinks or _thought(choice) for choice in cut)


def _thought(choice: Choice) -> bool:
    fields: Any = (choice.message and choice.message.model_extra) or {}
    told = fields.get("reasoning_content") or fields.get("reasoning")
    return bool(told) or thoughts.without_thought(_content(choice)) is None


def _text(choice: Choice) -> str:
    """Return the answer: what follows the thought. An unfinished thought has none."""
    return (thoughts.without_thought(_content(choice)) or "").lstrip()


def _content(choice: Choice) -> str:
    """Return the content as one text. Some endpoints return a list of parts, with thoughts among them."""
    content: Any = choice.message and choice.message.content
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") in ("text", "output_text")]
        return "".join(str(part.get("text") or "") for part in parts)
    return content or ""


def _entropies(choice: Choice) -> tuple[float | None, float | None]:
    """Return nll and token entropy of the answer, or None without log-probabilities."""
    tokens = (choice.logprobs and choice.logprobs.content) or []
    start = max((i for i, token in enumerate(tokens, start=1) if thoughts.ends_in(token.token)), default=0)
    tokens = tokens[start:]
    if not tokens or any(token.logprob is None for token in tokens):
        return None, None
    nll = -sum(token.logprob for token in tokens) / len(tokens)
    top = [[entry.logprob for entry in token.top_logprobs or []] for token in tokens]
    if not all(top):
        return nll, None
    k = max(map(len, top))
    return nll, token_entropy([position + [-math.inf] * (k - len(position)) for position in top])
