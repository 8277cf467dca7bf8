"""What is sent to a job server: a server of our own takes it down. The real one is in tests/e2e."""

import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from semievol.errors import UserError
from semievol.runs import submission
from semievol.runs.submission import JobServer, _url


class Server(ThreadingHTTPServer):
    """Ray's job server without authentication, as far as a submission goes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.packages: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.session = "session_of_another_machine"
        self.wants_token = False
        self.redirects_jobs_to = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"  # as of a tunnel


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        jobs = self.server.jobs
        if self.server.wants_token and "authorization" not in map(str.lower, self.headers):
            return self._answer("Unauthorized: Missing authentication token", 401)
        if self.server.redirects_jobs_to and self.path.startswith("/api/jobs"):
            return self._answer({}, 307, Location=self.server.redirects_jobs_to + self.path)
        if self.path == "/api/version":
            return self._answer({"version": "4", "ray_version": "2.60.0", "session_name": self.server.session})
        if self.path == "/api/jobs/":
            return self._answer(list(jobs.values()))
        job = jobs.get(self.path.removeprefix("/api/jobs/"))
        self._answer(job or {}, 200 if job else 404)

    def do_PUT(self) -> None:
        self.server.packages.append(self._body())
        self._answer({})

    def do_POST(self) -> None:
        request = json.loads(self._body())
        self.server.jobs[request["submission_id"]] = request | {"type": "SUBMISSION", "status": "RUNNING"}
        self._answer({"job_id": request["submission_id"], "submission_id": request["submission_id"]})

    def log_message(self, *_: Any) -> None:
        pass

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, content: Any, status: int = 200, **headers: str) -> None:
        self.server.headers.append(dict(self.headers))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


elsewhere = server


@pytest.fixture
def config(tmp_path: Path) -> str:
    text = "{name: x, storage: /nfs/runs, model: {base: org/name}, data: {labeled: /nfs/l, unlabeled: /nfs/u, test: /nfs/t}}"
    (tmp_path / "c.yaml").write_text(text)
    return str(tmp_path / "c.yaml")


def submit(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the address of the server decides how Ray is imported."""
    command = [sys.executable, "-m", "semievol", "submit", *arguments, "--no-wait", "--address", server.url]
    environment = os.environ | {"RAY_AUTH_TOKEN": "t" * 32, "HF_TOKEN": "a-secret", "RAY_ADDRESS": "http://elsewhere:1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_what_travels(server: Server, config: str) -> None:
    flags = ("--allow-unauthenticated", "--env", "HF_TOKEN")
    first = submit(server, config, "seed=3", *flags)
    assert first.returncode == 0, first.stderr
    [(job_id, job)] = server.jobs.items()
    assert job["entrypoint"] == "python -m semievol run config.yaml --env HF_TOKEN"
    assert job["metadata"] == {"semievol_run": "/nfs/runs/x"}
    assert list(job["runtime_env"]) == ["working_dir"] and job["runtime_env"]["working_dir"].startswith("gcs://")
    assert not any(key.startswith("entrypoint_num") and job[key] for key in job)  # on the head, reserving nothing
    [package] = server.packages
    files = zipfile.ZipFile(io.BytesIO(package)).namelist()
    assert {"config.yaml", "semievol/__main__.py", "semievol/stages/label.py", "semievol/demo/demo.yaml"} <= set(files)
    assert all(name.startswith("semievol/") or name == "config.yaml" for name in files)
    assert not any("__pycache__" in name or "/." in name for name in files)
    assert b"a-secret" not in package and "a-secret" not in json.dumps(server.jobs)
    assert not any("authorization" in map(str.lower, headers) for headers in server.headers)  # nobody asked for it

    assert f"job {job_id} submitted" in first.stdout
    assert f"job {job_id} is at work already" in submit(server, config, "seed=3", *flags).stdout
    job["status"] = "FAILED"
    assert f"job {job_id}-2 submitted" in submit(server, config, "seed=3", *flags).stdout
    assert submit(server, config, "seed=4", *flags).returncode == 0
    assert len({name.removesuffix("-2") for name in server.jobs}) == 2  # another config is another job


def test_what_does_not(server: Server, config: str) -> None:
    refusals = {
        (config,): "asks for no token: whoever reaches it can run code there",
        (config, "storage=runs", "data.test=t.csv", "--allow-unauthenticated"): "storage, data.test: relative to this",
        (config, "--allow-unauthenticated", "--until", "lable"): "no stage 'lable'",
        (config, "sede=4", "--allow-unauthenticated"): "unknown key 'sede'",
    }
    for arguments, message in refusals.items():
        done = submit(server, *arguments)
        assert done.returncode == 2 and message in done.stderr
        assert "Traceback" not in done.stderr
    assert not server.jobs and not server.packages


def test_a_cluster_on_this_machine_needs_no_token_and_takes_relative_paths(
    server: Server, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    server.session = "session_here"
    (tmp_path / "ray" / server.session).mkdir(parents=True)
    done = submit(server, config, "storage=runs")
    assert done.returncode == 0, done.stderr
    [job] = server.jobs.values()
    assert job["metadata"] == {"semievol_run": f"{Path.cwd()}/runs/x"}


def test_the_token_goes_to_the_server_that_asked_for_it_and_to_no_other(server: Server, elsewhere: Server) -> None:
    def sent_to(who: Server) -> list[str]:
        return [value for headers in who.headers for name, value in headers.items() if "authorization" in name.lower()]

    server.wants_token, server.redirects_jobs_to = True, elsewhere.url
    command = [sys.executable, "-m", "semievol", "jobs", "--address", server.url]
    environment = os.environ | {"RAY_AUTH_TOKEN": "t" * 32}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sent_to(server) == [f"Bearer {'t' * 32}"] * (len(server.headers) - 1)  # all but the first, which asks
    assert elsewhere.headers and not sent_to(elsewhere)


def test_addresses() -> None:
    assert _url("head:8265/") == "http://head:8265"
    with pytest.raises(UserError, match="not the address of a job server"):
        _url("ray://head:10001")
    with pytest.raises(UserError, match=r"nothing answers at http://127\.0\.0\.1:1 "):
        JobServer("127.0.0.1:1")


def test_a_package_over_rays_limit_names_its_largest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_size_limit", lambda: 100_000)
    with pytest.raises(UserError, match=r"largest are semievol/[\w/]+\.py \(0.0 MiB\)"):
        submission._pack(tmp_path, "name: x")
