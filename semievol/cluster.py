"""The connection to Ray: a running cluster where there is one, a local one otherwise."""

from __future__ import annotations

import logging
import math
import os
from typing import Any

from semievol.config import RunConfig
from semievol.errors import UserError

_SPARE_CPUS = 2.0  # for the tasks that read, write and coordinate beside a stage's own actors


def cpus_needed(config: RunConfig) -> float:
    """CPUs of the widest stage, with room for the tasks around its actors."""
    r = config.resources
    pools = [r.embed.actors * r.embed.num_cpus, r.label.actors * r.label.num_cpus, r.train.workers * r.train.num_cpus]
    return max(pools) + _SPARE_CPUS


def connect(config: RunConfig, *, cpus: float = 0) -> None:
    """Connect this process to Ray; does nothing when it is connected already.

    `RAY_ADDRESS` (which Ray sets for submitted jobs) names a cluster; without it a local one is started. Ray's token
    authentication stays as the environment says; Ray 2.60 turns it on by default.

    Args:
        cpus: what a local Ray has to declare at least, beside what the run's stages need.
    """
    import ray

    if ray.is_initialized():
        return
    debug = bool(os.environ.get("SEMIEVOL_DEBUG"))
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": debug}
    if not os.environ.get("RAY_ADDRESS"):
        # Each stage uses the same few workers; by default Ray ends them after a second without work, and starting one
        # costs seconds of CPU, which is most of a small run on a small machine.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
        options |= {"num_cpus": max(local_cpus(config), math.ceil(cpus)), "include_dashboard": False}
        if not debug:
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else the driver prints notes of Ray's to itself
            os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(local_cpus(config)))
    ray.init(**options, runtime_env={"env_vars": worker_environment()})
    context = ray.data.DataContext.get_current()
    for name in ("ray.data", "ray.data._internal.progress", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context.raise_original_map_exception = True  # a UserError of a task stays one
    context.enable_progress_bars = False
    # Ray 2.60's new Parquet reader starts 32 footer-reading actors for each plan; on a small machine that is most of a
    # stage's time (measured on 2 cores, 60 rows: 53 s with it, 11 s without).
    context.use_datasource_v2 = False


def worker_environment() -> dict[str, str]:
    """Environment of every worker: quiet libraries, no calls to a model hub from a machine that is offline."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1"}
    # RAY_ACCEL...: workers that reserved no GPU see none.
    quiet["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "1"
    passed_on = ("HF_HUB_OFFLINE", "HF_HOME", "VLLM_LOGGING_LEVEL")
    return quiet | {name: os.environ[name] for name in passed_on if name in os.environ}


def available() -> dict[str, float]:
    """What the connected cluster has in all: {"CPU": .., "GPU": ..}."""
    import ray

    total = ray.cluster_resources()
    return {"CPU": float(total.get("CPU", 0)), "GPU": float(total.get("GPU", 0))}


def require(stage: str, workers: int, num_cpus: float, num_gpus: float, *, count_key: str = "actors") -> None:
    """Say at once that a stage can never be placed, instead of waiting for ever.

    Raises:
        UserError: the cluster is too small, with both figures and the keys to change.
    """
    have = available()
    # Actors that take every CPU leave none for the tasks that read and write around them.
    for resource, each, key, spare in (("CPU", num_cpus, "num_cpus", 1), ("GPU", num_gpus, "num_gpus", 0)):
        if each and each * workers + spare > have[resource]:
            beside = f" and {spare} more beside them" if spare else ""
            raise UserError(
                f"resources.{stage} asks for {workers} x {each:g} {resource}{beside}; the cluster has {have[resource]:g}: "
                f"lower resources.{stage}.{count_key} or resources.{stage}.{key}"
            )


def user_error(error: BaseException) -> UserError | None:
    """The `UserError` that a task or actor raised, out of the wrappers that Ray put around it; else None."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)  # ray.exceptions.RayTaskError
        if isinstance(cause, UserError):
            return cause
        if type(seen) is UserError:
            return seen
        seen = seen.__cause__
    return None


def describe(config: RunConfig) -> str:
    """What a run would use: the cluster at RAY_ADDRESS, or the local Ray it would start. Starts nothing."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return f"none running; a local Ray with {local_cpus(config)} CPU would be started"
    connect(config)
    have = available()
    return f"{address}: {have['CPU']:g} CPU, {have['GPU']:g} GPU"


def local_cpus(config: RunConfig) -> int:
    """CPUs that a local Ray declares: more than there are cores, where the widest stage needs them."""
    return config.resources.local_num_cpus or max(os.cpu_count() or 1, math.ceil(cpus_needed(config)))
