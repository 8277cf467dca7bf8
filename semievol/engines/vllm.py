"""vLLM as the labeler's engine: many requests in flight, responses reduced to a few floats on the spot.

The engine (vllm.v1.engine.llm_engine.LLMEngine) runs its step loop in a thread of the actor, and asyncio futures carry
the results, so rows of several batches share the running batch. On a CPU the engine core is in the actor's process too.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import distributions
from typing import Any

import numpy as np

from semievol.config import EngineConfig
from semievol.data import storage
from semievol.engines.base import Completion, EngineDied, PromptTooLong, RequestRefused
from semievol.engines.chat_template import ChatTemplate
from semievol.method.confidence import token_entropies
from semievol.method.prompts import Messages

# Options that are incompatible with our logits processor.
_NO_PROCESSORS = ("speculative_config", "spec_method", "spec_model", "spec_tokens", "logprobs_mode")
_COUNTED = {"prompt_tokens": "queries", "cached_tokens": "hits"}  # of the prefix cache, in vLLM's own metrics


class VLLMEngine:
    """One loaded model; see `semievol.engines.Engine`."""

    def __init__(self, model: str, config: EngineConfig) -> None:
        environment = engine_environment(config)
        if is_cpu_build():
            environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        from vllm import EngineArgs

        path = storage.local_copy(model) if "://" in model else model
        options = engine_options(path, config) | {"disable_log_stats": False}  # for `figures`
        self._draws = is_cpu_build() and not any(options.get(name) for name in _NO_PROCESSORS)
        if self._draws:
            own = "semievol.engines.vllm_sampling:SeededSampling"
            options["logits_processors"] = [*options.get("logits_processors", []), own]
        self.max_model_len = options["max_model_len"]
        self._top_logprobs = config.top_logprobs
        self._ids = itertools.count()
        self._arriving: queue.SimpleQueue[tuple[str, list[int], Any, asyncio.Future[Any]]] = queue.SimpleQueue()
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._dead: BaseException | None = None
        loaded: Future[None] = Future()
        arguments = EngineArgs(model=path, **options)
        threading.Thread(target=self._run, args=[loaded, arguments], daemon=True, name="vllm-steps").start()
        loaded.result()
        self.tokenizer = self._engine.get_tokenizer()
        self._batches = PromptBatches(self.tokenizer)

    @property
    def figures(self) -> dict[str, float]:
        counted = {metric.name: getattr(metric, "value", 0.0) for metric in self._engine.get_metrics()}
        return {name: counted[f"vllm:prefix_cache_{what}"] for name, what in _COUNTED.items()}

    async def generate(
        self, messages: Messages, *, temperature: float, seed: int, max_tokens: int, n: int = 1
    ) -> list[Completion]:
        # Lists of floats in place of an object for each log-probability; see `_reduce`.
        shared: dict[str, Any] = {"logprobs": self._top_logprobs, "flat_logprobs": True}
        if temperature > 0 and self._draws:
            from semievol.engines.vllm_sampling import seeded

            requests = [seeded(seed + i, temperature) for i in range(n)]
        else:
            requests = [{"temperature": temperature, "seed": seed if temperature > 0 else None, "n": n}]
        prompt = await self._batches.tokenize(messages)
        asked = (self._request(prompt, max_tokens, **shared, **request) for request in requests)
        outputs = [output for done in await asyncio.gather(*asked) for output in done.outputs]
        # The token that ended a response is not text.
        said = [list(o.token_ids[:-1] if o.finish_reason == "stop" else o.token_ids) for o in outputs]
        return _reduce(outputs, self.tokenizer.batch_decode(said, skip_special_tokens=True), len(prompt))

    async def score(self, messages: Messages, responses: list[str]) -> list[float]:
        encoded = [self.tokenizer.encode(response, add_special_tokens=False) for response in responses]
        shared = [ids[0] for ids in itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*encoded, strict=False))]
        heads = [ids[len(shared)] if len(ids) > len(shared) else None for ids in encoded]
        if None in heads or len(set(heads)) < len(heads):
            raise RequestRefused(
                f"label.mode: score needs responses that one token tells apart, and {responses} are not so in this model's "
                f"vocabulary. Use label.mode: sample"
            )
        prompt = await self._batches.tokenize(messages) + shared
        done = await self._request(prompt, 1, temperature=0.0, logprob_token_ids=heads)
        logprobs = np.array([done.outputs[0].logprobs[0][head].logprob for head in heads], dtype=np.float64)
        shares = np.exp(logprobs - logprobs.max())
        return [float(share) for share in shares / shares.sum()]

    async def likelihood(self, messages: Messages, response: str) -> float:
        prompt = await self._batches.tokenize(messages)
        said = self.tokenizer.encode(response, add_special_tokens=False)
        done = await self._request(prompt + said, 1, temperature=0.0, prompt_logprobs=0)
        given = zip(said, done.prompt_logprobs[len(prompt) :], strict=True)
        return sum(position[token].logprob for token, position in given) / len(said)

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    async def _request(self, prompt: list[int], max_tokens: int, **options: Any) -> Any:
        """Return the vllm.outputs.RequestOutput of one request to the running engine."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        if len(prompt) + max_tokens > self.max_model_len:
            raise PromptTooLong(
                f"prompt of {len(prompt):,} tokens + {max_tokens} to answer exceeds {self.max_model_len:,}"
            )
        # Text is made of whole responses: vLLM would detokenize each token, and the likeliest ones too.
        options |= {"output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": False}
        try:
            sampling = SamplingParams(max_tokens=max_tokens, **options)
        except VLLMClientError as error:
            raise RequestRefused(str(error)) from error
        future = asyncio.get_running_loop().create_future()
        self._arriving.put((str(next(self._ids)), prompt, sampling, future))
        if self._dead is not None:  # asked after the put: its loop may have looked for the last time before it
            raise EngineDied(str(self._dead))
        return await future

    def _run(self, loaded: Future[None], arguments: Any) -> None:
        """Load and step in one thread: two OpenMP pools would contend for the cores."""
        try:
            from vllm.v1.engine.llm_engine import LLMEngine

            self._engine = LLMEngine.from_engine_args(arguments)
            loaded.set_result(None)
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            loaded.set_exception(error)
            return
        self._loop()

    def _loop(self) -> None:
        """Admit new requests, step, and resolve finished ones; block while there is nothing to do."""
        try:
            while True:
                while not self._waiting or not self._arriving.empty():
                    self._admit(*self._arriving.get())
                finished = (output for output in self._engine.step() if output.finished)
                _resolve([(self._waiting.pop(output.request_id), output) for output in finished])
        except BaseException as error:  # noqa: BLE001 - whatever it was, every waiting row must hear of it
            self._dead = error
            waiting = list(self._waiting.values())
            while not self._arriving.empty():
                waiting.append(self._arriving.get()[-1])
            _resolve([(future, EngineDied(f"{type(error).__name__}: {error}")) for future in waiting])

    def _admit(self, request_id: str, prompt: list[int], sampling: Any, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            return
        from vllm.exceptions import VLLMClientError

        self._waiting[request_id] = future
        try:
            self._engine.add_request(request_id, {"prompt_token_ids": prompt}, sampling)
        except (VLLMClientError, ValueError) as error:  # this request is wrong, the engine is well
            _resolve([(self._waiting.pop(request_id), RequestRefused(str(error)))])


class PromptBatches:
    """Tokenizes chat prompts that arrive at the same time together, in a thread."""

    _TOGETHER = 64  # at most, so that the first prompts of a large block do not wait for its last

    def __init__(self, tokenizer: Any) -> None:
        self._template = ChatTemplate(copy.deepcopy(tokenizer))  # two threads must not use the same one
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._prompts: list[Messages] = []
        self._tokens: asyncio.Task[list[list[int]]]

    async def tokenize(self, messages: Messages) -> list[int]:
        if len(self._prompts) in (0, self._TOGETHER):
            self._prompts = []
            self._tokens = asyncio.create_task(self._together(self._prompts))
        self._prompts.append(messages)
        place, tokens = len(self._prompts) - 1, self._tokens
        return (await asyncio.shield(tokens))[place]

    async def _together(self, prompts: list[Messages]) -> list[list[int]]:
        """Tokenize once all tasks that were ready to run have added their prompts."""
        if prompts is self._prompts:
            self._prompts = []
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._template.prompts, prompts)


def _resolve(outcomes: list[tuple[asyncio.Future[Any], Any]]) -> None:
    """Give futures their results or exceptions from another thread, and wake each event loop once."""

    def hand_out(of_loop: list[tuple[asyncio.Future[Any], Any]]) -> None:
        for future, outcome in of_loop:
            if future.cancelled():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    for loop in {future.get_loop() for future, _ in outcomes}:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(hand_out, [pair for pair in outcomes if pair[0].get_loop() is loop])


def _reduce(outputs: list[Any], texts: list[str], prompt_tokens: int) -> list[Completion]:
    """Return the responses to a request, all at once: NumPy takes as long for four small arrays as for one."""
    lengths = [len(output.token_ids) for output in outputs]
    listed = [output.logprobs for output in outputs if output.token_ids]
    # Of each position: the sampled token, then the likeliest ones, among which the sampled one may be again.
    top, ids = (
        np.array([value for one in listed for value in getattr(one, name)]).reshape(sum(lengths), -1 if listed else 0)
        for name in ("logprobs", "token_ids")
    )
    if listed:
        top[:, 0] = np.where((ids[:, 1:] == ids[:, :1]).any(axis=1), -np.inf, top[:, 0])
    entropies = iter(token_entropies(top).tolist())
    done: list[Completion] = []
    for output, text, tokens in zip(outputs, texts, lengths, strict=True):
        nll = -float(output.cumulative_logprob) / tokens if tokens else 0.0
        mean = sum(itertools.islice(entropies, tokens)) / max(tokens, 1)
        done.append(Completion(text, nll, mean, tokens, 0 if done else prompt_tokens))
    return done


def engine_environment(config: EngineConfig) -> dict[str, str]:
    """Return the settings that vLLM takes from the environment of its process."""
    quiet = {"VLLM_LOGGING_LEVEL": "WARNING"}
    return quiet | ({"VLLM_CPU_KVCACHE_SPACE": str(max(1, round(config.kv_cache_gib)))} if is_cpu_build() else {})


def engine_options(path: str, config: EngineConfig) -> dict[str, Any]:
    """Return vLLM's EngineArgs for a model in a local folder, without the model itself; for labeling and serving."""
    max_model_len = config.max_model_len or _model_limit(path)
    options: dict[str, Any] = {
        "dtype": config.dtype,
        "max_model_len": max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "disable_log_stats": True,
        "trust_remote_code": False,
    }
    if is_cpu_build():
        import torch

        options |= {
            # Prefills with a seed of vLLM's own cannot be split on a CPU, so every prompt must fit one step.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(4096, max_model_len),
            "enforce_eager": True,
            "block_size": 32,  # only whole blocks are shared, and 128 is more than many prompts have
        }
        # Without AVX-512 bf16 products are emulated: float32 is five times as fast there (benchmarks/RESULTS.md).
        if config.dtype == "auto" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            options["dtype"] = "float32"
    return options | config.extra


def is_cpu_build() -> bool:
    return any(distributions(name="vllm-cpu"))


def _model_limit(path: str) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    return int(config.get_text_config().max_position_embeddings)  # one for text alone, or the part for it
