"""The replica of one model: ray.serve.llm's LLMServer, which takes HTTP bodies through a Serve handle.

The endpoint passes requests and responses as bytes to and from vLLM's OpenAI app in the replica, so it does not need vLLM.
Chats are put in the form in which the model was trained: its template, its end of turn, and people's text as text.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import uuid
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError

from semievol.config import EngineConfig
from semievol.data import storage
from semievol.engines.base import RequestRefused
from semievol.engines.chat_template import ChatTemplate, load_tokenizer
from semievol.engines.templates import ChatSettings, file_of
from semievol.engines.vllm import chooses_tokens, engine_options, is_cpu_build
from semievol.engines.vllm_scoring import Scorer
from semievol.method.prompts import Messages
from semievol.serving.backend import CHAT, COMPLETIONS

_CANCEL_S = 2.0  # for vLLM to abort a request


class _Engine(VLLMEngine):
    def _start_async_llm_engine(self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any) -> Any:
        # ray.serve.llm runs even a single CPU worker in another process, which costs a hop per token.
        parallel = vllm_engine_config.parallel_config
        if is_cpu_build() and parallel.world_size == 1:
            parallel.distributed_executor_backend = "uni"
        return super()._start_async_llm_engine(vllm_engine_args, vllm_engine_config, placement_group)


class ModelServer(LLMServer):
    """An LLMServer with two methods that pass an HTTP body to vLLM's app."""

    async def __init__(  # type: ignore[misc]
        self,
        llm_config: LLMConfig,
        weights: str,
        engine_config: dict[str, Any],
        chat: ChatSettings,
        default_max_tokens: int,
    ) -> None:
        """Fetch the weights (a folder, a URI or a Hugging Face id) to this node, then start the engine."""
        path = await asyncio.to_thread(storage.local_copy, weights) if "://" in weights else weights
        tokenizer = await asyncio.to_thread(load_tokenizer, path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._tokenizer, self._template = tokenizer, ChatTemplate(tokenizer, chat.template, chat.thinking)
        options = engine_options(path, EngineConfig(**engine_config)) | self._chat_options(path, tokenizer)
        # Build a new LLMConfig, because it caches values that are derived from its fields.
        local_config = LLMConfig(
            model_loading_config={"model_id": llm_config.model_id, "model_source": path},
            engine_kwargs=options,
            placement_group_config=llm_config.placement_group_config,
            runtime_env=llm_config.runtime_env,
            log_engine_metrics=False,
        )
        await super().__init__(local_config, engine_cls=_Engine)
        self._app = await self.engine.build_asgi_app()
        # Without max_tokens in a chat, vLLM takes the least of this and what the prompt leaves of the window. Its option for
        # that, `override_generation_config`, would limit requests with max_tokens too.
        self._app.state.openai_serving_chat.default_sampling_params["max_tokens"] = default_max_tokens
        self._default_max_tokens = default_max_tokens
        self._window: int = self.engine._engine_client.model_config.max_model_len
        self._scorer = Scorer(tokenizer, chat, self._generate, self._window, tells=chooses_tokens(options))

    def _chat_options(self, path: str, tokenizer: Any) -> dict[str, Any]:
        """Return the options that make vLLM's app render chats to the tokens of training."""
        if self._template.source is None:
            return {}
        options = {"chat_template": self._template.source, "tokenizer_mode": "hf"}
        if file_of(path, "tekken.json"):  # else mistral-common's tokenizer would be preferred
            self._tokenizer_folder = tempfile.TemporaryDirectory(prefix="semievol-tokenizer-")
            tokenizer.save_pretrained(self._tokenizer_folder.name)
            options["tokenizer"] = self._tokenizer_folder.name
        return options

    async def respond(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return the status and the whole body of a response."""
        status, *parts = [part async for part in self.stream(path, body)]
        whole = b"".join(parts)  # type: ignore[arg-type]
        return status, self._template.answered(whole) if path == CHAT and status == 200 else whole  # type: ignore[return-value]

    async def score(self, messages: Messages, responses: list[str]) -> tuple[list[float] | None, str]:
        """Return the probabilities of responses relative to each other; None if the engine is dead, or why it refuses."""
        try:
            [prompt] = await self._tokenizing(self._template.prompts, [messages])
            tree = await self._scorer.tree(responses)
            return await self._scorer.score(prompt, tree), ""
        except RequestRefused as refusal:
            return [], str(refusal)
        except EngineDeadError:
            return None, ""

    async def _tokenizing(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the thread of the tokenizer, which no two threads may use at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def _generate(self, prompt: list[int], **sampling: Any) -> Any:
        """Send a prompt of tokens to the engine and return its vllm.RequestOutput."""
        options = {"output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": False}
        parameters = SamplingParams(**sampling, **options)
        asked = {"prompt_token_ids": prompt}
        async for output in self.engine._engine_client.generate(asked, parameters, uuid.uuid4().hex):
            last = output
        return last

    async def stream(self, path: str, body: bytes) -> AsyncGenerator[int | bytes, None]:
        """Yield the status, then the parts of the body as they arrive."""
        async for message in self._messages(path, body):
            if message["type"] == "http.response.start":
                dead = message["status"] >= 500 and self.engine._engine_client.errored
                yield 503 if dead else message["status"]  # on which clients retry
            elif part := message.get("body"):
                yield part

    async def _messages(self, path: str, body: bytes) -> AsyncGenerator[dict[str, Any], None]:
        """Run the ASGI app on one request; abort it if the consumer stops reading."""
        if path == CHAT:
            body = json.dumps(self._template.request(json.loads(body))).encode()
        if path == COMPLETIONS:
            body = await self._tokenizing(self._limited, body)
        sent: asyncio.Queue[Any] = asyncio.Queue()
        requests = [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if requests:
                return requests.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        task = asyncio.create_task(self._app(_scope(path), receive, sent.put))
        task.add_done_callback(lambda _: sent.put_nowait(None))
        try:
            while message := await sent.get():
                yield message
            await task
        finally:
            # vLLM aborts a request when the client disconnects; only cancelling the task would leave it running.
            gone.set()
            await asyncio.wait([task], timeout=_CANCEL_S)
            task.cancel()

    def _limited(self, body: bytes) -> bytes:
        """Set max_tokens where a plain completion has none, for which vLLM would take 16, whatever the window leaves."""
        request = json.loads(body)
        if request.get("max_tokens") is not None:
            return body
        prompt = request["prompt"]
        prompts = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
        longest = max(len(p if isinstance(p, list) else self._tokenizer(p).input_ids) for p in prompts)
        tokens = max(1, min(self._default_max_tokens, self._window - longest))
        return json.dumps(request | {"max_tokens": tokens}).encode()


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
