"""Requests per second of our endpoint over those of `vllm serve`, same model and engine settings, in one run.

    make bench-serve

Both servers stay up; blocks of requests go to one and the other in turn, so that what else the machine does falls on
both. A response is 128 tokens (vLLM's own default for benchmarks) of a chat prompt; `short` is the task this system
trains for, an answer of about four tokens, where nothing hides the cost of a hop. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp

from semievol.config import EngineConfig
from semievol.engines.vllm import engine_environment, engine_options
from semievol.serving import keys

SHARED = Path(__file__).parents[2] / "shared"
MODEL, ROWS = SHARED / "models" / "tiny-lm", SHARED / "data" / "fpb" / "test.csv"
CONCURRENCIES = (1, 8, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="blocks for each server at each concurrency")
    parser.add_argument("--seconds", type=float, default=15, help="of a block")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print("starting both servers", flush=True)
        logs = {name: Path(scratch, f"{name}.out") for name in ("vllm", "ours")}
        peer, peer_port = start_vllm(logs["vllm"])
        ours, our_port, key = start_ours(Path(scratch), logs["ours"])
        try:
            wait(peer, peer_port, logs["vllm"])
            wait(ours, our_port, logs["ours"])
            targets = {
                "ours": (f"http://127.0.0.1:{our_port}", "base", key),
                "vllm": (f"http://127.0.0.1:{peer_port}", "tiny-lm", ""),
            }
            print(json.dumps(asyncio.run(measure(targets, options.repeats, options.seconds))))
        finally:
            for server in (ours, peer):
                server.terminate()
                server.wait(timeout=120)


def start_ours(scratch: Path, log: Path) -> tuple[subprocess.Popen[bytes], int, str]:
    """`semievol serve` on a run that has not begun: its base model is all that there is to serve."""
    run, port = scratch / "run", free_port()
    run.mkdir()
    (run / "config.yaml").write_text(
        f"""
        name: run
        storage: {scratch}
        model: {{base: {MODEL}}}
        data: {{labeled: none, unlabeled: none, test: none}}
        engine: {{max_num_seqs: 64}}
        serving: {{models: [base], neighbors: 0, rate: 1000000/minute}}
        """
    )
    key = keys.add("benchmark", f"{run}/keys.txt")
    command = [sys.executable, "-m", "semievol", "serve", str(run), f"--port={port}", f"--keys={run}/keys.txt"]
    return start(command, os.environ | {"RAY_SERVE_LOG_TO_STDERR": "0"}, log), port, key


def start_vllm(log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """`vllm serve` with the settings that our engine has."""
    port = free_port()
    # What `vllm serve` runs; that command itself stumbles over the name of the CPU build's package.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL)]
    command += ["--served-model-name", "tiny-lm"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    for name, value in engine_options(str(MODEL), EngineConfig(max_num_seqs=64)).items():
        flag = name.replace("_", "-")
        command += [] if name == "trust_remote_code" else [f"--{flag if value is not False else f'no-{flag}'}"]
        command += [str(value)] if not isinstance(value, bool) else []
    return start(command, os.environ | engine_environment(EngineConfig()), log), port


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)


def wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the server says that its model can answer."""
    until = time.monotonic() + 600
    while True:
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/health").close()
            return
        except OSError:  # nothing listens yet, or the answer is 503
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(log.read_text()) from None
            time.sleep(1)


async def measure(targets: dict[str, tuple[str, str, str]], repeats: int, seconds: float) -> dict[str, Any]:
    """Every concurrency and both lengths on both servers, in turn."""
    with ROWS.open(newline="") as file:
        questions = [row["question"] for row in csv.DictReader(file)]
    result: dict[str, Any] = {"tokens": 128, "repeats": repeats, "block_seconds": seconds}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for length, tokens in (("", 128), ("short_", None)):
            for concurrency in CONCURRENCIES:
                rates: dict[str, list[float]] = {name: [] for name in targets}
                latencies: dict[str, list[float]] = {name: [] for name in targets}
                for repeat in range(repeats + 1):
                    for name, target in targets.items():
                        lasts = seconds if repeat else 3.0  # the first is a warm-up
                        took, wall = await block(session, target, questions, concurrency, tokens, lasts)
                        if repeat:
                            rates[name].append(len(took) / wall)
                            latencies[name] += took
                key = f"{length}c{concurrency}"
                ratios = [a / b for a, b in zip(rates["ours"], rates["vllm"], strict=True)]
                result[f"vs_vllm_{key}"] = round(statistics.median(ratios), 3)
                for name in targets:
                    result[f"{name}_{key}"] = summary(rates[name], latencies[name])
                print(key, {k: v for k, v in result.items() if k.endswith(key)}, flush=True)
    return result


async def block(
    session: aiohttp.ClientSession,
    target: tuple[str, str, str],
    questions: list[str],
    concurrency: int,
    tokens: int | None,
    seconds: float,
) -> tuple[list[float], float]:
    """Latencies (s) of the requests that `concurrency` callers got answered in `seconds`, and the wall time."""
    url, model, key = target
    until = time.perf_counter() + seconds
    took: list[float] = []

    async def caller(number: int) -> None:
        turn = number
        while (started := time.perf_counter()) < until:
            content = f"{questions[turn % len(questions)]}\n\nA. negative\nB. neutral\nC. positive"
            turn += concurrency
            body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0}
            body |= {"max_tokens": tokens, "min_tokens": tokens} if tokens else {"max_tokens": 16}
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
                answered = await response.json()
                assert response.status == 200, answered
                assert not tokens or answered["usage"]["completion_tokens"] == tokens
            took.append(time.perf_counter() - started)

    begun = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(concurrency)))
    return took, time.perf_counter() - begun


def summary(rates: list[float], latencies: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(latencies, n=100)
    figures = {"requests_per_s": statistics.median(rates), "p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000}
    return {name: round(value, 2) for name, value in figures.items()}


if __name__ == "__main__":
    main()
