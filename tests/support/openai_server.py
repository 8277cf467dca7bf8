"""An OpenAI-compatible server in a thread, deterministic, that counts what it is asked and fails as a test wants.

A chat is answered with the letter of the last `say=X` in it. Fine-tuning jobs get on by one step with each look at them.
"""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, UploadFile
from fastapi.responses import JSONResponse, Response

WINDOW = 2000  # "tokens" are characters here
STEPS = 4  # of a fine-tuning job


@dataclass(frozen=True)
class Fault:
    """An answer that is an error; status 0 breaks the connection off in the middle of the answer."""

    status: int
    message: str = "as the test asked"
    headers: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)  # code, param, ..

    def response(self) -> Response:
        if not self.status:
            return _Broken()
        error = {"message": self.message, "type": "error", "code": None, "param": None} | self.more
        return JSONResponse({"error": error}, self.status, self.headers)


class _Broken(Response):
    """Promises more bytes than it sends, at which the server closes the connection."""

    def __init__(self) -> None:
        super().__init__(b"{", headers={"content-length": "100"}, media_type="application/json")


class OpenAIServer:
    """`fault` is asked before each request, with its method and path, and its JSON body: a `Fault`, or None for none."""

    def __init__(self) -> None:
        self.fault: Callable[[str, dict[str, Any]], Fault | Response | None] = lambda path, body: None
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.keys: set[str] = set()
        self.in_flight = self.most_in_flight = 0
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.lose_created_jobs = False  # the job is there, its creator does not hear of it
        self.failing_jobs = ""  # why they fail
        self.window = WINDOW
        self.knows_n = True
        self.thought = 0  # tokens that the model thinks before each answer, as part of the limit
        self.reply: dict[str, Any] = {}  # replaces fields of each choice's message
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> "OpenAIServer":
        config = uvicorn.Config(self._app(), port=self.port, log_level="critical", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        return self

    def stop(self, *, wait: bool = True) -> None:
        """Without waiting, it ends within a second."""
        self._server.should_exit = True
        if wait:
            self._thread.join()

    def rows(self) -> list[int]:
        """The row of each chat that was answered, in order."""
        return [body["row"] for path, body in self.calls if path == "answered"]

    def count(self, path: str) -> int:
        return sum(path == called for called, _ in self.calls)

    def add_jobs(self, count: int, content: dict[str, Any]) -> dict[str, Any]:
        """Fine-tuning jobs, all with this content; returns the last."""
        for number in range(len(self.jobs), len(self.jobs) + count):
            job = {"id": f"job-{number}", "object": "fine_tuning.job", "created_at": number, "status": "queued"}
            job |= {"fine_tuned_model": None, "error": None, "trained_tokens": None, "finished_at": None, "steps": 0}
            job |= {"organization_id": "o", "result_files": [], "hyperparameters": {}, "validation_file": None}
            self.jobs[f"job-{number}"] = job | content | {"user_provided_suffix": content.get("suffix")}
        return self.jobs[f"job-{number}"]

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def record(request: Request, handle: Callable[..., Any]) -> Response:
            is_json = request.headers.get("content-type") == "application/json"
            body = json.loads(await request.body()) if is_json else {}
            path = f"{request.method} {request.url.path.removeprefix('/v1')}"
            self.calls.append((path, body))
            self.keys.add(request.headers.get("authorization", ""))
            fault = self.fault(path, body)
            if fault is None:
                return await handle(request)
            return fault.response() if isinstance(fault, Fault) else fault

        app.add_api_route("/v1/chat/completions", self._chat, methods=["POST"], response_model=None)
        app.add_api_route("/v1/files", self._upload, methods=["POST"])
        app.add_api_route("/v1/fine_tuning/jobs", self._create_job, methods=["POST"], response_model=None)
        app.add_api_route("/v1/fine_tuning/jobs", self._list_jobs, methods=["GET"])
        app.add_api_route("/v1/fine_tuning/jobs/{job_id}", self._job, methods=["GET"], response_model=None)
        app.add_api_route("/v1/fine_tuning/jobs/{job_id}/events", self._events, methods=["GET"])
        return app

    async def _chat(self, body: dict[str, Any]) -> Response | dict[str, Any]:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.002)
        self.in_flight -= 1
        text = "".join(message["content"] for message in body["messages"])
        limit = body["max_tokens"] if "max_tokens" in body else body["max_completion_tokens"]
        if len(text) + limit > self.window:
            return Fault(400, f"This model's maximum context length is {self.window} tokens").response()
        said = re.findall(r"say=([A-C]) row=(\d+)", text) or [("A", "0")]
        letter, row = said[-1]
        self.calls.append(("answered", {"row": int(row)}))
        n = body.get("n", 1) if self.knows_n else 1
        choices = [_choice(i, letter, bool(body.get("logprobs")), body.get("top_logprobs", 0)) for i in range(n)]
        usage: dict[str, Any] = {"prompt_tokens": 10, "completion_tokens": 3 * n, "total_tokens": 10 + 3 * n}
        for choice in choices:
            choice["message"] |= self.reply
            if self.thought:
                usage["completion_tokens_details"] = {"reasoning_tokens": min(self.thought, limit)}
                if limit < self.thought + 3:
                    choice["message"]["content"], choice["finish_reason"] = None, "length"
        head = {"id": "c", "object": "chat.completion", "created": 0, "model": body["model"]}
        return head | {"choices": choices, "usage": usage}

    async def _upload(self, file: UploadFile) -> dict[str, Any]:
        name = f"file-{len(self.files)}"
        self.files[name] = await file.read()
        head = {"id": name, "object": "file", "created_at": 0, "filename": file.filename or ""}
        return head | {"bytes": len(self.files[name]), "purpose": "fine-tune", "status": "processed"}

    async def _create_job(self, body: dict[str, Any]) -> Response | dict[str, Any]:
        job = self.add_jobs(1, body)
        return Fault(0).response() if self.lose_created_jobs else job

    async def _list_jobs(self, after: str = "", limit: int = 20) -> dict[str, Any]:
        newest_first = list(self.jobs.values())[::-1]
        start = next((i + 1 for i, job in enumerate(newest_first) if job["id"] == after), 0)
        page = newest_first[start : start + min(limit, 2)]  # small pages, so that there are several
        return {"object": "list", "data": page, "has_more": start + len(page) < len(newest_first)}

    async def _job(self, job_id: str) -> Response | dict[str, Any]:
        if job_id not in self.jobs:
            return Fault(404, "no such job").response()
        job = self.jobs[job_id]
        if self.failing_jobs:
            error = {"code": "invalid", "message": self.failing_jobs, "param": None}
            job |= {"status": "failed", "error": error}
        elif job["status"] in ("queued", "running"):
            job["steps"] += 1
            job["status"] = "running" if job["steps"] < STEPS else "succeeded"
        if job["status"] == "succeeded":
            job |= {"fine_tuned_model": f"ft:{job['model']}:{job_id}", "trained_tokens": 1234}
        return job

    async def _events(self, job_id: str) -> dict[str, Any]:
        step = self.jobs[job_id]["steps"]
        data = {"step": step, "total_steps": STEPS, "train_loss": 1 / (step + 1)}
        event = {"id": "e", "object": "fine_tuning.job.event", "created_at": 0, "level": "info"}
        event |= {"message": f"Step {step}/{STEPS}", "data": data, "type": "metrics"}
        return {"object": "list", "data": [event], "has_more": False}


def _choice(index: int, letter: str, logprobs: bool, top: int) -> dict[str, Any]:
    tokens = [("Answer", -0.1), (":", -0.1), (f" {letter}", -0.4)]
    others = [{"token": "?", "logprob": -3.0, "bytes": None}][: max(0, top - 1)]
    content = [
        {"token": token, "logprob": value, "bytes": None}
        | {"top_logprobs": [{"token": token, "logprob": value, "bytes": None}, *others][:top]}
        for token, value in tokens
    ]
    message = {"role": "assistant", "content": f"Answer: {letter}", "refusal": None}
    choice = {"index": index, "message": message, "finish_reason": "stop"}
    return choice | {"logprobs": {"content": content, "refusal": None} if logprobs else None}
