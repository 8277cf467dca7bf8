"""`semievol serve`: run the endpoint in the foreground, on a cluster or on this machine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from semievol import trainers
from semievol.config import RunConfig, ServingConfig
from semievol.errors import UserError
from semievol.runs import promotion
from semievol.runs.folder import RunFolder
from semievol.runtime import cluster
from semievol.runtime.network import is_loopback
from semievol.serving import keys
from semievol.serving.app import build
from semievol.serving.keeper import APP, Lineup, prefix
from semievol.trainers.base import NAMED


def serve_run(run: str, overrides: list[str], echo: Callable[[str], None]) -> None:
    """Start the endpoint of a run, report when it is ready, and serve until interrupted."""
    folder, config = promotion.open_run(run, overrides)
    if NAMED in trainers.load(config).writes.values():
        raise UserError(f"an endpoint serves the models of {folder.uri} already: see model.json of warmup and finetune")
    lines = keys.read(config.serving.keys, os.environ.get(keys.ENVIRONMENT))
    key_count = len(keys.Keys.parse(lines, config.serving.keys or keys.ENVIRONMENT))
    if not key_count and not is_loopback(config.serving.host):
        raise UserError(
            f"serving.host: other machines can reach {config.serving.host}, and there are no keys. Make one with "
            f"`semievol key NAME --file keys.txt` and pass --keys keys.txt, or use 127.0.0.1"
        )
    if "evolved" in config.serving.models and not promotion.promoted(folder):
        overrides = [*overrides, *_first_promotion(folder, config, echo)]
        config = promotion.open_run(run, overrides)[1]
    for name in config.serving.models:
        if name != "evolved":
            promotion.model_of(folder, config, name)

    from ray import serve

    needed = cpus_needed(config)
    os.environ.setdefault("RAY_worker_niceness", "0")  # for a local Ray, whose workers have a low priority by default
    cluster.connect(config, cpus=needed)
    _require(config, needed, echo)
    others = [app for app in serve.status().applications if app != APP and not app.startswith(prefix(folder))]
    if others:
        raise UserError(f"Ray Serve on this cluster already serves {', '.join(others)}; use another cluster")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(http_options={"host": config.serving.host, "port": config.serving.port})
    try:
        serve.run(build({"run": folder.uri, "overrides": overrides, "keys": lines}), name=APP, route_prefix="/")
        keeper, endpoint = (serve.get_deployment_handle(name, APP) for name in ("Keeper", "Endpoint"))
        _wait(keeper, endpoint, config.serving.models, echo)
        echo(_greeting(config, key_count))
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        echo("stopping after the requests in flight are answered")
    finally:
        serve.shutdown()


def cpus_needed(config: RunConfig) -> float:
    """Return the CPUs of all replicas and of one more model: a promotion loads the new round beside the old one."""
    serving, resources = config.serving, config.resources
    per_replica = config.engine.split * resources.serve.num_cpus + 1
    models = (len(serving.models) + 1) * serving.replicas * per_replica
    front = serving.endpoint_replicas * (0.1 + (resources.embed.num_cpus if serving.neighbors else 0))
    return models + front + 1


def _require(config: RunConfig, cpus: float, echo: Callable[[str], None]) -> None:
    """Report at once if the cluster is too small."""
    serving = config.serving
    gpus = len(serving.models) * serving.replicas * config.serving_gpus * config.engine.split
    neighbors = serving.endpoint_replicas * config.resources.embed.num_gpus if serving.neighbors else 0.0
    have = cluster.available()
    for kind, needed in (("CPU", cpus), ("GPU", gpus + neighbors)):
        if have[kind] < needed:
            also = f", {neighbors:g} of them to embed questions (resources.embed.num_gpus)" if kind == "GPU" else ""
            cluster.too_small(
                f"serving {', '.join(serving.models)} needs {needed:g} {kind}{also}, and the cluster has {have[kind]:g}. Serve "
                f"fewer --models, or lower resources.serve, resources.embed or serving.neighbors",
                echo,
            )


def _first_promotion(folder: RunFolder, config: RunConfig, echo: Callable[[str], None]) -> list[str]:
    """Promote the newest finished round. If `warm` is better, and no models were asked for, return the override to serve it."""
    rounds = promotion.finished_rounds(folder)
    if not rounds:
        raise UserError(f"no finished round in {folder.uri} to serve as 'evolved'. Finish one with `semievol run`")
    try:
        entry = promotion.promote(folder, config, rounds[-1])
    except promotion.WarmIsBetter as refused:
        if config.serving.models != ServingConfig().models:
            raise
        echo(f"{refused}. So `warm` is served in place of `evolved`")
        return ["serving.models=[base,warm]"]
    echo(f"promoted round {entry.round}: {promotion.told(entry)}")
    return []


def _wait(keeper: Any, endpoint: Any, models: list[str], echo: Callable[[str], None]) -> None:
    """Wait until every model is ready and the endpoint lists it; print each change."""
    started, shown = time.monotonic(), ""
    while True:
        lineup: Lineup = keeper.lineup.remote().result()
        states = dict.fromkeys(lineup.apps, "ready") | lineup.waiting
        state = ", ".join(f"{name} {each}" for name, each in states.items())
        if state != shown and state:
            echo(f"{time.monotonic() - started:4.0f} s  {state.lower()}")
            shown = state
        if not lineup.waiting and set(models) <= set(endpoint.models.remote().result()):
            return
        for name, why in lineup.waiting.items():
            if why.startswith(("DEPLOY_FAILED", "CHANGED")):
                raise UserError(f"{name} is not served: {why.lower()} (see Ray's logs of its replica)")
        if time.monotonic() - started > 3600:  # large models take long to load
            raise UserError("not ready within an hour. Does the cluster have what resources.serve asks for?")
        time.sleep(1)


def _greeting(config: RunConfig, key_count: int) -> str:
    serving = config.serving
    url = f"http://{serving.host}:{serving.port}"
    key = " -H 'Authorization: Bearer YOUR_KEY'" if key_count else ""
    path = "chat/completions"
    body = f'{{"model": "{serving.models[-1]}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    if config.task.names_labels and "evolved" in serving.models:
        path, body = "answer", '{"question": "A text to find the label of"}'
    return (
        f"serving {', '.join(serving.models)} at {url}/v1 (web page: {url}/)\n"
        f"keys: {key_count or 'none, this machine only'}. Try:\n"
        f"  curl {url}/v1/{path}{key} -H 'Content-Type: application/json' -d '{body}'\n"
        f"Ctrl-C stops it."
    )
