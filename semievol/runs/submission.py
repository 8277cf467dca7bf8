"""Jobs on a cluster through Ray's job server: submit, list, follow, stop.

A job uploads this package and the resolved config: no data, no .git, no values of environment variables. A run has one
job at a time. The job's id comes from the config, so the same submission finds it again; a later attempt gets a number.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import semievol
from semievol import config as configuration
from semievol.config import RunConfig
from semievol.data import paths, storage
from semievol.errors import UserError
from semievol.runs.folder import fingerprint
from semievol.runtime.network import connect_directly, is_here, proxy_of

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

_RUN = "semievol_run"  # key in a job's metadata; its value is the URI of the run folder
_SILENT_S = 120.0  # after this time without a message, assume that the connection is dead
_TOKEN_WANTED = "authentication token"  # in Ray's answer to a request without one
_RECONNECTS = 60  # one per second


@dataclass(frozen=True)
class Job:
    """One attempt at a run, as the job server sees it."""

    id: str
    run: str  # URI of the run folder
    status: str  # PENDING | RUNNING | SUCCEEDED | FAILED | STOPPED
    exit_code: int | None
    started: float  # s since the epoch
    seconds: float  # until now, or until the end

    @property
    def ended(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class JobServer:
    """A client of a cluster's job server."""

    def __init__(self, address: str) -> None:
        """Connect, with a token if the server asks for one."""
        self.url = _url(address)
        self.authenticated = _requires_token(self.url)
        # Send the token only to a server that asks for one. Ray reads both variables when it is imported, and its client
        # prefers the variable over the address that it is given.
        os.environ["RAY_AUTH_MODE"] = "token" if self.authenticated else "disabled"
        os.environ["RAY_API_SERVER_ADDRESS"] = self.url
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
            logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)  # they log each upload and each closed socket
        try:
            self._client = JobSubmissionClient(self.url)
        except AuthenticationError as error:
            refused = "Invalid" in str(error)  # the server's answer; without a token Ray sends no request
            problem = "does not accept this token" if refused else "wants a token, and there is none here"
            raise UserError(
                f"{self.url} {problem}: put the cluster's token into RAY_AUTH_TOKEN, a file that RAY_AUTH_TOKEN_PATH names, "
                f"or ~/.ray/auth_token"
            ) from None

    def require_authentication(self, *, unless: bool) -> None:
        """Refuse a remote cluster without authentication."""
        if not (self.authenticated or unless or self._is_local()):
            raise UserError(
                f"{self.url} asks for no token: whoever reaches it can run code there and read what you send. Start the "
                f"cluster with RAY_AUTH_MODE=token, or pass --allow-unauthenticated"
            )

    def _is_local(self) -> bool:
        """Tell whether the cluster runs on this machine. A loopback address can also be a tunnel to another machine."""
        from ray._common.utils import get_default_ray_temp_dir

        if not is_here(self.url):
            return False
        session = self._client._do_request("GET", "/api/version").json().get("session_name")  # not public
        return bool(session) and Path(get_default_ray_temp_dir(), session).is_dir()

    def submit(self, config: RunConfig, *, until: str | None, variables: Sequence[str]) -> tuple[Job, bool]:
        """Submit a run, or find its job if one is at work; return the job and whether it is new."""
        if (keys := paths.relative(config)) and not self._is_local():
            raise UserError(
                f"{', '.join(keys)}: relative to this machine's folders, which the cluster at {self.url} does not have. Use "
                f"URIs or absolute paths that all nodes share. (If it runs here with --temp-dir=FOLDER/ray, set RAY_TMPDIR=FOLDER)"
            )
        config = paths.absolute(config)
        name = f"{config.name}-{fingerprint(semievol.__version__, config.model_dump(), until)[:8]}"
        attempts = [job for job in self.jobs() if re.fullmatch(re.escape(name) + r"(-\d+)?", job.id)]
        if active := [job for job in attempts if not job.ended]:
            return active[-1], False
        job_id = f"{name}-{len(attempts) + 1}" if attempts else name
        command = ["python", "-m", "semievol", "run", "config.yaml", *(["--until", until] if until else [])]
        command += [part for variable in variables for part in ("--env", variable)]
        with tempfile.TemporaryDirectory() as folder:
            _pack(Path(folder), configuration.to_yaml(config))
            try:
                self._client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=job_id,
                    runtime_env={"working_dir": folder},
                    metadata={_RUN: storage.join(config.storage, config.name)},
                )
            except RuntimeError as error:
                if "already exists" not in str(error):  # submitted twice at the same moment
                    raise
                return self.job(job_id), False
        return self.job(job_id), True

    def jobs(self) -> list[Job]:
        """Return the runs that were submitted to this cluster, oldest first."""
        details = [job for job in self._client.list_jobs() if _RUN in (job.metadata or {})]
        return sorted(map(_job, details), key=lambda job: job.started)

    def job(self, job_id: str) -> Job:
        """Return a job by its id."""
        try:
            return _job(self._client.get_job_info(job_id))
        except RuntimeError as error:
            if "404" not in str(error):
                raise
            raise UserError(f"no job '{job_id}' at {self.url}; `semievol jobs` lists them") from None

    def stop(self, job_id: str) -> Job:
        """Stop a job and wait until it has ended. A job that has ended stays as it is."""
        job = self.job(job_id)
        if not job.ended:
            self._client.stop_job(job_id)
        while not job.ended:
            time.sleep(0.5)
            job = self.job(job_id)
        return job

    def follow(self, job_id: str, write: Callable[[str], None]) -> Job:
        """Write a job's output from its beginning to its end, and return the ended job.

        If the connection drops or stays silent for `_SILENT_S`, reconnect and continue at the same position.
        """
        from aiohttp import ClientError

        written = failures = 0

        async def tail() -> None:
            nonlocal written
            position, texts = 0, self._client.tail_job_logs(job_id)
            while (text := await asyncio.wait_for(anext(texts, None), _SILENT_S)) is not None:
                write(text[max(0, written - position) :])
                position += len(text)
                written = max(written, position)

        job = self.job(job_id)
        while True:
            with suppress(RuntimeError, OSError, ClientError):
                asyncio.run(tail())
            try:
                job, failures = self.job(job_id), 0
            except (RuntimeError, OSError):
                failures += 1
                if failures == _RECONNECTS:
                    raise
            if job.ended:
                return job
            time.sleep(1)


def _job(details: JobDetails) -> Job:
    started = (details.start_time or 0) / 1000
    return Job(
        id=details.submission_id or "",
        run=(details.metadata or {}).get(_RUN, ""),
        status=details.status.value,
        exit_code=details.driver_exit_code,
        started=started,
        seconds=(details.end_time / 1000 if details.end_time else time.time()) - started,
    )


def _pack(folder: Path, config: str) -> None:
    """Write the package and the config into `folder`, which is uploaded."""
    ignored = shutil.ignore_patterns("__pycache__", "*.py[co]", ".*")
    shutil.copytree(semievol.__path__[0], folder / "semievol", ignore=ignored)
    (folder / "config.yaml").write_text(config)
    sizes = {file: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    total, limit = sum(sizes.values()), _size_limit()
    if total >= limit:
        largest = sorted(sizes, key=lambda file: -sizes[file])[:3]
        shown = ", ".join(f"{file.relative_to(folder)} ({sizes[file] / 2**20:,.1f} MiB)" for file in largest)
        raise UserError(
            f"the package has {total / 2**20:,.1f} MiB, and Ray accepts less than {limit / 2**20:,.1f} MiB. Move data and "
            f"models out of its folder; the largest are {shown}"
        )


def _size_limit() -> int:
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE  # there is no public name

    return int(GCS_STORAGE_MAX_SIZE)


def _url(address: str) -> str:
    url = address.rstrip("/") if "://" in address else f"http://{address.rstrip('/')}"
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UserError(f"--address: '{address}' is not the address of a job server, such as http://head:8265")
    return url


def _requires_token(url: str) -> bool:
    """Tell whether a job server wants a token. Only Ray's own words count: whatever else answers must not get it."""
    import requests

    connect_directly(url)
    proxy, fix = proxy_of(url), f"add {urlsplit(url).hostname} to NO_PROXY"
    by_proxy = (
        f" The request went through the proxy of {proxy[0]} ({proxy[1]}): {fix} if it should not." if proxy else ""
    )
    try:
        answer = requests.get(f"{url}/api/version", timeout=10, allow_redirects=False)
    except requests.RequestException as error:
        raise UserError(
            f"nothing answers at {url} ({type(error).__name__}).{by_proxy} Check that the head runs and that its dashboard has "
            f"this port (Ray's default is 8265), or set --address or RAY_API_SERVER_ADDRESS"
        ) from None
    if answer.status_code == 200 and "ray_version" in answer.text:
        return False
    if answer.status_code in (401, 403) and _TOKEN_WANTED in answer.text:
        if proxy and url.startswith("http:"):
            raise UserError(
                f"{url} wants a token, and the proxy of {proxy[0]} ({proxy[1]}) would read it: {fix}, or use https"
            )
        return True
    target = urlsplit(answer.headers.get("location", "")).netloc
    raise UserError(
        f"{url} is not a Ray job server: the {answer.status_code} to GET /api/version does not come from Ray"
        f"{f' and leads to {target}' if target else ''}.{by_proxy} No token was sent. Check the address, and what stands before "
        f"it (a gateway, a login page)"
    )
