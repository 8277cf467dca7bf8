"""The keeper of the endpoint: deploys the models, and tells which of them are ready.

It follows the promotion record of the run. A newly promoted round is deployed beside the old one. When it is ready, the
alias `evolved` moves to it and the old one is removed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from semievol.config import RunConfig
from semievol.engines.templates import ChatSettings
from semievol.engines.vllm import engine_environment
from semievol.runs import promotion
from semievol.runs.folder import RunFolder

APP = "semievol"
_POLL_S = 1.0
_DRAIN_S = 10.0  # between removing a model from the lineup and deleting it; longer than an endpoint's poll
log = logging.getLogger("semievol.endpoint")


@dataclass
class Lineup:
    """The models that are ready, as the endpoint sees them."""

    apps: dict[str, str] = field(default_factory=dict)  # model name: Serve application, for ready models
    evolved: str | None = None  # the target of the alias
    waiting: dict[str, str] = field(default_factory=dict)  # model name: why it is not ready, for the other models


def line_up(wanted: dict[str, str], target: str | None, status: dict[str, str], before: Lineup) -> Lineup:
    """Return the lineup that follows on `before`, whose models stay while Serve recovers or updates them.

    Args:
        wanted: model name: application, for the models to serve and for earlier promoted rounds (newest last).
        target: the model that `evolved` should name.
        status: of all Serve applications.
    """

    def answers(app: str) -> bool:
        state = status.get(app)
        return state in ("RUNNING", "UNHEALTHY") or (state == "DEPLOYING" and app in before.apps.values())

    apps = {name: app for name, app in wanted.items() if answers(app)}
    if target is None or target in apps:
        return Lineup(apps, target)
    if before.evolved and answers(before.apps[before.evolved]):  # until the promoted round is ready
        return Lineup(apps | {before.evolved: before.apps[before.evolved]}, before.evolved)
    return Lineup(apps, next((name for name in reversed(apps) if name.startswith("round-")), None))


class Keeper:
    """A Serve deployment with one replica."""

    async def __init__(self, folder: RunFolder, config: RunConfig) -> None:  # type: ignore[misc]
        self._folder = folder
        self._config = config
        self._lineup = Lineup()
        self._deployed: set[str] = set()  # applications that this keeper deployed
        self._idle_since: dict[str, float] = {}
        # Before this replica is ready, so that Serve lists the models by then and `lineup` knows them.
        await asyncio.to_thread(self._step)
        self._loop = asyncio.ensure_future(self._keep())

    def lineup(self) -> Lineup:
        """Return the lineup."""
        return self._lineup

    async def _keep(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._step)
            except Exception as error:  # noqa: BLE001 - storage or controller failed for a moment; keep serving
                log.warning("keeper: %s: %s", type(error).__name__, error)
            await asyncio.sleep(_POLL_S)

    def _step(self) -> None:
        import ray
        from ray import serve

        promoted = promotion.promoted(self._folder)
        target = f"round-{promoted[-1].round}" if promoted else None
        names = [target if name == "evolved" else name for name in self._config.serving.models]
        prints = {f"round-{entry.round}": entry.model for entry in promoted}
        status = {name: str(app.status.value) for name, app in serve.status().applications.items()}
        wanted, changed = {}, {}
        for name in dict.fromkeys(filter(None, names)):
            weights, current = promotion.model_of(self._folder, self._config, name)
            wanted[name] = app = self._app(name, prints.get(name, current))
            if prints.get(name, current) != current:
                changed[name] = "CHANGED SINCE ITS PROMOTION; promote it again"
            elif app not in status and app not in self._deployed:
                # In a task that exits: this imports vLLM, which would stay in the keeper's memory. The engine starts later.
                deploy = ray.remote(num_cpus=0.1, max_calls=1)(deploy_model)
                ray.get(deploy.remote(app, name, weights, self._config), timeout=300)
                self._deployed.add(app)
        evolves = "evolved" in self._config.serving.models
        earlier = {name: self._app(name, print) for name, print in prints.items() if name not in wanted}
        lineup = line_up(earlier | wanted, target if evolves else None, status, self._lineup)
        keep = set(wanted) | {lineup.evolved}
        lineup.apps = {name: app for name, app in lineup.apps.items() if name in keep}
        states = {name: changed.get(name, status.get(app, "STARTING")) for name, app in wanted.items()}
        lineup.waiting = {name: state for name, state in states.items() if name not in lineup.apps}
        if (lineup.waiting, lineup.evolved) != (self._lineup.waiting, self._lineup.evolved):
            log.info("evolved is %s; waiting: %s", lineup.evolved, lineup.waiting or "nothing")
        self._lineup = lineup
        if lineup.waiting:
            return
        now = time.monotonic()
        ours = [app for app in status if app.startswith(prefix(self._folder))]
        self._idle_since = {app: self._idle_since.get(app, now) for app in ours if app not in lineup.apps.values()}
        for app, since in self._idle_since.items():
            if now - since > _DRAIN_S:
                serve.delete(app, _blocking=False)
                self._deployed.discard(app)

    def _app(self, name: str, digest: str) -> str:
        return f"{prefix(self._folder)}{name}-{digest[:8]}"


def prefix(folder: RunFolder) -> str:
    """Return the prefix of the application names of a run's models."""
    return f"{APP}-{hashlib.sha256(folder.uri.encode()).hexdigest()[:6]}-"


def deploy_model(app: str, name: str, weights: str, config: RunConfig) -> None:
    """Deploy one model as a Serve application, without waiting for it."""
    from ray import serve
    from ray.serve.llm import LLMConfig, build_llm_deployment

    from semievol.serving.model_server import ModelServer

    serving, gpus = config.serving, config.serving_gpus
    bundle = {"CPU": config.resources.serve.num_cpus} | ({"GPU": gpus} if gpus else {})
    # A trained model brings the template of its training.
    chat = ChatSettings.of(config.model) if name == "base" else ChatSettings(thinking=config.model.thinking)
    llm_config = LLMConfig(
        model_loading_config={"model_id": name, "model_source": weights},
        placement_group_config={"bundle_per_worker": bundle},
        deployment_config={
            "autoscaling_config": {"min_replicas": serving.replicas, "max_replicas": serving.replicas},
            "graceful_shutdown_timeout_s": serving.timeout_s,
            "health_check_period_s": 2,
        },
        engine_kwargs=dict(config.engine.extra),  # Serve reads the degrees of parallelism from it
        runtime_env={"env_vars": engine_environment(config.engine)},
        log_engine_metrics=False,
    )
    arguments: dict[str, Any] = {"weights": weights, "engine_config": config.engine.model_dump(), "chat": chat}
    arguments |= {"default_max_tokens": min(serving.default_max_tokens, serving.max_tokens)}
    model: Any = build_llm_deployment(llm_config, deployment_cls=ModelServer, bind_kwargs=arguments)
    serve.run_many(
        [serve.RunTarget(model, name=app, route_prefix=None)],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
