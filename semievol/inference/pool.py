"""Live engines: actors that hold a model each, and outlive the stage that needed them first.

Evaluation and labeling with the same weights ask the same engines, until their memory is needed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import pyarrow as pa

from semievol import engines
from semievol.config import EngineConfig, PoolResources
from semievol.engines import Engine, EngineDied, RequestRefused
from semievol.engines.templates import ChatSettings
from semievol.errors import UserError
from semievol.inference.labeler import Labeler, Labeling, Pass
from semievol.runtime import cluster

Factory = Callable[[str, EngineConfig, ChatSettings], Engine]
STARTS = 3  # of an engine that is lost before it is ready
_LEAVES_IN_S, _ANSWERS_IN_S = 60.0, 10.0


class EnginePool:
    """The live engines of a run, for one set of weights at a time; `factory` makes them in their actors."""

    def __init__(self, factory: Factory = engines.load) -> None:
        self._factory = factory
        self._key: tuple[Any, ...] = ()  # the cluster first
        self._keeper: Any = None

    def keeper(self, work: Pass, config: EngineConfig, resources: PoolResources) -> Any:
        """Return the actor (`EngineKeeper`) that keeps the engines of a pass. A `Relay` that claims one starts it."""
        import ray

        key = (cluster.connection(), work.model, work.endpoint, work.chat, repr(config), repr(resources))
        if self._keeper is not None and key == self._key:
            with suppress(ray.exceptions.RayActorError):  # lost with its node
                ray.get(self._keeper.begin.remote())
                return self._keeper
        self.release()
        keeper = ray.remote(EngineKeeper).options(num_cpus=0, scheduling_strategy=cluster.drivers_node())
        self._keeper = keeper.remote(work.model, self._factory, config, work.chat, resources)
        self._key = key
        return self._keeper

    def release(self) -> None:
        """End all engines. When it returns, what they held is free."""
        import ray

        keeper, self._keeper = self._keeper, None
        if keeper is not None and ray.is_initialized() and cluster.connection() == self._key[0]:
            try:
                with suppress(ray.exceptions.RayError):
                    ray.get(keeper.close.remote())
            finally:
                ray.kill(keeper)


class EngineKeeper:
    """Actor: knows which engine belongs to which relay. What it starts ends with it, and it ends with the driver."""

    def __init__(
        self, model: str, factory: Factory, config: EngineConfig, chat: ChatSettings, resources: PoolResources
    ) -> None:
        self._start = (model, factory, config, chat)
        self._reserved = {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus}
        self._most = resources.max_actors or resources.actors
        self._engines: dict[int, Any] = {}  # by place
        self._place_of: dict[Any, int] = {}  # of every engine that there was
        self._starting: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)  # by place
        self._relays: dict[Any, int] = {}  # and their places

    def begin(self) -> None:
        """Forget the relays of the stage before."""
        self._relays = {}

    async def claim(self, relay: Any) -> Any:
        """Return an engine that is ready, at the same place whenever a relay asks."""
        if relay not in self._relays:
            await self._forget_lost_relays()
            taken = list(self._relays.values())
            self._relays[relay] = min(range(self._most), key=taken.count)
        place = self._relays[relay]
        if place not in self._engines:
            self._launch(place)
        return await self._ready(place)

    async def replace(self, dead: Any) -> Any:
        """End an engine that has died or hangs. Return a new one, the same to all who ask."""
        import ray

        place = self._place_of[dead]
        if self._engines[place] == dead:
            ray.kill(dead)
            self._launch(place)
        return await self._ready(place)

    async def close(self) -> None:
        """End every engine and wait for that."""
        leaving = (asyncio.wait_for(engine.leave.remote(), _LEAVES_IN_S) for engine in self._engines.values())
        await asyncio.gather(*leaving, return_exceptions=True)

    async def _ready(self, place: int) -> Any:
        from ray.exceptions import RayError

        async with self._starting[place]:
            for attempt in range(STARTS):
                try:
                    await self._engines[place].__ray_ready__.remote()
                    break
                except RayError as error:
                    # Lost with its node, or while it was idle. What its constructor raises, it would raise again.
                    if getattr(error, "actor_init_failed", False) or attempt == STARTS - 1:
                        raise
                    self._launch(place)
            return self._engines[place]

    async def _forget_lost_relays(self) -> None:
        from ray.exceptions import RayError

        if len(self._relays) < self._most:
            return
        for relay in list(self._relays):
            with suppress(TimeoutError):
                try:
                    await asyncio.wait_for(relay.__ray_ready__.remote(), _ANSWERS_IN_S)
                except RayError:
                    del self._relays[relay]

    def _launch(self, place: int) -> None:
        import ray

        options = self._reserved | {"max_restarts": 0, "max_task_retries": 0}
        engine = ray.remote(EngineActor).options(**options).remote(*self._start)
        self._engines[place] = engine
        self._place_of[engine] = place


class EngineActor:
    """Actor: one engine, and the labeler of the current pass."""

    def __init__(self, model: str, factory: Factory, config: EngineConfig, chat: ChatSettings) -> None:
        self._engine: Engine | None = None
        self._unusable: UserError | None = None
        started = time.monotonic()
        hangs = threading.Timer(config.start_timeout_s, _leave, ["the engine does not start; leaving"])
        hangs.start()
        try:
            self._engine = factory(model, config, chat) if model else None
        except UserError as error:
            self._unusable = error  # raised in here, Ray would give it back as the death of an actor
        finally:
            hangs.cancel()
        # The objects of torch and vLLM live until exit. To rescan them took a third of the labeler's own time.
        gc.collect()
        gc.freeze()
        self._start_s = time.monotonic() - started
        self._labeler: Labeler | None = None
        self._name = ""

    async def answer(
        self, name: str, labeling: Labeling, progress: Any, batch: pa.Table, refused: str | None = None
    ) -> pa.Table:
        """Answer rows as `Labeler.answer` does, in the pass of this name."""
        if name != self._name or self._labeler is None:
            self._labeler = Labeler(self._unusable or self._engine, labeling, progress, start_s=self._start_s)
            self._name = name
            self._start_s = 0.0  # the next stage finds it started
        try:
            return await self._labeler.answer(batch, refused)
        except EngineDied as error:
            _leave(f"the engine died ({error}); leaving")

    async def check(self) -> None:
        """Return if the engine can answer something; the actor dies if it cannot."""
        try:
            with suppress(RequestRefused, UserError):
                if self._engine:
                    await self._engine.generate([{"role": "user", "content": "1"}], temperature=0, seed=0, max_tokens=1)
        except EngineDied:
            os._exit(1)

    async def finished(self) -> int:
        """Return how many rows it has answered in this pass."""
        return self._labeler.finished if self._labeler else 0

    async def leave(self) -> None:
        """End this actor."""
        import ray

        if self._engine:
            self._engine.close()
        ray.actor.exit_actor()


def _leave(why: str) -> NoReturn:
    """End this process at once, without waiting for its threads."""
    print(why, flush=True)
    os._exit(1)
