"""Use vLLM as the labeler's engine: many requests in flight, each response reduced to a few floats at once.

The engine (vllm.v1.engine.llm_engine.LLMEngine) runs its step loop in a thread of the actor, and asyncio futures carry
the results, so rows of several batches share the running batch. On a GPU, vLLM runs the engine core in a process of its
own. On a CPU it runs in the actor's process, which saves a second import of vLLM (15 s).
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
from semievol.engines.chat_template import ChatTemplate, load_tokenizer
from semievol.engines.templates import OWN_TEMPLATE, ChatSettings
from semievol.engines.vllm_scoring import Scorer
from semievol.method.confidence import token_entropies
from semievol.method.prompts import Messages

_SAMPLING = "semievol.engines.vllm_sampling:ChosenTokens"  # our logits processor, on CPUs
# Options that are incompatible with it.
_NO_PROCESSORS = ("speculative_config", "spec_method", "spec_model", "spec_tokens", "logprobs_mode")
_COUNTED = {"prompt_tokens": "queries", "cached_tokens": "hits"}  # vLLM's metrics of the prefix cache


class VLLMEngine:
    """One loaded model; see `semievol.engines.Engine`."""

    def __init__(self, model: str, config: EngineConfig, chat: ChatSettings = OWN_TEMPLATE) -> None:
        environment = engine_environment(config)
        if is_cpu_build():
            environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        from vllm import EngineArgs

        path = storage.local_copy(model) if "://" in model else model
        options = engine_options(path, config) | {"disable_log_stats": False}  # for `figures`
        self._chooses = chooses_tokens(options)
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
        self.tokenizer = load_tokenizer(path)  # as training does; vLLM has tokenizers of its own for some models
        self._batches = PromptBatches(self.tokenizer, chat)
        self._template = ChatTemplate(self.tokenizer, chat.template, chat.thinking)
        self._scorer = Scorer(self.tokenizer, chat, self._request, self.max_model_len, tells=self._chooses)

    @property
    def figures(self) -> dict[str, float]:
        counted = {metric.name: getattr(metric, "value", 0.0) for metric in self._engine.get_metrics()}
        cache = {name: counted[f"vllm:prefix_cache_{metric}"] for name, metric in _COUNTED.items()}
        return cache | self._scorer.figures

    async def generate(
        self, messages: Messages, *, temperature: float, seed: int, max_tokens: int, n: int = 1
    ) -> list[Completion]:
        # Lists of floats instead of an object for each log-probability; see `_reduce`.
        shared: dict[str, Any] = {"logprobs": self._top_logprobs, "flat_logprobs": True}
        shared["stop_token_ids"] = self._template.stop_token_ids  # the model's own ends stop it too
        if temperature > 0 and self._chooses:
            from semievol.engines.vllm_sampling import seeded

            requests = [seeded(seed + i, temperature) for i in range(n)]
        else:
            requests = [{"temperature": temperature, "seed": seed if temperature > 0 else None, "n": n}]
        prompt = await self._batches.tokenize(messages)
        running = (self._request(prompt, max_tokens, **shared, **request) for request in requests)
        outputs = [output for done in await asyncio.gather(*running) for output in done.outputs]
        # The token that ends a response is not part of its text.
        tokens = [list(o.token_ids[:-1] if o.finish_reason == "stop" else o.token_ids) for o in outputs]
        return _reduce(outputs, self._template.decode(tokens), len(prompt))

    async def score(self, messages: Messages, responses: list[str]) -> list[float]:
        prompt, tree = await asyncio.gather(self._batches.tokenize(messages), self._scorer.tree(responses))
        return await self._scorer.score(prompt, tree)

    async def likelihood(self, messages: Messages, response: str) -> float:
        prompt = await self._batches.tokenize(messages) + self._template.lead
        tokens = self._template.encode(response)
        done = await self._request(prompt + tokens, 1, temperature=0.0, prompt_logprobs=0)
        positions = zip(tokens, done.prompt_logprobs[len(prompt) :], strict=True)
        return sum(position[token].logprob for token, position in positions) / len(tokens)

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    async def _request(self, prompt: list[int], max_tokens: int, **options: Any) -> Any:
        """Send a request to the running engine and return its vllm.outputs.RequestOutput."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        if len(prompt) + max_tokens > self.max_model_len:
            raise PromptTooLong(
                f"prompt of {len(prompt):,} tokens + {max_tokens} to answer exceeds {self.max_model_len:,}"
            )
        # We detokenize a response once: vLLM would do it for each token, and for the likeliest ones too.
        options |= {"output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": False}
        try:
            sampling = SamplingParams(max_tokens=max_tokens, **options)
        except VLLMClientError as error:
            raise RequestRefused(str(error)) from error
        future = asyncio.get_running_loop().create_future()
        self._arriving.put((str(next(self._ids)), prompt, sampling, future))
        if self._dead is not None:  # checked after the put: the loop may have ended just before it
            raise EngineDied(str(self._dead))
        return await future

    def _run(self, loaded: Future[None], arguments: Any) -> None:
        """Load, then admit new requests, step, and resolve the finished ones; block while there is nothing to do.

        All in one thread: with two, their OpenMP pools would contend for the cores.
        """
        try:
            from vllm.v1.engine.llm_engine import LLMEngine

            self._engine = LLMEngine.from_engine_args(arguments)
            loaded.set_result(None)
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            loaded.set_exception(error)
            return
        try:
            while True:
                while not self._waiting or not self._arriving.empty():
                    self._admit(*self._arriving.get())
                finished = (output for output in self._engine.step() if output.finished)
                _resolve([(self._waiting.pop(output.request_id), output) for output in finished])
        except BaseException as error:  # noqa: BLE001 - every waiting row must get an error
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
        except (VLLMClientError, ValueError) as error:  # an invalid request; the engine goes on
            _resolve([(self._waiting.pop(request_id), RequestRefused(str(error)))])


class PromptBatches:
    """Tokenize chat prompts in a thread, those of concurrent requests together.

    A fast tokenizer releases the GIL for most of that time.
    """

    _BATCH = 64  # at most, so that the first prompts of a large block do not wait for the tokens of the last

    def __init__(self, tokenizer: Any, chat: ChatSettings = OWN_TEMPLATE) -> None:
        own = copy.deepcopy(tokenizer)  # two threads must not share one tokenizer
        self._template = ChatTemplate(own, chat.template, chat.thinking)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._prompts: list[Messages] = []
        self._tokens: asyncio.Task[list[list[int]]]

    async def tokenize(self, messages: Messages) -> list[int]:
        if len(self._prompts) in (0, self._BATCH):
            self._prompts = []
            self._tokens = asyncio.create_task(self._tokenize_batch(self._prompts))
        self._prompts.append(messages)
        place, tokens = len(self._prompts) - 1, self._tokens
        return (await asyncio.shield(tokens))[place]

    async def _tokenize_batch(self, prompts: list[Messages]) -> list[list[int]]:
        """Tokenize the prompts. The task starts after all coroutines that were ready before it have added theirs."""
        if prompts is self._prompts:
            self._prompts = []
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._template.prompts, prompts)


def _resolve(outcomes: list[tuple[asyncio.Future[Any], Any]]) -> None:
    """Set the results or exceptions of a step's futures from another thread; wake each event loop only once."""

    def settle(pairs: list[tuple[asyncio.Future[Any], Any]]) -> None:
        for future, outcome in pairs:
            if not future.cancelled():
                settled = future.set_exception if isinstance(outcome, Exception) else future.set_result
                settled(outcome)

    for loop in {future.get_loop() for future, _ in outcomes}:
        with suppress(RuntimeError):  # the loop is closed, so nothing waits
            loop.call_soon_threadsafe(settle, [pair for pair in outcomes if pair[0].get_loop() is loop])


def _reduce(outputs: list[Any], texts: list[str], prompt_tokens: int) -> list[Completion]:
    """Return the responses to a request, reduced together: for small arrays NumPy takes as long for one as for four."""
    lengths = [len(output.token_ids) for output in outputs]
    listed = [output.logprobs for output in outputs if output.token_ids]
    # Each position has the sampled token, then the likeliest ones, which may include it again.
    top, ids = (
        np.array([value for flat in listed for value in getattr(flat, name)]).reshape(sum(lengths), -1 if listed else 0)
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
    """Return the settings that vLLM reads from the environment of its process."""
    quiet = {"VLLM_LOGGING_LEVEL": "WARNING"}
    return quiet | ({"VLLM_CPU_KVCACHE_SPACE": str(max(1, round(config.kv_cache_gib)))} if is_cpu_build() else {})


def engine_options(path: str, config: EngineConfig) -> dict[str, Any]:
    """Return vLLM's EngineArgs, except the model itself, for a model in a local folder; for labeling and serving."""
    max_model_len = config.max_model_len or model_limit(path)
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
            # On a CPU, vLLM cannot split the prefill of a seeded request, so each prompt must fit one step.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(4096, max_model_len),
            "enforce_eager": True,
            # Only whole blocks are shared, and many prompts have fewer than the default 128 (benchmarks/RESULTS.md).
            "block_size": 32,
        }
        # Without AVX-512 bf16, products are emulated, and float32 is five times as fast (benchmarks/RESULTS.md).
        if config.dtype == "auto" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            options["dtype"] = "float32"
    options |= config.extra
    if is_cpu_build() and not any(options.get(name) for name in _NO_PROCESSORS):
        options["logits_processors"] = [*options.get("logits_processors", []), _SAMPLING]
    return options


def chooses_tokens(options: dict[str, Any]) -> bool:
    """Tell whether an engine with these options has our logits processor."""
    return _SAMPLING in options.get("logits_processors", [])


def is_cpu_build() -> bool:
    return any(distributions(name="vllm-cpu"))


def model_limit(path: str) -> int:
    """Return the window of a model in a local folder or on the hub, in tokens."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    return int(config.get_text_config().max_position_embeddings)  # its text part, if the model has several
