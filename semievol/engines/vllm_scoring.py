"""Ask vLLM what a `LabelTree` wants to know, in short requests that share their prompt's KV cache."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

from semievol.engines.base import PromptTooLong, RequestRefused
from semievol.engines.chat_template import ChatTemplate
from semievol.engines.label_tree import Answer, Branch, LabelTree
from semievol.engines.templates import ChatSettings

_SETS = 256  # label sets whose trees are kept
_IDS = 128  # token ids of a request, vLLM's limit (MAX_LOGPROB_TOKEN_IDS)

# Send a prompt with SamplingParams, and return the vllm.RequestOutput.
Send = Callable[..., Awaitable[Any]]


class Scorer:
    """Scores responses with a running vLLM engine.

    Args:
        tokenizer: the engine's tokenizer.
        chat: the template in which prompts are written.
        send: is called with a prompt's token ids and, by keyword, SamplingParams.
        max_model_len: of the engine, in tokens.
        tells: whether the engine says what it is told (`vllm_sampling.ChosenTokens`), which needs less work than a prefill.
    """

    def __init__(
        self, tokenizer: Any, chat: ChatSettings, send: Send, max_model_len: int, *, tells: bool = False
    ) -> None:
        self._send, self._max_model_len, self._tells = send, max_model_len, tells
        own = copy.deepcopy(tokenizer)  # two threads must not share one tokenizer
        self._template = ChatTemplate(own, chat.template, chat.thinking)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="labels")
        self._grown = lru_cache(_SETS)(lambda responses: self._thread.submit(self._grow, responses))
        self.figures = {"scored_rows": 0, "score_requests": 0}

    async def tree(self, responses: list[str]) -> LabelTree:
        """Return the tree of a label set. Refuse labels that are the same tokens."""
        try:
            return await asyncio.shield(asyncio.wrap_future(self._grown(tuple(responses))))
        except RequestRefused as error:
            raise RequestRefused(str(error)) from None  # a new one: each raise adds to the traceback of a kept one

    def _grow(self, responses: tuple[str, ...]) -> LabelTree:
        return LabelTree(responses, list(map(self._template.encode, responses)), self._template.end)

    async def score(self, prompt: list[int], tree: LabelTree) -> list[float]:
        """Return the probabilities of the responses to a prompt relative to each other; see `LabelTree`."""
        prompt = prompt + self._template.lead
        if len(prompt) + tree.longest > self._max_model_len:
            raise PromptTooLong(
                f"prompt of {len(prompt):,} tokens + {tree.longest:,} of the longest label exceeds "
                f"{self._max_model_len:,}"
            )
        self.figures["scored_rows"] += 1
        return await tree.shares(partial(self._ask, prompt))

    async def _ask(self, prompt: list[int], branch: Branch) -> Answer:
        groups = [branch.tokens[start : start + _IDS] for start in range(0, len(branch.tokens), _IDS)]
        walk = self._say_path if self._tells else self._prefill_path
        further = (self._one_token([*prompt, *branch.path], logprob_token_ids=group) for group in groups[1:])
        (path, first), *others = await asyncio.gather(walk(prompt, branch, groups[0]), *further)
        pairs = zip([first, *others], groups, strict=True)
        return path, [logprob for output, group in pairs for logprob in _following(output, len(group))]

    async def _say_path(self, prompt: list[int], branch: Branch, group: list[int]) -> tuple[float, Any]:
        """Let the model say the tokens of the path that are unknown yet: a step for each, in a batch with those of others."""
        path = list(branch.path[branch.known :])
        asked = [*prompt, *branch.path[: branch.known]]
        output = await self._request(asked, max_tokens=len(path) + 1, logprob_token_ids=group, **_told(path))
        logprobs = output.outputs[0].logprobs
        return sum(logprobs.logprobs[start] for start in logprobs.start_indices[:-1]), output

    async def _prefill_path(self, prompt: list[int], branch: Branch, group: list[int]) -> tuple[float, Any]:
        """Ask for the log-probabilities of the last tokens of a prompt that ends with the path.

        vLLM would prefill the whole prompt again, because it has none for tokens in the prefix cache. We read the cache, and
        ask a second time if it had too much, which happens when a label reaches into a block that an earlier request filled.
        """
        asked, unknown = [*prompt, *branch.path], len(branch.path) - branch.known
        options: dict[str, Any] = {"logprob_token_ids": group} | ({"prompt_logprobs": 0} if unknown else {})
        output = await self._one_token(asked, **options, **({"skip_reading_prefix_cache": False} if unknown else {}))
        if unknown and output.num_cached_tokens >= len(asked) - unknown:
            output = await self._one_token(asked, **options)
        return (sum(output.prompt_logprobs.logprobs[-unknown:]) if unknown else 0.0), output

    async def _one_token(self, prompt: list[int], **options: Any) -> Any:
        return await self._request(prompt, max_tokens=1, temperature=0.0, **options)

    async def _request(self, prompt: list[int], **options: Any) -> Any:
        self.figures["score_requests"] += 1
        return await self._send(prompt, flat_logprobs=True, **options)


def _told(tokens: list[int]) -> dict[str, Any]:
    """Return the SamplingParams of a request whose response begins with these tokens; their log-probabilities are the model's."""
    return {"temperature": 0.0, "ignore_eos": True, "extra_args": {"told": tokens}}


def _following(output: Any, tokens: int) -> list[float]:
    """Return the log-probabilities of the tokens asked about at the last position, where that of the chosen one comes first."""
    logprobs = output.outputs[0].logprobs
    first = logprobs.start_indices[-1] + 1
    return list(logprobs.logprobs[first : first + tokens])
