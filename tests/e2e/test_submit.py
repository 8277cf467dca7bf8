"""A head and two more nodes as processes of their own, with token authentication: submit, kill the driver, submit again.

The job is the demo, as far as its first training.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

from semievol.demo import run
from semievol.demo.data import write_dataset
from tests.support import bases

pytestmark = pytest.mark.timeout(1200)
ROOT = Path(__file__).parents[2]
DEMO = Path(run.__file__).with_name("demo.yaml")
TOKEN, SECRET = "0123456789abcdef" * 4, "hf_thisIsAValue"
RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True)
class Cluster:
    """Where the job server is, and the environment of a client that has the token."""

    url: str
    client: dict[str, str]

    def semievol(self, *arguments: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "semievol", *arguments, "--address", self.url]
        environment = self.client | ({"RAY_AUTH_TOKEN": token} if token else {})
        return subprocess.run(command, env=environment, capture_output=True, text=True)


def start_node(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    """A node in the foreground of a process, with a temporary folder of its own: nodes that share one take each other's
    unpacked packages away. Ray gives up after 30 s, which a busy machine may need more than once."""
    command = [RAY, "start", "--block", "--disable-usage-stats", "--object-store-memory=200000000", *arguments]
    command += ["--node-ip-address=127.0.0.1", f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}"]
    log = folder.with_suffix(".log")
    for _ in range(4):
        with log.open("w") as out:
            node = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=folder.parent)
        while node.poll() is None:
            if "Ray runtime started" in log.read_text():
                return node
            time.sleep(0.2)
    pytest.fail(log.read_text())


def end_node(node: subprocess.Popen[bytes]) -> None:
    """With all that it started; a graceful end takes half a minute."""
    with suppress(psutil.NoSuchProcess):
        for process in [*psutil.Process(node.pid).children(recursive=True), node]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    node.wait()


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """A folder whose path is short: Ray's sockets in it have at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def cluster(short_folder: Path) -> Iterator[Cluster]:
    folder = short_folder
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SEMIEVOL_"))}
    plain |= {"HOME": str(folder), "HF_TOKEN": SECRET}  # no ~/.ray/auth_token of this machine
    plain |= {"XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))}  # what torch compiled
    on_nodes = plain | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_idle_worker_killing_time_threshold_ms": "600000",  # as for a local Ray: starting workers is slow
        "PYTHONPATH": "",  # they get the package with the job
    }
    port, dashboard = free_port(), free_port()
    head = ["--head", f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"]
    nodes = []
    try:
        nodes.append(start_node(folder / "head", on_nodes, *head, "--num-cpus=1"))
        for number in range(2):
            nodes.append(start_node(folder / f"{number}", on_nodes, f"--address=127.0.0.1:{port}", "--num-cpus=2"))
        yield Cluster(f"http://127.0.0.1:{dashboard}", plain | {"PYTHONPATH": str(ROOT)})
    finally:
        for node in nodes:
            end_node(node)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("job") / "runs"


@pytest.fixture(scope="module")
def settings(storage: Path) -> list[str]:
    """The demo, small: a few rows, and a base of one layer and random weights."""
    folder = storage.parent
    write_dataset(folder / "data", seed=0, labeled=36, unlabeled=60, test=24)
    bases.write(folder / "base")
    return [
        str(DEMO),
        "name=job",
        f"storage={storage}",
        f"data.labeled={folder}/data/labeled.jsonl",
        f"data.unlabeled={folder}/data/unlabeled/*.jsonl",
        f"data.test={folder}/data/test.jsonl",
        f"model.base={folder}/base",
        "warmup.epochs=1",
        "warmup.max_length=512",  # its tokens are bytes
        "resources.train.workers=1",  # two of them train in test_run
        "limits.max_bad_fraction=1",
    ]


def test_without_the_token_a_client_is_refused(cluster: Cluster, settings: list[str]) -> None:
    submit = ["submit", *settings]
    refusals = {
        None: ("wants a token, and there is none here", [submit, ["jobs"]]),
        "wrong": ("does not accept this token", [submit, ["stop", "job"]]),
    }
    for token, (message, commands) in refusals.items():
        for command in commands:
            done = cluster.semievol(*command, token=token)
            assert done.returncode == 2
            assert message in done.stderr and "RAY_AUTH_TOKEN" in done.stderr
            assert "Traceback" not in done.stderr
    assert requests.get(f"{cluster.url}/api/jobs/", timeout=10).status_code == 401


def test_a_killed_driver_is_resumed_by_the_same_submission(
    cluster: Cluster, storage: Path, settings: list[str]
) -> None:
    submit = ["submit", *settings, "--until", "warmup", "--env", "HF_TOKEN"]
    command = [sys.executable, "-m", "semievol", *submit, "--address", cluster.url]
    environment = cluster.client | {"RAY_AUTH_TOKEN": TOKEN}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert first.stdout is not None
    seen = []
    for line in first.stdout:
        seen.append(line)
        if line.startswith("index"):  # the line of the finished stage
            break
    assert first.poll() is None, "".join(seen)
    job = seen[0].split()[1]
    assert "submitted to" in seen[0] and job.startswith("job-")

    again = cluster.semievol(*submit, "--no-wait")  # finds the job that is at work
    assert again.returncode == 0 and f"job {job} is at work already" in again.stdout
    driver = json.loads((storage / "job" / "driver.json").read_text())
    os.kill(driver["pid"], signal.SIGKILL)
    rest = first.communicate(timeout=60)[0]
    assert first.returncode == 1
    assert f"job {job} failed; submit it again to go on where it stopped" in rest

    done = cluster.semievol(*submit)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"job {job}-2 submitted" in done.stdout and f"job {job}-2 succeeded" in done.stdout
    for stage, state in (("ingest", "done before"), ("index", "done before"), ("warmup", "36 in")):
        assert any(line.startswith(stage) and state in line for line in done.stdout.splitlines()), stage
    assert not (storage / "job" / "driver.json").exists()

    listed = cluster.semievol("jobs").stdout
    assert f"{job}-2 " in listed and "succeeded" in listed and "failed" in listed
    logs = cluster.semievol("logs", job)  # of the attempt that was killed
    assert logs.returncode == 1 and "index" in logs.stdout
    shown = requests.get(f"{cluster.url}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10).text
    assert "HF_TOKEN" in shown and SECRET not in shown


def test_a_job_can_be_stopped_and_says_what_nodes_lack(cluster: Cluster, storage: Path, settings: list[str]) -> None:
    submit = ["submit", *settings, "name=other", "--until", "ingest"]
    refused = cluster.semievol(*submit, "--env", "NOT_THERE")
    assert refused.returncode == 2
    assert refused.stdout.count("--env NOT_THERE: not set") == 3  # the head and two nodes
    assert not (storage / "other").exists()

    left = cluster.semievol(*submit, "--no-wait")
    job = left.stdout.split()[1]
    assert f"follow it: semievol logs {job}" in left.stdout
    stopped = cluster.semievol("stop", job)
    assert stopped.stdout == f"job {job} stopped\n"
    assert cluster.semievol("logs", job).returncode == 130
