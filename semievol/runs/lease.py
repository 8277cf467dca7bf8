"""The lease of a run: a heartbeat file in the run folder that keeps two drivers from running it at the same time.

Object stores that pyarrow opens have no atomic create. So the last writer of the file holds the lease, and a driver that
reads another owner in it stops at its next beat. Clocks are not compared: a driver is alive if its file changes while
another driver watches. This protects against mistakes, not against every race.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from semievol.data import storage
from semievol.errors import UserError

FILE = "driver.json"
_BEAT_S = 2.0
_DEAD_AFTER_S = 10.0  # beats can be late on a busy machine; a resume after a kill waits this long


class _Lost(BaseException):
    """Another driver holds the lease now. A BaseException, so that no `except Exception` catches it."""


def _raise_lost(*_: Any) -> None:
    """Handle SIGUSR1. A shell makes background processes ignore SIGINT."""
    raise _Lost


@contextmanager
def held(run: str, echo: Callable[[str], None]) -> Iterator[str]:
    """Hold the lease of the run folder `run`, and yield the owner id that it names."""
    uri = storage.join(run, FILE)
    _wait_until_free(uri, echo)
    owner = uuid.uuid4().hex
    lost, done = threading.Event(), threading.Event()
    _beat(uri, owner, 0)

    def beat() -> None:
        number = 0
        while not done.wait(_BEAT_S):
            try:
                current = _read(uri)
                if current.get("owner", owner) != owner:
                    lost.set()
                    return _thread.interrupt_main(signal.SIGUSR1)
                number += 1
                _beat(uri, owner, number)
            except (OSError, UserError, ValueError):
                continue  # the store fails or the file is half written; if that lasts, the stage fails too

    before = signal.signal(signal.SIGUSR1, _raise_lost)
    thread = threading.Thread(target=beat, daemon=True, name="lease")
    thread.start()
    try:
        yield owner
    except _Lost:
        if not lost.is_set():
            raise  # the outer lease, of a study, is lost
        raise UserError(f"{run}: {_holder(_read(uri))} has taken over this run; this driver stops") from None
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
        if not lost.is_set():
            storage.delete_file(uri)


def _wait_until_free(uri: str, echo: Callable[[str], None]) -> None:
    before = _read(uri)
    if not before:
        return
    echo(f"{_holder(before)} did not release this run; waiting {_DEAD_AFTER_S:.0f} s to see whether it is alive")
    deadline = time.monotonic() + _DEAD_AFTER_S
    while time.monotonic() < deadline:
        time.sleep(_BEAT_S / 4)
        current = _read(uri)
        if not current:
            return
        if current != before:
            raise UserError(
                f"{uri.removesuffix('/' + FILE)}: {_holder(current)} is at work on this run. Wait for it or stop it, "
                f"or give this run another name=..."
            )


def _read(uri: str) -> dict[str, Any]:
    """Return the lease; empty if there is none."""
    try:
        lease: dict[str, Any] = json.loads(storage.read_text(uri))
    except FileNotFoundError:
        return {}
    return lease


def _beat(uri: str, owner: str, number: int) -> None:
    driver = {"owner": owner, "beat": number, "host": socket.gethostname(), "pid": os.getpid()}
    storage.write_text(uri, json.dumps(driver))


def _holder(lease: dict[str, Any]) -> str:
    return f"the driver on {lease.get('host')} (process {lease.get('pid')})"
