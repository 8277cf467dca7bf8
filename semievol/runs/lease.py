"""One driver at a time on a run: a heartbeat file in the run folder.

Object stores that pyarrow opens offer no atomic create, so the last writer of the file has the run, and a driver that
finds another's name in it gives way at its next beat. Clocks are never compared: a driver is alive if its file changes
while one looks. Best effort, to keep two drivers from spoiling each other's work by mistake.
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
_DEAD_AFTER_S = 10.0  # beats may be late on a busy machine; this is also what a resume after a kill waits


class _Lost(BaseException):
    """The run is another driver's now; no `except Exception` may stop this."""


def _give_way(*_: Any) -> None:
    # A signal of our own: a shell lets what it starts in the background ignore SIGINT.
    raise _Lost


@contextmanager
def held(run: str, echo: Callable[[str], None]) -> Iterator[str]:
    """Have the run folder `run` to oneself; yields the owner that the lease names.

    Raises:
        UserError: another driver has the run, or has taken it over in the meantime.
    """
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
                    break
                number += 1
                _beat(uri, owner, number)
            except (OSError, UserError, ValueError):
                continue  # the store is away for a moment, or the file half written; if it stays so, the stage will tell
        if lost.is_set():
            _thread.interrupt_main(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, _give_way)
    thread = threading.Thread(target=beat, daemon=True, name="lease")
    thread.start()
    try:
        yield owner
    except _Lost:
        if not lost.is_set():
            raise  # it is the lease around this one, a study's, that is lost
        raise UserError(f"{run}: {_holder(_read(uri))} has taken over this run; this one stops") from None
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
        if not lost.is_set():
            storage.delete_file(uri)


def _wait_until_free(uri: str, echo: Callable[[str], None]) -> None:
    found = _read(uri)
    if not found:
        return
    echo(f"{_holder(found)} was on this run and has not signed off; waiting {_DEAD_AFTER_S:.0f} s for a sign of it")
    deadline = time.monotonic() + _DEAD_AFTER_S
    while time.monotonic() < deadline:
        time.sleep(_BEAT_S / 4)
        now = _read(uri)
        if not now:
            return
        if now != found:
            raise UserError(
                f"{uri.removesuffix('/' + FILE)}: {_holder(now)} is at work on this run. Wait for it or stop it, "
                f"or give this run another name=..."
            )


def _read(uri: str) -> dict[str, Any]:
    """The lease; empty where there is none."""
    try:
        found: dict[str, Any] = json.loads(storage.read_text(uri))
    except FileNotFoundError:
        return {}
    return found


def _beat(uri: str, owner: str, number: int) -> None:
    driver = {"owner": owner, "beat": number, "host": socket.gethostname(), "pid": os.getpid()}
    storage.write_text(uri, json.dumps(driver))


def _holder(lease: dict[str, Any]) -> str:
    return f"the driver on {lease.get('host')} (process {lease.get('pid')})"
