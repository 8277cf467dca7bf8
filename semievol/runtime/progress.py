"""Progress of a running stage: workers report to one small actor, the driver polls it for people and status.json."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from semievol.errors import UserError
from semievol.runtime import cluster

Emit = Callable[[str, int, int, str], None]  # stage, done, total (0: unknown), note
_EVERY_S = 5.0


class _Counter:
    """Counts what workers have done. Lives in an actor; loses only a problem that was told when it dies."""

    def __init__(self) -> None:
        self.reset("")

    def reset(self, note: str) -> None:
        self._done = 0
        self._note = note
        self._problem = ""
        self._figures: dict[str, dict[str, float]] = {}

    def add(self, rows: int, note: str = "") -> None:
        self._done += rows
        self._note = note or self._note

    def state(self) -> tuple[int, str]:
        return self._done, self._note

    def report(self, worker: str, figures: dict[str, float]) -> None:
        """What a worker has counted of itself since it started; replaces what it said before."""
        self._figures[worker] = figures

    def figures(self) -> list[dict[str, float]]:
        return list(self._figures.values())

    def stop(self, problem: str) -> None:
        """What keeps a worker from going on, in the words of a `UserError`; the first one is kept."""
        self._problem = self._problem or problem

    def problem(self) -> str:
        return self._problem


@cache
def _counter(connection: str) -> Any:
    """One for all stages of this driver's connection to Ray: starting a process takes seconds of a core."""
    import ray

    beside = cluster.drivers_node()  # with its process would go what it was told
    return ray.remote(_Counter).options(num_cpus=0, max_restarts=-1, scheduling_strategy=beside).remote()


@contextmanager
def reporting(stage: str, total: int, emit: Emit, *, done: int = 0, note: str = "") -> Iterator[Any]:
    """Run a stage while `emit` is called every few seconds; yields the actor handle that workers call `add` on.

    Args:
        total: units of work of the stage, of which `done` were done before (by a run that was interrupted).
        note: what stands behind the count until a worker says otherwise.
    """
    import ray

    counter = _counter(cluster.connection())
    ray.get(counter.reset.remote(note))
    stopped = threading.Event()

    def poll() -> None:
        while not stopped.wait(_EVERY_S):
            try:
                added, note = ray.get(counter.state.remote(), timeout=_EVERY_S)
            except ray.exceptions.RayError:
                continue  # the cluster is busy or going away; the stage itself will tell
            emit(stage, done + added, total, note)

    thread = threading.Thread(target=poll, daemon=True, name=f"progress-{stage}")
    thread.start()
    try:
        yield counter
    finally:
        stopped.set()
        thread.join()


class Console:
    """Prints a line when there is something new to say, not oftener than every few seconds."""

    def __init__(self, echo: Callable[[str], None], write_status: Callable[..., None]) -> None:
        self._echo = echo
        self._write_status = write_status
        self._started: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        # A store that is away for a moment must not end the reporting; the stage itself will tell if it stays so.
        with suppress(OSError, UserError):
            self._write_status(stage=stage, state="running", done=done, total=total, note=note)
        if not done or self._last.get(stage) == done:
            return
        # The rate counts from the first progress seen: what comes before is starting up.
        now = time.monotonic()
        if done < self._last.get(stage, 0):  # another pass over the rows
            del self._started[stage]
        since, first = self._started.setdefault(stage, (now, done))
        self._last[stage] = done
        rate = (done - first) / (now - since) if done > first else 0.0
        left = f", about {(total - done) / rate:,.0f} s left" if rate and total > done else ""
        self._echo(f"  {stage}: {done:,} of {total:,}{left}{' - ' + note if note else ''}")
