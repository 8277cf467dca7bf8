"""Relays: lightweight actors that Ray Data runs. They forward rows to an engine and retry.

An engine that dies or hangs is replaced, and its rows are asked again. Rows on which engines die again and again are
found by bisection, and only these are refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa

from semievol.inference.labeler import Labeling
from semievol.inference.pool import STARTS

_DEATHS_BY_CHANCE = 1  # of an engine, before the rows that it was asked are suspected
_REFUSED_IN_A_ROW = 10  # rows; with more of them, the engine is at fault


class _EngineLost(Exception):
    """An engine died or hung while it was asked some rows."""


class Relay:
    """Actor of Ray Data: forwards rows to an engine, and retries until each is answered once."""

    def __init__(self, name: str, keeper: Any, labeling: Labeling, no_progress_s: float | None, progress: Any) -> None:
        import ray

        self._pass = (name, labeling, progress)
        self._schema = labeling.schema
        self._no_progress_s = no_progress_s  # an engine that finishes no row for so long hangs; None: it has own limits
        self._progress = progress
        self._keeper = keeper
        self._gone = False
        self._engine = None
        try:
            self._engine = ray.get(keeper.claim.remote(ray.get_runtime_context().current_actor))
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            ray.get(self._never_ready(error))
        self._replacing = asyncio.Lock()
        self._refused_in_a_row = 0
        self._suspects = asyncio.Lock()  # held while suspect rows are asked again, without other batches beside them
        self._quiet = asyncio.Condition()
        self._asking = 0

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        yield pa.concat_tables(await self._answered(batch))

    async def _answered(self, batch: pa.Table) -> list[pa.Table]:
        for _ in range(1 + _DEATHS_BY_CHANCE):
            async with self._suspects:
                self._asking += 1
            try:
                with suppress(_EngineLost):
                    return [await self._asked(batch)]
            finally:
                async with self._quiet:
                    self._asking -= 1
                    self._quiet.notify_all()
        async with self._suspects:
            async with self._quiet:
                await self._quiet.wait_for(lambda: not self._asking)
            return await self._bisected(batch)

    async def _bisected(self, batch: pa.Table) -> list[pa.Table]:
        if len(batch) == 1:
            return [await self._alone(batch)]
        try:
            return [await self._asked(batch)]
        except _EngineLost:
            half = len(batch) // 2
            return await self._bisected(batch.slice(0, half)) + await self._bisected(batch.slice(half))

    async def _alone(self, row: pa.Table) -> pa.Table:
        """Ask the one row that is left of a batch on which engines died. Refuse it if only it makes them die."""
        problem = ""
        for _ in range(1 + _DEATHS_BY_CHANCE):
            try:
                answered = await self._asked(row)
                self._refused_in_a_row = 0
                return answered
            except _EngineLost as error:
                problem = str(error)
        if self._gone:
            return self._schema.empty_table()
        self._refused_in_a_row += 1
        if self._refused_in_a_row > _REFUSED_IN_A_ROW or not await self._well():
            self._gone = True
            await self._progress.stop.remote(
                f"Its engine fails whatever it is asked: {problem}. The oldest row that waits for it: "
                f"{row['row_id'][0].as_py()}. Look at the machine's memory, at engine.* and limits.no_progress_s"
            )
        return await self._asked(row, f"the engine failed each time it was asked this row: {problem}")

    async def _well(self) -> bool:
        """Return whether the engine can answer anything at all."""
        for _ in range(1 + _DEATHS_BY_CHANCE):
            with suppress(_EngineLost):
                await self._survives(lambda engine: asyncio.wait_for(engine.check.remote(), self._no_progress_s))
                return True
        return False

    async def _asked(self, batch: pa.Table, refused: str | None = None) -> pa.Table:
        if self._gone:
            return self._schema.empty_table()
        return await self._survives(lambda engine: self._in_time(engine, batch, refused))

    async def _survives(self, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        """Ask the engine. If it fails, raise `_EngineLost` once another one is ready."""
        from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

        engine = self._engine
        try:
            return await ask(engine)
        except RayTaskError:
            raise  # it lives, and what it raised is a bug
        except RayError as error:  # it died, was killed for its memory, or what it said was lost with its node
            problem = f"it died ({(str(error).splitlines() or [type(error).__name__])[0]})"
        except TimeoutError:
            problem = f"no row was finished in {self._no_progress_s:g} s (limits.no_progress_s)"
        async with self._replacing:  # one batch asks for a new engine, and the others find it
            if self._engine == engine and not self._gone:
                try:
                    self._engine = await self._keeper.replace.remote(engine)
                except (RayActorError, OutOfMemoryError) as error:
                    await self._never_ready(error)
        raise _EngineLost(problem)

    def _never_ready(self, error: Any) -> Any:
        """End the stage. Return a reference to wait for."""
        if getattr(error, "actor_init_failed", False):
            raise error  # its own words say why
        self._gone = True
        cause = getattr(error, "cause", None) or error  # what Ray raised in the task that waited for it
        why = (str(cause).splitlines() or [type(cause).__name__])[0]
        return self._progress.stop.remote(
            f"Its engine was lost {STARTS} times before it was ready ({why}). Look at the log of the "
            f"actor, the machine's memory, and engine.*, of which engine.start_timeout_s is the time that it has"
        )

    async def _in_time(self, engine: Any, batch: pa.Table, refused: str | None) -> pa.Table:
        """Let an engine answer rows. Raise TimeoutError if it finishes none for too long."""
        answer = asyncio.ensure_future(engine.answer.remote(*self._pass, batch, refused))
        limit = self._no_progress_s
        if limit is None:
            return await answer
        finished, since = -1, time.monotonic()
        while True:
            done, _ = await asyncio.wait({answer}, timeout=limit / 4)
            if done:
                return answer.result()
            now = finished
            with suppress(TimeoutError):
                now = await asyncio.wait_for(engine.finished.remote(), limit / 4)
            if now != finished:
                finished, since = now, time.monotonic()
            elif time.monotonic() - since >= limit:
                answer.cancel()
                raise TimeoutError
