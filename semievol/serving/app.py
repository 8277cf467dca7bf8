"""The endpoint on Ray Serve.

One Serve application per model (ray.serve.llm, no HTTP route of its own), and one in front of them, `semievol`:
the Endpoint that people talk to, the Neighbors that finds labeled rows, and the Keeper, which follows the promotion
record of the run: it deploys a newly promoted round beside the old one, moves the alias `evolved` when that one is
ready, and then retires the old one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

from semievol import promotion, storage
from semievol.config import RunConfig
from semievol.embedding import Embedder, text_of
from semievol.engines.vllm import engine_environment
from semievol.errors import UserError
from semievol.index import LabeledIndex
from semievol.runfolder import RunFolder
from semievol.serving import keys
from semievol.serving.backend import Unavailable
from semievol.stages.context import to_row
from semievol.tasks import Row

APP = "semievol"
_POLL_S = 1.0
_DRAIN_S = 10.0  # between taking a model off the list and ending it; longer than any endpoint's poll takes
log = logging.getLogger("semievol.endpoint")


@dataclass
class Lineup:
    """What the endpoint can answer with now."""

    apps: dict[str, str] = field(default_factory=dict)  # model name: Serve application, of those that are ready
    evolved: str | None = None  # the model that the alias stands for
    waiting: dict[str, str] = field(default_factory=dict)  # model name: why it is not ready
    complete: bool = False  # every model that was asked for is ready


def build(args: dict[str, Any]) -> Any:
    """The front application, for `serve.run` or the `import_path` of a Serve config file.

    Args:
        args: `run` (URI of the run folder), and optionally `overrides` (a list like [serving.in_context=true]) and `keys`
            (key lines; by default those of serving.keys or of SEMIEVOL_API_KEYS where this is called).

    Raises:
        UserError: no such run, or nothing promoted in it yet.
    """
    from ray import serve

    folder, config = promotion.open_run(args["run"], args.get("overrides"))
    if "evolved" in config.serving.models and not promotion.promoted(folder):
        raise UserError(f"nothing is promoted yet: semievol promote {folder.uri} --round 0")
    lines = args["keys"] if "keys" in args else keys.read(config.serving.keys, os.environ.get(keys.ENVIRONMENT))
    keys.Keys.parse(lines, "keys")
    light = {"num_cpus": 0.1}
    quiet = {"enable_access_log": False}  # it is asked every second
    keeper = serve.deployment(Keeper, ray_actor_options=light, logging_config=quiet).bind(folder, config)
    neighbors = None
    if config.serving.neighbors:
        pool = config.resources.embed
        deployment = serve.deployment(
            Neighbors,
            num_replicas=config.serving.endpoint_replicas,
            ray_actor_options={"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus},
        )
        neighbors = deployment.bind(folder, config)
    endpoint = serve.deployment(
        serve.ingress()(Endpoint),
        num_replicas=config.serving.endpoint_replicas,
        max_ongoing_requests=2048,
        ray_actor_options=light,
    )
    return endpoint.bind(config, lines, keeper, neighbors)


class Endpoint:
    """The ASGI app in a Serve replica; implements `Backend` with Serve handles."""

    def __init__(self, config: RunConfig, key_lines: str, keeper: Any, neighbors: Any) -> None:
        self._config = config
        self._keys = keys.Keys.parse(key_lines, "keys")
        self._keeper = keeper
        self._neighbors = neighbors
        self._lineup = Lineup()
        self._handles: dict[str, Any] = {}
        self._following: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> Any:
        from semievol.serving.gate import Gate
        from semievol.serving.web import build as build_web

        _log_to_stderr()
        self._following = asyncio.ensure_future(self._follow())
        return Gate(build_web(self, self._config), self._keys, self._config.serving)

    async def _follow(self) -> None:
        while True:
            try:
                self._lineup = await self._keeper.lineup.remote()
            except Exception as error:  # noqa: BLE001 - whatever it is, the last lineup holds until the keeper is back
                log.warning("no word from the keeper (%s)", type(error).__name__)
            await asyncio.sleep(_POLL_S)

    def models(self) -> dict[str, str]:
        names = {name: name for name in self._lineup.apps if name in self._config.serving.models}
        evolved = self._lineup.evolved
        return names | ({"evolved": evolved, evolved: evolved} if evolved in self._lineup.apps else {})

    async def respond(self, model: str, path: str, body: bytes) -> tuple[int, bytes]:
        for last in (False, True):
            try:
                with _lost_replica_is_unavailable():
                    status, content = await self._handle(model).respond.remote(path, body)
                if status != 503:
                    return status, content
            except Unavailable:
                if last:
                    raise
        raise Unavailable

    async def stream(self, model: str, path: str, body: bytes) -> AsyncIterator[int | bytes]:
        with _lost_replica_is_unavailable():
            async for part in self._handle(model).options(stream=True).stream.remote(path, body):
                yield part

    async def neighbors(self, rows: list[Row]) -> list[list[tuple[Row, float]]]:
        if self._neighbors is None:
            return [[] for _ in rows]
        with _lost_replica_is_unavailable():
            found: list[list[tuple[Row, float]]] = await self._neighbors.nearest.remote(rows)
            return found

    def _handle(self, model: str) -> Any:
        from ray import serve

        app = self._lineup.apps[model]
        if app not in self._handles:
            self._handles[app] = serve.get_app_handle(app)
        return self._handles[app]


class Neighbors:
    """Finds the nearest labeled rows, from the index that the run made."""

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self._k = config.serving.neighbors
        self._embedder = Embedder(config.embedding)
        self._index = LabeledIndex.load(storage.join(folder.stage("retrieve"), "index"))
        labeled = storage.read_table(storage.join(folder.stage("ingest"), "labeled")).to_pylist()
        self._rows = {record["row_id"]: to_row(record) for record in labeled}

    def nearest(self, rows: list[Row]) -> list[list[tuple[Row, float]]]:
        import numpy as np

        vectors = self._embedder.encode([text_of(row) for row in rows])
        nobody = np.full(len(rows), np.iinfo(np.int64).min)  # a question of today is no labeled row to leave out
        ids, scores = self._index.search(vectors, self._k, nobody)
        return [
            [(self._rows[i], score) for i, score in zip(row_ids, row_scores, strict=True)]
            for row_ids, row_scores in zip(ids, scores, strict=True)
        ]


class Keeper:
    """Deploys what should be served, and says what can be."""

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self._folder = folder
        self._config = config
        self._lineup = Lineup()
        self._asked: set[str] = set()  # applications that were deployed from here
        self._idle_since: dict[str, float] = {}
        self._loop = asyncio.ensure_future(self._keep())

    def lineup(self) -> Lineup:
        return self._lineup

    async def _keep(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._step)
            except Exception as error:  # noqa: BLE001 - a hiccup of storage or controller: what is served goes on
                log.warning("keeper: %s: %s", type(error).__name__, error)
            await asyncio.sleep(_POLL_S)

    def _step(self) -> None:
        from ray import serve

        rounds = promotion.promoted(self._folder)
        target = f"round-{rounds[-1]}" if rounds else None
        asked_for = [target if name == "evolved" else name for name in self._config.serving.models]
        wanted = [name for name in dict.fromkeys(asked_for) if name]
        models = {name: promotion.model_of(self._folder, self._config, name) for name in wanted}
        apps = {name: _app_name(name, digest) for name, (_, digest) in models.items()}
        status = {name: str(app.status.value) for name, app in serve.status().applications.items()}
        for name, app in apps.items():
            if status.get(app) in (None, "NOT_STARTED") and app not in self._asked:
                self._asked.add(app)
                _deploy(app, name, models[name][0], self._config)
        ready = {name: app for name, app in apps.items() if status.get(app) in ("RUNNING", "UNHEALTHY")}
        # Until the promoted round is ready, the alias stays where it was, and so does that model.
        evolved = target if target in ready else self._lineup.evolved
        if evolved in self._lineup.apps:
            ready.setdefault(evolved, self._lineup.apps[evolved])
        self._lineup = Lineup(
            apps=ready,
            evolved=evolved if evolved in ready else None,
            waiting={name: status.get(app, "starting") for name, app in apps.items() if name not in ready},
            complete=all(name in ready for name in wanted),
        )
        self._retire([app for app in status if app.startswith(f"{APP}-") and app not in ready.values()], apps)

    def _retire(self, idle: list[str], apps: dict[str, str]) -> None:
        """End the models that nothing asks for any more, once no endpoint can be sending to them."""
        from ray import serve

        now = time.monotonic()
        idle = [app for app in idle if app not in apps.values()]
        self._idle_since = {app: self._idle_since.get(app, now) for app in idle}
        for app, since in self._idle_since.items():
            if now - since > _DRAIN_S:
                serve.delete(app, _blocking=False)
                self._asked.discard(app)


def _deploy(app: str, name: str, weights: str, config: RunConfig) -> None:
    import ray

    # In a process that ends: building the application imports vLLM, which a keeper need not hold for ever.
    ray.get(ray.remote(num_cpus=0.1, max_calls=1)(deploy_model).remote(app, name, weights, config))


def deploy_model(app: str, name: str, weights: str, config: RunConfig) -> None:
    """Ask Serve for an application that holds one model; does not wait for it."""
    from ray import serve
    from ray.serve.llm import LLMConfig, build_llm_deployment

    from semievol.serving.model_server import ModelServer

    reserved = config.resources.serve
    bundle = {"CPU": reserved.num_cpus} | ({"GPU": reserved.num_gpus} if reserved.num_gpus else {})
    llm_config = LLMConfig(
        model_loading_config={"model_id": name, "model_source": weights},
        placement_group_config={"bundle_per_worker": bundle},
        deployment_config={
            "autoscaling_config": {"min_replicas": config.serving.replicas, "max_replicas": config.serving.replicas},
            "graceful_shutdown_timeout_s": config.serving.timeout_s,
            "health_check_period_s": 2,
        },
        engine_kwargs=dict(config.engine.extra),  # here for its degrees of parallelism
        runtime_env={"env_vars": engine_environment(config.engine)},
        log_engine_metrics=False,
    )
    model = build_llm_deployment(
        llm_config,
        deployment_cls=ModelServer,
        bind_kwargs={"weights": weights, "engine_config": asdict(config.engine)},
    )
    serve.run_many(
        [serve.RunTarget(model, name=app, route_prefix=None)],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def _app_name(model: str, digest: str) -> str:
    return f"{APP}-{model}" + (f"-{digest[:8]}" if digest else "")


@contextlib.contextmanager
def _lost_replica_is_unavailable() -> Any:
    """Ray's and Serve's errors of lost and overloaded replicas as the one that the routes know."""
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    try:
        yield
    except (RayActorError, BackPressureError, DeploymentUnavailableError) as error:
        raise Unavailable from error


def _log_to_stderr() -> None:
    """The endpoint's own lines into the replica's log, as they are."""
    logger = logging.getLogger("semievol")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)
