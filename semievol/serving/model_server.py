"""One served model: ray.serve.llm's LLMServer, which our endpoint speaks HTTP to through a Serve handle.

Requests and responses travel as bytes between the endpoint and vLLM's own OpenAI app in the replica, so nothing is
parsed twice (but for a model without system messages) and the endpoint needs no vLLM.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from semievol.config import EngineConfig
from semievol.data import storage
from semievol.engines.chat_template import ChatTemplate, load_tokenizer
from semievol.engines.vllm import engine_options, is_cpu_build
from semievol.method.prompts import without_system
from semievol.serving.backend import CHAT

_END = object()
_FAREWELL_S = 2.0


class _Engine(VLLMEngine):
    def _start_async_llm_engine(self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any) -> Any:
        # ray.serve.llm puts even a single CPU worker into a process of its own, which costs a hop for every token.
        parallel = vllm_engine_config.parallel_config
        if is_cpu_build() and parallel.world_size == 1:
            parallel.distributed_executor_backend = "uni"
        return super()._start_async_llm_engine(vllm_engine_args, vllm_engine_config, placement_group)


class ModelServer(LLMServer):
    """LLMServer with two methods that take the body of an HTTP request for vLLM's app."""

    async def __init__(self, llm_config: LLMConfig, weights: str, engine_config: dict[str, Any]) -> None:  # type: ignore[misc]
        """Fetch the weights to this node, then start the engine.

        Args:
            weights: a folder, a URI or a Hugging Face id.
            engine_config: `EngineConfig` as a dict.
        """
        path = await asyncio.to_thread(storage.local_copy, weights) if "://" in weights else weights
        # A new one, as LLMConfig keeps what it has once made of its fields.
        here = LLMConfig(
            model_loading_config={"model_id": llm_config.model_id, "model_source": path},
            engine_kwargs=engine_options(path, EngineConfig(**engine_config)),
            placement_group_config=llm_config.placement_group_config,
            runtime_env=llm_config.runtime_env,
            log_engine_metrics=False,
        )
        await super().__init__(here, engine_cls=_Engine)
        self._app = await self.engine.build_asgi_app()
        self._merges = await asyncio.to_thread(_merges_system, path)

    async def respond(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of a whole response."""
        status, parts = 500, []
        async for message in self._messages(path, body):
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))
        return self._status(status), b"".join(parts)

    async def stream(self, path: str, body: bytes) -> AsyncGenerator[int | bytes, None]:
        """The status, then the parts of the body as they come."""
        async for message in self._messages(path, body):
            if message["type"] == "http.response.start":
                yield self._status(message["status"])
            elif part := message.get("body"):
                yield part

    def _status(self, status: int) -> int:
        """A dead engine is our trouble and not the request's: 503, which clients repeat."""
        return 503 if status >= 500 and self.engine._engine_client.errored else status

    async def _messages(self, path: str, body: bytes) -> AsyncGenerator[dict[str, Any], None]:
        """Run the ASGI app on one request; ends it when the consumer goes away."""
        if path == CHAT and self._merges:
            body = _merged(body)
        sent: asyncio.Queue[Any] = asyncio.Queue()
        requests = [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if requests:
                return requests.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._app(_scope(path), receive, sent.put)
            finally:
                sent.put_nowait(_END)

        task = asyncio.create_task(run())
        try:
            while (message := await sent.get()) is not _END:
                yield message
            await task
        finally:
            # vLLM ends a request when it hears that the client is gone; being cancelled alone would leave it at work.
            gone.set()
            await asyncio.wait([task], timeout=_FAREWELL_S)
            task.cancel()


def _merges_system(model: str) -> bool:
    """Whether the model was trained and evaluated with what stands in a system message at the head of the user's."""
    tokenizer = load_tokenizer(model)
    return bool(tokenizer.chat_template) and not ChatTemplate(tokenizer).takes_system


def _merged(body: bytes) -> bytes:
    asked = json.loads(body)
    return json.dumps(asked | {"messages": without_system(asked["messages"])}).encode()


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
        "server": None,
        "state": {},
    }
