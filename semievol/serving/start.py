"""`semievol serve`: the endpoint in the foreground, on a cluster or on this machine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from semievol import trainers
from semievol.config import RunConfig
from semievol.errors import UserError
from semievol.runs import promotion
from semievol.runs.folder import RunFolder
from semievol.runtime import cluster
from semievol.runtime.network import is_loopback
from semievol.serving import keys
from semievol.serving.app import build
from semievol.serving.keeper import APP, Lineup, prefix
from semievol.trainers.base import NAMED

_START_LIMIT_S = 3600  # large models take long to load


def serve_run(run: str, overrides: list[str], echo: Callable[[str], None]) -> None:
    """Start the endpoint of a run, say when it is ready, and stay until interrupted; then take it down.

    Raises:
        UserError: no such run, nothing fit to be promoted, an open address without keys, or too small a cluster.
    """
    folder, config = promotion.open_run(run, overrides)
    if NAMED in trainers.load(config).writes.values():
        raise UserError(
            f"the models of {folder.uri} are at an endpoint already: model.json of warmup and finetune names them"
        )
    lines = keys.read(config.serving.keys, os.environ.get(keys.ENVIRONMENT))
    named = len(keys.Keys.parse(lines, config.serving.keys or keys.ENVIRONMENT))
    if not named and not is_loopback(config.serving.host):
        raise UserError(
            f"serving.host: {config.serving.host} can be reached from other machines, and there are no keys. Make one with "
            f"`semievol key NAME --file keys.txt` and give --keys keys.txt, or stay on 127.0.0.1"
        )
    if "evolved" in config.serving.models and not promotion.promoted(folder):
        _first_promotion(folder, config, echo)
    for name in config.serving.models:
        if name != "evolved":
            promotion.model_of(folder, config, name)

    from ray import serve

    needed = cpus_needed(config)
    os.environ.setdefault("RAY_worker_niceness", "0")  # a Ray started here; by default its workers yield to everything
    cluster.connect(config, cpus=needed)
    _require(config, needed, echo)
    others = [app for app in serve.status().applications if app != APP and not app.startswith(prefix(folder))]
    if others:
        raise UserError(f"Ray Serve on this cluster serves {', '.join(others)} already; take a cluster of its own")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(http_options={"host": config.serving.host, "port": config.serving.port})
    try:
        serve.run(build({"run": folder.uri, "overrides": overrides, "keys": lines}), name=APP, route_prefix="/")
        keeper, endpoint = (serve.get_deployment_handle(name, APP) for name in ("Keeper", "Endpoint"))
        _wait(keeper, endpoint, config.serving.models, echo)
        echo(_greeting(config, named))
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        echo("stopping: requests in flight are answered first")
    finally:
        serve.shutdown()


def cpus_needed(config: RunConfig) -> float:
    """CPUs of all replicas, one more round than is served at a time included (a promotion runs two for a while)."""
    serving, resources = config.serving, config.resources
    one = config.engine.split * resources.serve.num_cpus + 1
    models = (len(serving.models) + 1) * serving.replicas * one
    front = serving.endpoint_replicas * (0.1 + (resources.embed.num_cpus if serving.neighbors else 0))
    return models + front + 1


def _require(config: RunConfig, cpus: float, echo: Callable[[str], None]) -> None:
    """Say at once that there is no room, instead of waiting in silence."""
    serving = config.serving
    gpus = len(serving.models) * serving.replicas * config.serving_gpus * config.engine.split
    neighbors = serving.endpoint_replicas * config.resources.embed.num_gpus if serving.neighbors else 0.0
    have = cluster.available()
    for kind, needed in (("CPU", cpus), ("GPU", gpus + neighbors)):
        if have[kind] < needed:
            also = f", {neighbors:g} of them to embed questions (resources.embed.num_gpus)" if kind == "GPU" else ""
            cluster.too_small(
                f"serving {', '.join(serving.models)} takes {needed:g} {kind}{also}; the cluster has {have[kind]:g}: serve "
                f"fewer --models, or lower resources.serve, or resources.embed or serving.neighbors",
                echo,
            )


def _first_promotion(folder: RunFolder, config: RunConfig, echo: Callable[[str], None]) -> None:
    rounds = promotion.finished_rounds(folder)
    if not rounds:
        raise UserError(f"no finished round in {folder.uri} to serve as 'evolved'. `semievol run` goes on with it")
    entry = promotion.promote(folder, config, rounds[-1])
    echo(f"promoted round {entry.round}: accuracy {entry.accuracy:.3f} on the test rows, base {entry.against:.3f}")


def _wait(keeper: Any, endpoint: Any, models: list[str], echo: Callable[[str], None]) -> None:
    """Until every model can answer and the endpoint, which follows the keeper, knows it; with a line for each change."""
    started, said = time.monotonic(), ""
    while True:
        lineup: Lineup = keeper.lineup.remote().result() or Lineup()
        now = ", ".join([*(f"{name} ready" for name in lineup.apps), *(f"{n} {s}" for n, s in lineup.waiting.items())])
        if now != said and now:
            echo(f"{time.monotonic() - started:4.0f} s  {now.lower()}")
            said = now
        if lineup.complete and set(models) <= set(endpoint.models.remote().result()):
            return
        failed = {n: w for n, w in lineup.waiting.items() if w == "DEPLOY_FAILED" or w.startswith("CHANGED")}
        for name, why in failed.items():
            raise UserError(f"{name} is not served: {why.lower()} (Ray's logs of its replica say more)")
        if time.monotonic() - started > _START_LIMIT_S:
            raise UserError(
                "not ready within an hour; does the cluster have the CPUs and GPUs that resources.serve asks?"
            )
        time.sleep(1)


def _greeting(config: RunConfig, named: int) -> str:
    serving = config.serving
    url = f"http://{serving.host}:{serving.port}"
    key = " -H 'Authorization: Bearer YOUR_KEY'" if named else ""
    body = '{"model": "evolved", "messages": [{"role": "user", "content": "Hello"}]}'
    return (
        f"serving {', '.join(serving.models)} at {url}/v1 (a page for people: {url}/)\n"
        f"keys: {named or 'none, this machine only'}. Try:\n"
        f"  curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'\n"
        f"Ctrl-C stops it."
    )
