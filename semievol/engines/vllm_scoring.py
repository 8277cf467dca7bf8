"""Ask vLLM what a `LabelTree` wants to know, in requests of one token each that share their prompt's KV cache."""

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
    """

    def __init__(self, tokenizer: Any, chat: ChatSettings, send: Send, max_model_len: int) -> None:
        self._send, self._max_model_len = send, max_model_len
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
        asked, unknown = [*prompt, *branch.path], len(branch.path) - branch.known
        groups = [branch.tokens[start : start + _IDS] for start in range(0, len(branch.tokens), _IDS)]
        first = partial(self._with_path, unknown) if unknown else self._one_token
        how = [first, *[self._one_token] * (len(groups) - 1)]
        sent = (one(asked, logprob_token_ids=group) for one, group in zip(how, groups, strict=True))
        done = await asyncio.gather(*sent)
        path = sum(done[0].prompt_logprobs.logprobs[-unknown:]) if unknown else 0.0
        # The log-probability of the sampled token comes first.
        pairs = zip(done, groups, strict=True)
        return path, [p for output, group in pairs for p in output.outputs[0].logprobs.logprobs[1 : len(group) + 1]]

    async def _with_path(self, unknown: int, prompt: list[int], **options: Any) -> Any:
        """Ask for the log-probabilities of the last tokens of the prompt, too.

        vLLM would prefill the whole prompt again, because it has none for tokens in the prefix cache. We read the cache, and
        ask a second time if it had too much, which happens when a label reaches into a block that an earlier request filled.
        """
        output = await self._one_token(prompt, prompt_logprobs=0, skip_reading_prefix_cache=False, **options)
        if output.num_cached_tokens >= len(prompt) - unknown:
            output = await self._one_token(prompt, prompt_logprobs=0, **options)
        return output

    async def _one_token(self, prompt: list[int], **options: Any) -> Any:
        self.figures["score_requests"] += 1
        return await self._send(prompt, max_tokens=1, temperature=0.0, flat_logprobs=True, **options)
