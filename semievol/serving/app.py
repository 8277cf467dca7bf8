"""The endpoint on Ray Serve.

Each model is a Serve application (ray.serve.llm) without an HTTP route. The application `semievol` in front of them has
three deployments: Endpoint takes the requests, Neighbors finds labeled rows, and Keeper deploys the models.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from typing import Any

from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.tables import to_row
from semievol.errors import UserError
from semievol.method.prompts import Messages
from semievol.retrieval.search import INDEX, Searcher
from semievol.runs import promotion
from semievol.runs.folder import RunFolder
from semievol.serving import keys
from semievol.serving.backend import Refused, Unavailable
from semievol.serving.keeper import Keeper, Lineup
from semievol.stages import index
from semievol.tasks import Row
from semievol.trainers.base import best_member

_POLL_S = 1.0
log = logging.getLogger("semievol.endpoint")


def build(args: dict[str, Any]) -> Any:
    """Return the front application, for `serve.run` or the `import_path` of a Serve config file.

    Args:
        args: `run` (URI of the run folder), and optionally `overrides` (a list like [serving.in_context=true]) and `keys`
            (key lines; default: from serving.keys or SEMIEVOL_API_KEYS of this process).
    """
    from ray import serve

    folder, config = promotion.open_run(args["run"], args.get("overrides"))
    config = config.model_copy(update={"task": folder.task(config.task)})
    if "evolved" in config.serving.models and not promotion.promoted(folder):
        raise UserError(f"no round is promoted yet. Run: semievol promote {folder.uri} --round 0")
    lines = args["keys"] if "keys" in args else keys.read(config.serving.keys, os.environ.get(keys.ENVIRONMENT))
    keys.Keys.parse(lines, "keys")
    light, replicas = {"num_cpus": 0.1}, config.serving.endpoint_replicas
    quiet = {"enable_access_log": False}  # each endpoint calls it every second
    keeper = serve.deployment(Keeper, ray_actor_options=light, logging_config=quiet).bind(folder, config)
    neighbors = None
    if config.serving.neighbors:
        pool = config.resources.embed.model_dump(include={"num_cpus", "num_gpus"})
        neighbors = serve.deployment(Neighbors, num_replicas=replicas, ray_actor_options=pool).bind(folder, config)
    web = serve.deployment(num_replicas=replicas, max_ongoing_requests=2048, ray_actor_options=light)
    example = _example(folder) if config.serving.neighbors else None  # 0: no labeled row is shown to callers
    best = best_member(folder.stage("warmup")) if config.folds else None
    styles = {} if best is None else {"warm": config.member_styles[best]}
    return web(serve.ingress()(Endpoint)).bind(config, lines, keeper, neighbors, example, styles)


def _example(folder: RunFolder) -> Row | None:
    """Return a labeled row of middle length among the first hundred, for people to try."""
    files = storage.find(storage.join(folder.stage("ingest"), "labeled"))
    rows = storage.first_rows(files[0].uri, 100) if files else []
    ordered = sorted(rows, key=lambda record: (len(record["question"]), record["row_id"]))
    return to_row(ordered[len(ordered) // 2]) if ordered else None


class Endpoint:
    """The ASGI app in a Serve replica; implements `Backend` with Serve handles."""

    def __init__(
        self,
        config: RunConfig,
        key_lines: str,
        keeper: Any,
        neighbors: Any,
        example: Row | None,
        styles: dict[str, str],  # of the prompts that a model was trained with, where not plain
    ) -> None:
        self._config, self._example, self._styles = config, example, styles
        self._keys = keys.Keys.parse(key_lines, "keys")
        self._keeper = keeper
        self._neighbors = neighbors
        self._lineup = Lineup()
        self._handles: dict[str, Any] = {}  # by model; the handle of a removed model stays until its name is used again
        self._following: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> Any:
        from semievol.serving.gate import Gate
        from semievol.serving.web import build as build_web

        logger = logging.getLogger("semievol")  # to the replica's log without a prefix
        if not logger.handlers:
            logger.addHandler(logging.StreamHandler())
            logger.setLevel(logging.INFO)
        self._following = asyncio.ensure_future(self._follow())
        return Gate(build_web(self, self._config, self._example, self._styles), self._keys, self._config.serving)

    async def _follow(self) -> None:
        from ray import serve

        while True:
            try:
                lineup: Lineup = await self._keeper.lineup.remote()
                for model, app in lineup.apps.items():
                    if self._lineup.apps.get(model) != app:  # a blocking call to the controller
                        self._handles[model] = await asyncio.to_thread(serve.get_app_handle, app)
                self._lineup = lineup
            except Exception as error:  # noqa: BLE001 - keep the last lineup until the keeper is back
                log.warning("the keeper does not answer (%s)", type(error).__name__)
            await asyncio.sleep(_POLL_S)

    def models(self) -> dict[str, str]:
        names = {name: name for name in self._lineup.apps if name in self._config.serving.models}
        evolved = self._lineup.evolved
        return names | ({"evolved": evolved, evolved: evolved} if evolved in self._lineup.apps else {})

    async def respond(self, model: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body. Retry once if the replica died."""
        try:
            return await self._respond_once(model, path, body)
        except Unavailable:
            return await self._respond_once(model, path, body)

    async def _respond_once(self, model: str, path: str, body: bytes) -> tuple[int, bytes]:
        with _lost_replica_is_unavailable():
            response = self._handles[model].respond.remote(path, body)
            try:
                status, content = await response
            except asyncio.CancelledError:  # timeout, or the client left: stop the engine
                response.cancel()
                raise
        if status == 503:
            raise Unavailable
        return status, content

    async def score(self, model: str, messages: Messages, responses: list[str]) -> list[float]:
        with _lost_replica_is_unavailable():
            shares, refusal = await self._handles[model].score.remote(messages, responses)
        if refusal:
            raise Refused(refusal)
        if shares is None:
            raise Unavailable
        return list(shares)

    async def stream(self, model: str, path: str, body: bytes) -> AsyncIterator[int | bytes]:
        with _lost_replica_is_unavailable():
            parts = self._handles[model].options(stream=True).stream.remote(path, body)
            try:
                async for part in parts:
                    yield part
            finally:
                parts.cancel()  # no effect on a stream that has ended

    async def neighbors(self, rows: list[Row]) -> list[list[tuple[Row, float]]]:
        if self._neighbors is None:
            return [[] for _ in rows]
        with _lost_replica_is_unavailable():
            nearest, candidates = await self._neighbors.nearest.remote(rows)
        for row, listed in zip(rows, candidates, strict=True):
            row.candidates = listed  # what the prompt lists, as in the run
        result: list[list[tuple[Row, float]]] = nearest
        return result


class Neighbors:
    """Finds the nearest labeled rows in the index of the run."""

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self._k = config.serving.neighbors
        indexed = folder.stage(index.STAGE.name)
        rows, task = storage.join(indexed, "rows"), config.task if config.task.lists_candidates else None
        self._searcher = Searcher(storage.join(indexed, INDEX), config.embedding, config.retrieve, rows, task)
        labeled = storage.read_table(rows).to_pylist()
        self._rows = {record["row_id"]: to_row(record) for record in labeled}

    def nearest(self, rows: list[Row]) -> tuple[list[list[tuple[Row, float]]], list[list[str] | None]]:
        """Return the nearest labeled rows of each row with their scores, and the candidates that its prompt lists."""
        import numpy as np

        not_labeled = np.full(len(rows), np.iinfo(np.int64).min)  # ids that no labeled row has, so none is left out
        ids, scores = self._searcher.nearest(rows, self._k, not_labeled)
        nearest = [
            [(self._rows[i], score) for i, score in zip(row_ids, row_scores, strict=True)]
            for row_ids, row_scores in zip(ids, scores, strict=True)
        ]
        return nearest, [row.candidates for row in rows]


@contextlib.contextmanager
def _lost_replica_is_unavailable() -> Any:
    """Raise Ray's and Serve's errors of lost and overloaded replicas as `Unavailable`."""
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import RayServeException

    try:
        yield
    except (RayActorError, RayServeException) as error:
        raise Unavailable from error
