"""Connect to Ray, to the cluster at RAY_ADDRESS or else to a local one, and check that it has what a run needs."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from semievol.config import PoolResources, RunConfig
from semievol.data import models, paths, storage
from semievol.errors import UserError

_STARTS = 3
_SPARE_CPUS = 2.0  # for the tasks that run beside a stage's actors


def connect(config: RunConfig, *, cpus: float = 0) -> None:
    """Connect this process to Ray, unless it is connected already.

    `RAY_ADDRESS` (which Ray sets for submitted jobs) names a cluster; else a local Ray with at least `cpus` starts.
    """
    import ray

    if ray.is_initialized():
        return
    debug = bool(os.environ.get("SEMIEVOL_DEBUG"))
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": debug}
    if os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")  # a job may set the same variables
        options["runtime_env"] = {"env_vars": worker_environment()}
    else:
        os.environ.update(worker_environment())  # inherited: with a runtime environment each worker starts twice
        # By default Ray ends a worker after an idle second, and to start one costs seconds of CPU.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
        options |= {"address": "local", "include_dashboard": False}  # not a cluster that was started here by hand
        options["num_cpus"] = max(local_cpus(config), math.ceil(cpus))
        if not debug:
            os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(local_cpus(config)))
    for attempt in range(_STARTS):
        try:
            ray.init(**options)
            break
        except Exception as error:
            # On a busy machine Ray's processes may need more than the 30 s that they have to start.
            if "timed out during startup" not in str(error) or attempt == _STARTS - 1:
                raise
    if not debug:
        _use_up_rays_restart_notice()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # again (see semievol.cli): Ray has replaced it
    context = ray.data.DataContext.get_current()  # sets up the logging of Ray Data, which the next lines quiet
    for name in ("ray.data", "ray.data._internal.progress", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context.raise_original_map_exception = True  # a UserError of a task stays a UserError
    context.enable_progress_bars = False
    context.use_datasource_v2 = False  # it starts 32 actors for each plan


def _use_up_rays_restart_notice() -> None:
    """Send to nowhere a line that Ray prints once per process, for the first actor that restarts and has arguments.

    All actors of Ray Data are such actors, and Ray Data keeps their arguments while a plan runs, so the line is no news
    (ray-project/ray#57733). No setting of Ray silences it alone. The actor here is bound to a node that does not exist,
    so no process starts.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Nothing:
        def __init__(self, argument: Any) -> None: ...

    nowhere = NodeAffinitySchedulingStrategy("0" * 56, soft=False)
    stderr = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    try:
        ray.remote(Nothing).options(num_cpus=0, max_restarts=1, scheduling_strategy=nowhere).remote(ray.put(None))
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def worker_environment() -> dict[str, str]:
    """Return the environment of every worker: quiet libraries, and the driver's settings of the model hub."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1"}
    quiet["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "1"  # workers that reserve no GPU see none
    passed_on = ("HF_HUB_OFFLINE", "HF_HOME", "VLLM_LOGGING_LEVEL")
    return quiet | {name: os.environ[name] for name in passed_on if name in os.environ}


def available() -> dict[str, float]:
    """Return the resources that the connected cluster has now: {"CPU": .., "GPU": ..}."""
    import ray

    total = ray.cluster_resources()
    return {name: float(total.get(name, 0)) for name in ("CPU", "GPU")}


def at_most(pool: PoolResources) -> int:
    """Return how many actors a pool can grow to: `max_actors`, but in a local Ray no more than it has room for."""
    limit = pool.max_actors or pool.actors
    if os.environ.get("RAY_ADDRESS"):
        return limit
    have = available()
    for per_actor, room in ((pool.num_cpus, have["CPU"] - 1), (pool.num_gpus, have["GPU"])):  # one CPU is for tasks
        limit = min(limit, int(room // per_actor)) if per_actor else limit
    return max(limit, pool.actors)


def require(config: RunConfig, pools: Iterable[str], echo: Callable[[str], None]) -> None:
    """Check that the cluster has room for the pools (keys of `resources`), so that no stage waits in silence."""
    if problem := shortage(config, pools):
        too_small(problem, echo)


def too_small(problem: str, echo: Callable[[str], None]) -> None:
    """Raise a `UserError` for a local Ray, which cannot grow; else warn, because nodes may join."""
    if not os.environ.get("RAY_ADDRESS"):
        raise UserError(problem)
    echo(f"{problem}. Ray waits for nodes to join")


def shortage(config: RunConfig, pools: Iterable[str]) -> str | None:
    """Return the first shortage of the connected cluster for the pools, with the keys to change, or None."""
    import ray

    have = available()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name in pools:
        pool = getattr(config.resources, name)
        key, count = ("workers", pool.workers) if name == "train" else ("actors", pool.actors)
        # One CPU stays free for the tasks that read and write.
        for resource, per_actor, spare in (("CPU", pool.num_cpus, 1), ("GPU", pool.num_gpus, 0)):
            size = f"resources.{name}.num_{resource.lower()}s"
            if per_actor and per_actor * count + spare > have[resource]:
                beside = f" and {spare} more beside them" if spare else ""
                return (
                    f"resources.{name} asks for {count} x {per_actor:g} {resource}{beside}; the cluster has "
                    f"{have[resource]:g}: lower resources.{name}.{key} or {size}"
                )
            largest = max(node.get(resource, 0) for node in nodes)
            if per_actor > largest:
                has = f"the largest node has {largest:g} {resource}"
                return f"{size} is {per_actor:g}, and {has}: lower it, or add larger nodes"
    return None


def check_nodes(config: RunConfig, marker: tuple[str, str], variables: Sequence[str]) -> None:
    """Check that every node sees the run folder and the inputs that are local paths, and has the packaged models and variables.

    `marker` is the URI of a JSON file that the driver has written to the run folder, and the `owner` in it.
    """
    import ray

    inputs = paths.local(config)
    shared = marker if inputs.pop("storage", None) else None
    check = ray.remote(num_cpus=0, max_retries=0)(_missing)
    problems = [f"this node: {problem}" for problem in _missing(None, {}, variables)]
    checks = []
    packaged = {key: models.identity(model) for key, model in paths.packaged(config).items()}
    if inputs or shared or variables or packaged:
        here = ray.get_runtime_context().get_node_id()
        for node in ray.nodes():
            if node["Alive"] and node["NodeID"] != here:
                on_node = check.options(scheduling_strategy=_only_on(node["NodeID"]))
                checks.append((node["NodeManagerAddress"], on_node.remote(shared, inputs, variables, packaged)))
    for address, answer in checks:
        with suppress(ray.exceptions.RayError):  # the node has left the cluster, and Ray goes on without it
            problems += [f"{address}: {problem}" for problem in ray.get(answer)]
    if problems:
        listed = "\n  ".join(problems)
        raise UserError(
            f"not every node has what the run needs:\n  {listed}\nUse URIs (s3://, gs://) or a folder that all nodes "
            f"share (NFS); set variables where each node's Ray is started"
        )


def _missing(
    marker: tuple[str, str] | None,
    inputs: Mapping[str, str],
    variables: Sequence[str],
    packaged: Mapping[str, list[str]] | None = None,
) -> list[str]:
    problems = [f"--env {name}: not set" for name in variables if name not in os.environ]
    for key, path in inputs.items():
        fixed = re.split(r"[*?[]", path)[0]
        if not os.path.exists(path if fixed == path else os.path.dirname(fixed)):
            problems.append(f"{key}: no '{path}'")
    for key, expected in (packaged or {}).items():
        try:
            here = models.identity(expected[0])
            if here != expected:
                problems.append(f"{key}: {here[0]} has version {here[1]}, and the driver's node has {expected[1]}")
        except UserError as error:
            problems.append(f"{key}: {error}")
    if marker and not _sees(*marker):
        problems.append(f"storage: '{os.path.dirname(marker[0])}' is not the folder that the driver writes to")
    return problems


def _sees(uri: str, owner: str) -> bool:
    for _ in range(5):  # a shared file system may show a new file late
        if storage.exists(uri) and json.loads(storage.read_text(uri))["owner"] == owner:
            return True
        time.sleep(1)
    return False


def connection() -> str:
    """Return an id that no other connection to Ray has."""
    import ray

    context = ray.get_runtime_context()
    return f"{context.gcs_address} {context.get_job_id()}"


def run_here(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a process of its own on this process's node, so that what it imports is gone with it."""
    import ray

    task = ray.remote(num_cpus=0)(function).options(scheduling_strategy=drivers_node())
    return ray.get(task.remote(*arguments))


def drivers_node() -> Any:
    """Return the scheduling strategy for an actor that must survive the loss of other nodes: this process's node."""
    import ray

    return _only_on(ray.get_runtime_context().get_node_id())


def _only_on(node_id: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def user_error(error: BaseException) -> UserError | None:
    """Return the `UserError` that a task or actor raised, or one about a full disk; None for any other error."""
    current: BaseException | None = error
    while current is not None:
        for candidate in (getattr(current, "cause", None), current):  # ray.exceptions.RayTaskError has a cause
            if type(candidate) is UserError:
                return candidate
            if os.strerror(errno.ENOSPC) in str(candidate):  # Arrow and safetensors raise types of their own
                return UserError(
                    f"{str(candidate).strip().splitlines()[-1]}. Make room where the run is stored (storage=...) and "
                    f"in Ray's folder for temporary files on each node. Then run the same command again: it resumes"
                )
        current = current.__cause__
    return None


def describe(config: RunConfig, pools: Iterable[str]) -> str:
    """Describe the cluster at RAY_ADDRESS and its shortage for the pools, or the local Ray that a run would start."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return f"none running; a local Ray with {local_cpus(config)} CPU would be started"
    connect(config)
    has = ", ".join(f"{amount:g} {name}" for name, amount in available().items())
    return ". ".join(filter(None, [f"{address}: {has}", shortage(config, pools)]))


def local_cpus(config: RunConfig) -> int:
    """Return the CPUs that a local Ray declares: one per core, or more if the widest stage needs them."""
    r = config.resources
    pools = [r.embed.actors * r.embed.num_cpus, r.label.actors * r.label.num_cpus, r.train.workers * r.train.num_cpus]
    return r.local_num_cpus or max(os.cpu_count() or 1, math.ceil(max(pools) + _SPARE_CPUS))
