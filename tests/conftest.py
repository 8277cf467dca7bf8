"""Settings of all tests, and the S3 server of those that need one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.support.openai_server import OpenAIServer

# Machines are noisy: how long an example takes is never a reason to fail.
settings.register_profile("semievol", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("semievol")

# The files that take minutes, longest first. `make test` gives its two workers files in this order, behind those of tests/unit:
# so neither of them has a long one left when the other has nothing to do.
LONGEST = [
    *("e2e/test_serve.py", "e2e/test_run.py", "chaos/test_chaos.py", "e2e/test_border.py", "e2e/test_submit.py"),
    *("ray/test_label_and_select.py", "ray/test_rounds.py"),
]

# Threads of torch that wait for each other spin, by default, and take the cores from whatever else the test has started:
# with two processes at work this took three times the CPU seconds. Inherited by all that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        file = item.path.relative_to(Path(__file__).parent).as_posix()
        return -1 if file.startswith("unit/") else LONGEST.index(file) if file in LONGEST else len(LONGEST)

    items.sort(key=turn)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket, as s3://NAME, of an S3 server on loopback, which the environment of this process names."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testtest")
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture
def openai_server() -> Iterator[OpenAIServer]:
    """A running OpenAI-compatible server on loopback."""
    from tests.support.openai_server import OpenAIServer

    server = OpenAIServer().start()
    yield server
    server.stop(wait=False)  # there are a hundred of them
