"""A run folder to serve, without running a loop for it: real weights, a real index, evaluated rounds."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import pyarrow as pa

from semievol import config
from semievol.data import storage
from semievol.data.tables import LABELED
from semievol.retrieval.search import build_index
from semievol.runs.folder import Manifest, RunFolder
from semievol.serving.keys import add
from semievol.stages.base import Rows

START_S = 600  # two engines on a busy machine
ROUNDS = {0: 0.70, 1: 0.80, 2: 0.50}  # and the accuracy of each on the validation rows


def make_run(folder: Path, model: Path) -> str:
    """A run with three evaluated rounds, every model in it a copy of `model`; returns its folder."""
    data = "{labeled: l, unlabeled: u, test: t, validation: 0.2}"
    text = f"{{name: r, storage: {folder}, model: {{base: {model}}}, data: {data}}}"
    settings = config.loads(text, ["engine.max_num_seqs=64", "evaluate.max_tokens=8"], "made here")
    run = RunFolder(str(folder), "r")
    storage.write_text(storage.join(run.uri, "config.yaml"), config.to_yaml(settings))
    labeled = [
        {"row_id": i, "question": q, "options": ["negative", "neutral", "positive"], "context": None}
        | {"stratum": None, "answer": a}
        for i, (q, a) in enumerate([("Profit rose by a third.", "C"), ("Sales fell.", "A"), ("A board met.", "B")])
    ]
    source = storage.join(run.stage("ingest"), "labeled")
    storage.write_table(storage.join(source, "rows.parquet"), pa.Table.from_pylist(labeled, LABELED))
    build_index(source, run.stage("index"), settings.embedding, settings.retrieve)
    for number, accuracy in ROUNDS.items():
        shutil.copytree(model, storage.join(run.stage("finetune", number), "model"))
        for stage, metrics in (
            ("finetune", {}),
            ("validate/base", {"accuracy": 0.6}),
            ("validate/warm", {"accuracy": 0.65}),
            ("validate/evolved", {"accuracy": accuracy}),
        ):
            here = run.stage(stage, number)
            if metrics:
                storage.write_table(storage.join(here, "rows", "a.parquet"), pa.table({"row_id": [1, 2, 3]}))
            manifest = Manifest(stage, f"{number}0123456789abcde", Rows(3, 3), metrics)
            storage.write_text(storage.join(here, "manifest.json"), json.dumps(asdict(manifest)))
    return run.uri


@dataclass
class Served:
    """A running `semievol serve`."""

    run: str
    url: str
    key: str
    process: subprocess.Popen[bytes]
    logs: Path  # everything that Ray, Serve, vLLM and we have written

    def __post_init__(self) -> None:
        self.http = httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=120, trust_env=False
        )

    def all_logs(self) -> str:
        return "\n".join(file.read_text(errors="replace") for file in self.logs.rglob("*") if file.is_file())


def start(run: str, *overrides: str) -> Served:
    """Serve a run on a free port with one key; returns when it is ready."""
    key = add("tester", f"{run}/keys.txt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = Path(tempfile.mkdtemp(prefix="sv-", dir="/tmp"))  # short: Ray puts sockets into it
    command = [sys.executable, "-m", "semievol", "serve", run, *overrides, f"--port={port}", f"--keys={run}/keys.txt"]
    with (logs / "serve.out").open("wb") as out:
        environment = os.environ | {"RAY_TMPDIR": str(logs), "RAY_SERVE_LOG_TO_STDERR": "0"}
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    served = Served(run, f"http://127.0.0.1:{port}", key, process, logs)
    until = time.monotonic() + START_S
    while b"Ctrl-C stops it" not in (logs / "serve.out").read_bytes():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise AssertionError((logs / "serve.out").read_text())
        time.sleep(0.5)
    return served


def stop(served: Served) -> None:
    """As Ctrl-C does."""
    served.process.send_signal(signal.SIGTERM)
    served.process.wait(timeout=120)
    shutil.rmtree(served.logs, ignore_errors=True)
