"""Live engines: actors that hold a model each, and outlive the stage that needed them first.

Evaluation and labeling with the same weights are asked of the same engines, which `Engines.release` ends before anything
else wants their memory. In the plan of a stage stand thin actors (`Relay`) that bring rows to an engine and see to it
that it answers: an engine that dies, or hangs, is replaced and its rows are asked again; rows on which engines die again
and again are found by bisection, and only these are refused.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pyarrow as pa

from semievol.config import EngineConfig, PoolResources
from semievol.engines import Engine, EngineDied, RequestRefused
from semievol.errors import UserError
from semievol.inference.labeler import Labeler, Labeling, Pass
from semievol.method.prompts import Messages
from semievol.runtime import cluster

Factory = Callable[[str, EngineConfig], Engine]
_DEATHS_BY_CHANCE = 1  # of an engine, before the rows that it was asked come under suspicion
_REFUSED_IN_A_ROW = 10  # rows; after so many it is no longer them
_STARTS = 3  # of an engine that is lost before it is ready
_LEAVES_IN_S, _ANSWERS_IN_S = 60.0, 10.0


class Engines:
    """The live engines of a driver: those of one set of weights at a time."""

    def __init__(self) -> None:
        self._connection = ""
        self._key: tuple[Any, ...] = ()
        self._hosts: Any = None

    def hosts(self, work: Pass, engine: Factory | None, config: EngineConfig, pool: PoolResources) -> Any:
        """The actor (`_Hosts`) that keeps those of a pass; they are started when a `Relay` claims one."""
        import ray

        key = (work.model, work.endpoint, engine, repr(config), repr(pool))
        if key == self._key and cluster.connection() == self._connection and _begun(self._hosts):
            return self._hosts
        self.release()
        keeper = ray.remote(_Hosts).options(num_cpus=0, scheduling_strategy=cluster.drivers_node())
        self._hosts = keeper.remote(work.model, engine, config, pool)
        self._key, self._connection = key, cluster.connection()
        return self._hosts

    def release(self) -> None:
        """End all engines; when it returns, what they held is free."""
        import ray

        hosts, self._hosts = self._hosts, None
        if hosts is not None and ray.is_initialized() and cluster.connection() == self._connection:
            try:
                with suppress(ray.exceptions.RayError):
                    ray.get(hosts.close.remote())
            finally:
                ray.kill(hosts)


ENGINES = Engines()


def _begun(hosts: Any) -> bool:
    """Whether there are engines, which now know that another stage begins."""
    import ray

    try:
        ray.get(hosts.begin.remote())
    except (ray.exceptions.RayActorError, AttributeError):  # none yet, or lost with its node
        return False
    return True


class _Hosts:
    """Actor: which engine belongs to which relay. What it starts ends with it, and it ends with the driver."""

    def __init__(self, model: str, engine: Factory | None, config: EngineConfig, pool: PoolResources) -> None:
        self._start = (model, engine, config)
        self._pool = pool
        self._hosts: list[Any] = []
        self._place_of: dict[Any, int] = {}  # of every engine that there was
        self._starting: list[asyncio.Lock] = []
        self._relays: dict[Any, int] = {}  # and their places

    def begin(self) -> None:
        """A stage begins: the relays of the one before are gone."""
        self._relays = {}

    async def claim(self, relay: Any) -> Any:
        """An engine that is ready, at the same place whenever a relay asks.

        Raises:
            ray.exceptions.RayError: it cannot be started.
        """
        if relay not in self._relays:
            await self._forget_lost_relays()
            taken = list(self._relays.values())
            place = min(range(self._pool.max_actors or self._pool.actors), key=taken.count)
            self._relays[relay] = place
        place = self._relays[relay]
        while len(self._hosts) <= place:
            self._hosts.append(self._new(len(self._hosts)))
            self._starting.append(asyncio.Lock())
        return await self._ready(place)

    async def replace(self, dead: Any) -> Any:
        """A new engine for one that has died or must; the same new one to all who ask."""
        import ray

        place = self._place_of[dead]
        if self._hosts[place] == dead:
            ray.kill(dead)
            self._hosts[place] = self._new(place)
        return await self._ready(place)

    async def close(self) -> None:
        """End every engine, and wait until it is gone."""
        leaving = (asyncio.wait_for(host.leave.remote(), _LEAVES_IN_S) for host in self._hosts)
        await asyncio.gather(*leaving, return_exceptions=True)

    async def _ready(self, place: int) -> Any:
        from ray.exceptions import RayError

        async with self._starting[place]:
            for attempt in range(_STARTS):
                try:
                    await self._hosts[place].ready.remote()
                    break
                except RayError as error:
                    # Lost with its node, or while it was idle; but what its constructor raises it raises again.
                    if getattr(error, "actor_init_failed", False) or attempt == _STARTS - 1:
                        raise
                    self._hosts[place] = self._new(place)
            return self._hosts[place]

    async def _forget_lost_relays(self) -> None:
        from ray.exceptions import RayError

        if len(self._relays) < (self._pool.max_actors or self._pool.actors):
            return
        for relay in list(self._relays):
            with suppress(TimeoutError):
                try:
                    await asyncio.wait_for(relay.__ray_ready__.remote(), _ANSWERS_IN_S)
                except RayError:
                    del self._relays[relay]

    def _new(self, place: int) -> Any:
        import ray

        reserved = {"num_cpus": self._pool.num_cpus, "num_gpus": self._pool.num_gpus}
        host = ray.remote(_Host).options(**reserved, max_restarts=0, max_task_retries=0).remote(*self._start)
        self._place_of[host] = place
        return host


class _Host:
    """Actor: one engine, and the labeler of the pass that is under way."""

    def __init__(self, model: str, engine: Factory | None, config: EngineConfig) -> None:
        self._engine: Engine | None = None
        self._unusable: UserError | None = None
        started = time.monotonic()
        hangs = threading.Timer(config.start_timeout_s, _leave, ["the engine does not start; leaving"])
        hangs.start()
        try:
            self._engine = engine(model, config) if engine and model else None
        except UserError as error:
            self._unusable = error  # raised in here, Ray would give it back as the death of an actor
        finally:
            hangs.cancel()
        # What torch and vLLM have made lives as long as the process; without this, looking through it again and again
        # took a third of the labeler's own time.
        gc.collect()
        gc.freeze()
        self._start_s = time.monotonic() - started
        self._labeler: Labeler | None = None
        self._name = ""

    async def ready(self) -> None:
        """Returns when the engine is loaded."""

    async def answer(
        self, name: str, labeling: Labeling, progress: Any, batch: pa.Table, refused: str | None = None
    ) -> pa.Table:
        """As `Labeler.answer`.

        Args:
            name: of the pass, other than that of any other one.
        """
        if name != self._name or self._labeler is None:
            self._labeler = Labeler(self._engine, labeling, progress, start_s=self._start_s, unusable=self._unusable)
            self._name = name
            self._start_s = 0.0  # the next stage finds it started
        try:
            return await self._labeler.answer(batch, refused)
        except EngineDied as error:
            # Rather no actor than one without an engine, which would fail the rows of all that come after.
            _leave(f"the engine died ({error}); leaving")
            raise  # is not reached

    async def check(self) -> None:
        """Returns if the engine can answer something; the actor dies if it cannot."""
        question: Messages = [{"role": "user", "content": "1"}]
        try:
            with suppress(RequestRefused, UserError):
                if self._engine:
                    await self._engine.generate(question, temperature=0.0, seed=0, max_tokens=1)
        except EngineDied:
            os._exit(1)

    async def finished(self) -> int:
        """Rows that it has answered in this pass."""
        return self._labeler.finished if self._labeler else 0

    async def leave(self) -> None:
        """End this actor."""
        import ray

        if self._engine:
            self._engine.close()
        ray.actor.exit_actor()


def _leave(why: str) -> None:
    """End this process at once, whatever its threads are at."""
    print(why, flush=True)
    os._exit(1)


class _EngineLost(Exception):
    """An engine died or hung while it was asked some rows."""


class Relay:
    """Actor of a stage's plan: brings rows to an engine, and sees to it that they are answered once."""

    def __init__(self, name: str, hosts: Any, labeling: Labeling, no_progress_s: float | None, progress: Any) -> None:
        import ray

        self._ask = (name, labeling, progress)
        self._no_progress_s = no_progress_s
        self._progress = progress
        self._hosts = hosts
        self._gone = False
        self._host = None
        try:
            self._host = ray.get(hosts.claim.remote(ray.get_runtime_context().current_actor))
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            ray.get(self._never_ready(error))
        self._replacing = asyncio.Lock()
        self._refused_in_a_row = 0
        self._suspects = asyncio.Lock()  # held while rows are asked that have killed engines: nobody else is to suffer
        self._quiet = asyncio.Condition()
        self._asking = 0

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        yield pa.concat_tables(await self._answered(batch))

    async def _answered(self, batch: pa.Table) -> list[pa.Table]:
        for _ in range(1 + _DEATHS_BY_CHANCE):
            async with self._suspects:
                self._asking += 1
            try:
                return [await self._asked(batch)]
            except _EngineLost:
                continue
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
        """The row that is left of a batch on which engines died; refused, if they do it again and are well otherwise."""
        problem = ""
        for _ in range(1 + _DEATHS_BY_CHANCE):
            try:
                answered = await self._asked(row)
                self._refused_in_a_row = 0
                return answered
            except _EngineLost as error:
                problem = str(error)
        if self._gone:
            return await self._asked(row)
        self._refused_in_a_row += 1
        if self._refused_in_a_row > _REFUSED_IN_A_ROW or not await self._well():
            self._gone = True
            await self._progress.stop.remote(
                f"Its engine fails whatever it is asked: {problem}. The oldest row that waits for it: "
                f"{row['row_id'][0].as_py()}. Look at the machine's memory, at engine.* and limits.no_progress_s"
            )
        return await self._asked(row, f"the engine failed each time it was asked this row: {problem}")

    async def _well(self) -> bool:
        """Whether the engine can answer anything at all."""
        for _ in range(1 + _DEATHS_BY_CHANCE):
            with suppress(_EngineLost):
                await self._survives(lambda host: asyncio.wait_for(_result(host.check.remote()), self._no_progress_s))
                return True
        return False

    async def _asked(self, batch: pa.Table, refused: str | None = None) -> pa.Table:
        """
        Raises:
            _EngineLost: the engine failed, and another one is ready.
        """
        if self._gone:
            return self._ask[1].schema.empty_table()
        return await self._survives(lambda host: self._in_time(host, batch, refused))

    async def _survives(self, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

        host = self._host
        try:
            return await ask(host)
        except RayTaskError:
            raise  # it lives, and what it raised is a bug
        except RayError as error:  # it died, was killed for its memory, or what it said was lost with its node
            problem = f"it died ({(str(error).splitlines() or [type(error).__name__])[0]})"
        except TimeoutError:
            problem = f"no row was finished in {self._no_progress_s:g} s (limits.no_progress_s)"
        async with self._replacing:  # one block asks for a new engine, the others that were on this one find it
            if self._host == host and not self._gone:
                try:
                    self._host = await self._hosts.replace.remote(host)
                except (RayActorError, OutOfMemoryError) as error:
                    await self._never_ready(error)
        raise _EngineLost(problem)

    def _never_ready(self, error: Any) -> Any:
        """Ends the stage; returns a reference to wait for."""
        if getattr(error, "actor_init_failed", False):
            raise error  # its own words say why
        self._gone = True
        cause = getattr(error, "cause", None) or error  # what Ray raised in the task that waited for it
        why = (str(cause).splitlines() or [type(cause).__name__])[0]
        return self._progress.stop.remote(
            f"Its engine was lost {_STARTS} times before it was ready ({why}). Look at the log of the "
            f"actor, the machine's memory, and engine.*, of which engine.start_timeout_s is the time that it has"
        )

    async def _in_time(self, host: Any, batch: pa.Table, refused: str | None) -> pa.Table:
        """
        Raises:
            TimeoutError: the engine has not finished a row for too long.
        """
        answer = asyncio.ensure_future(_result(host.answer.remote(*self._ask, batch, refused)))
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
                now = await asyncio.wait_for(_result(host.finished.remote()), limit / 4)
            if now != finished:
                finished, since = now, time.monotonic()
            elif time.monotonic() - since >= limit:
                answer.cancel()
                raise TimeoutError


async def _result(reference: Any) -> Any:
    return await reference
