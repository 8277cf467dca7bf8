"""Progress of a running stage: workers report to one actor, and the driver polls it for the console and status.json."""

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
    """Actor: the counts that workers report. A restart resets them and forgets the problem."""

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

    def state(self) -> tuple[int, str, str, list[dict[str, float]]]:
        """Return the rows done, the note, the problem, and the figures of every worker."""
        return self._done, self._note, self._problem, list(self._figures.values())

    def report(self, worker: str, figures: dict[str, float]) -> None:
        """Store a worker's figures since its start, in place of its earlier ones."""
        self._figures[worker] = figures

    def stop(self, problem: str) -> None:
        """Keep the first problem that stops a worker, as the text of a `UserError`."""
        self._problem = self._problem or problem


@cache
def _counter(connection: str) -> Any:
    """Return the counter that all stages of this connection to Ray share: to start a process takes seconds of CPU."""
    import ray

    here = cluster.drivers_node()
    return ray.remote(_Counter).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


@contextmanager
def reporting(stage: str, total: int, emit: Emit, *, done: int = 0, note: str = "") -> Iterator[Any]:
    """Call `emit` every few seconds, and yield the actor to which workers report.

    `done` is the work that an interrupted run has finished; `note` follows the count until a worker sends another.
    """
    import ray

    counter = _counter(cluster.connection())
    ray.get(counter.reset.remote(note))
    stopped = threading.Event()

    def poll() -> None:
        while not stopped.wait(_EVERY_S):
            try:
                added, note, *_ = ray.get(counter.state.remote(), timeout=_EVERY_S)
            except ray.exceptions.RayError:
                continue  # the cluster is busy or gone; the stage itself raises
            emit(stage, done + added, total, note)

    thread = threading.Thread(target=poll, daemon=True, name=f"progress-{stage}")
    thread.start()
    try:
        yield counter
    finally:
        stopped.set()
        thread.join()


class Console:
    """The callback of `reporting`: write the status, and print a line when the count has changed."""

    def __init__(self, echo: Callable[[str], None], write_status: Callable[..., None]) -> None:
        self._echo = echo
        self._write_status = write_status
        self._started: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        with suppress(OSError, UserError):  # the store is away; if it stays so, the stage itself raises
            self._write_status(stage=stage, state="running", done=done, total=total, note=note)
        if not done or self._last.get(stage) == done:
            return
        now = time.monotonic()
        if done < self._last.get(stage, 0):  # another pass over the rows
            del self._started[stage]
        since, first = self._started.setdefault(stage, (now, done))  # at first, workers start
        self._last[stage] = done
        rate = (done - first) / (now - since) if done > first else 0.0
        left = f", about {(total - done) / rate:,.0f} s left" if rate and total > done else ""
        self._echo(f"  {stage}: {done:,} of {total:,}{left}{' - ' + note if note else ''}")
