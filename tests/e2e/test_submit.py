"""A head and two more nodes as processes of their own, with token authentication: submit, kill the driver, submit again."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
DATA, MODEL = SHARED / "data" / "fpb", SHARED / "models" / "tiny-lm"
pytestmark = [
    pytest.mark.skipif(not DATA.exists(), reason=f"needs {DATA}, which is not here"),
    pytest.mark.timeout(1200),
]
TOKEN, SECRET = "0123456789abcdef" * 4, "hf_thisIsAValue"
SIZES = {"labeled": 32, "unlabeled": 100, "test": 32}
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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("ray")  # short: it holds sockets
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SEMIEVOL_"))}
    plain |= {"HOME": str(folder), "PYTHONPATH": str(ROOT)}  # no ~/.ray/auth_token of this machine
    nodes = plain | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "HF_TOKEN": SECRET, "HF_HUB_OFFLINE": "1"}
    nodes |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    nodes |= {"RAY_idle_worker_killing_time_threshold_ms": "600000"}  # as for a local Ray: starting workers is slow
    del nodes["PYTHONPATH"]  # they get the package with the job
    port, dashboard = free_port(), free_port()
    head = ["--head", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=1"]
    head += [f"--ray-client-server-port={free_port()}", "--node-ip-address=127.0.0.1"]
    other = [f"--address=127.0.0.1:{port}", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    processes = []
    try:
        for number, arguments in enumerate([head, other, other]):  # two that start at once on one machine collide
            log = folder / f"{number}.log"
            command = [RAY, "start", "--block", "--disable-usage-stats", "--object-store-memory=200000000", *arguments]
            # Of its own: nodes that share the folder take each other's unpacked packages away.
            command += [f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}/{number}"]
            with log.open("w") as out:
                processes.append(subprocess.Popen(command, env=nodes, stdout=out, stderr=out, cwd=folder))
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in log.read_text():
                assert processes[-1].poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield Cluster(f"http://127.0.0.1:{dashboard}", plain | {"HF_TOKEN": SECRET})
    finally:
        for process in processes:  # with all they started; a graceful end takes half a minute
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    for split, size in SIZES.items():
        with (DATA / f"{split}.csv").open(newline="") as source, (folder / f"{split}.csv").open("w", newline="") as out:
            csv.writer(out).writerows(list(csv.reader(source))[: size + 1])
    (folder / "c.yaml").write_text(
        f"""
        name: job
        storage: {folder}/runs
        model: {{base: {MODEL}}}
        data: {{labeled: {folder}/labeled.csv, unlabeled: {folder}/unlabeled.csv, test: {folder}/test.csv}}
        warmup: {{epochs: 1, learning_rate: 2e-3}}
        label:
          collaborators:
            - {{name: plain, k: 0}}
            - {{name: nearest, k: 3, kind: neighbors}}
        """
    )
    return folder / "c.yaml"


def test_without_the_token_a_client_is_refused(cluster: Cluster, config: Path) -> None:
    for token, message in ((None, "wants a token, and there is none here"), ("wrong", "does not accept this token")):
        for command in (["submit", str(config)], ["jobs"], ["stop", "job"]):
            done = cluster.semievol(*command, token=token)
            assert done.returncode == 2
            assert message in done.stderr and "RAY_AUTH_TOKEN" in done.stderr
            assert "Traceback" not in done.stderr
    assert requests.get(f"{cluster.url}/api/jobs/", timeout=10).status_code == 401


def test_a_killed_driver_is_resumed_by_the_same_submission(cluster: Cluster, config: Path) -> None:
    submit = ["submit", str(config), "--until", "label", "--env", "HF_TOKEN"]
    command = [sys.executable, "-m", "semievol", *submit, "--address", cluster.url]
    environment = cluster.client | {"RAY_AUTH_TOKEN": TOKEN}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert first.stdout is not None
    seen = []
    for line in first.stdout:
        seen.append(line)
        if line.startswith("warmup"):  # the line of the finished stage
            break
    assert first.poll() is None, "".join(seen)
    job = seen[0].split()[1]
    assert "submitted to" in seen[0] and job.startswith("job-")

    again = cluster.semievol(*submit, "--no-wait")  # finds the job that is at work
    assert again.returncode == 0 and f"job {job} is at work already" in again.stdout
    driver = json.loads((config.parent / "runs" / "job" / "driver.json").read_text())
    os.kill(driver["pid"], signal.SIGKILL)
    rest = first.communicate(timeout=60)[0]
    assert first.returncode == 1
    assert f"job {job} failed; submit it again to go on where it stopped" in rest

    done = cluster.semievol(*submit)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"job {job}-2 submitted" in done.stdout and f"job {job}-2 succeeded" in done.stdout
    for stage, state in (("ingest", "done before"), ("warmup", "done before"), ("label", "100 in")):
        assert any(line.startswith(stage) and state in line for line in done.stdout.splitlines()), stage
    assert not (config.parent / "runs" / "job" / "driver.json").exists()

    listed = cluster.semievol("jobs").stdout
    assert f"{job}-2 " in listed and "succeeded" in listed and "failed" in listed
    logs = cluster.semievol("logs", job)  # of the attempt that was killed
    assert logs.returncode == 1 and "warmup" in logs.stdout
    shown = requests.get(f"{cluster.url}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10).text
    assert "HF_TOKEN" in shown and SECRET not in shown


def test_a_job_can_be_stopped_and_says_what_nodes_lack(cluster: Cluster, config: Path) -> None:
    submit = ["submit", str(config), "name=other", "--until", "ingest"]
    refused = cluster.semievol(*submit, "--env", "NOT_THERE")
    assert refused.returncode == 2
    assert refused.stdout.count("--env NOT_THERE: not set") == 3  # the head and two nodes
    assert not (config.parent / "runs" / "other").exists()

    left = cluster.semievol(*submit, "--no-wait")
    job = left.stdout.split()[1]
    assert f"follow it: semievol logs {job}" in left.stdout
    stopped = cluster.semievol("stop", job)
    assert stopped.stdout == f"job {job} stopped\n"
    assert cluster.semievol("logs", job).returncode == 130
