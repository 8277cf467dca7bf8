"""The connection to Ray: a running cluster where there is one, a local one otherwise."""

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
from typing import Any

from semievol.config import PoolResources, RunConfig
from semievol.data import paths, storage
from semievol.errors import UserError
from semievol.runs import lease

_STARTS = 3
_SPARE_CPUS = 2.0  # for the tasks that read, write and coordinate beside a stage's own actors


def cpus_needed(config: RunConfig) -> float:
    """CPUs of the widest stage, with room for the tasks around its actors."""
    r = config.resources
    pools = [r.embed.actors * r.embed.num_cpus, r.label.actors * r.label.num_cpus, r.train.workers * r.train.num_cpus]
    return max(pools) + _SPARE_CPUS


def connect(config: RunConfig, *, cpus: float = 0) -> None:
    """Connect this process to Ray; does nothing when it is connected already.

    `RAY_ADDRESS` (which Ray sets for submitted jobs) names a cluster, `auto` the one on this machine; without it a local
    one is started. Ray's token authentication stays as the environment says; Ray 2.60 turns it on by default.

    Args:
        cpus: what a local Ray has to declare at least, beside what the run's stages need.
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
        # Workers inherit it. Ray starts some of them at once, which a runtime environment would have no use for.
        os.environ.update(worker_environment())
        # Each stage uses the same few workers; by default Ray ends them after a second without work, and starting one
        # costs seconds of CPU, which is most of a small run on a small machine.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
        # Without an address Ray would take one that was started here by hand, and trip over what is left of a dead one.
        options |= {"address": "local", "include_dashboard": False}
        options["num_cpus"] = max(local_cpus(config), math.ceil(cpus))
        if not debug:
            os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(local_cpus(config)))
    for attempt in range(_STARTS):
        try:
            ray.init(**options)
            break
        except Exception as error:
            # Ray gives its own processes 30 s to start, which a busy machine may not manage the first time.
            if "timed out during startup" not in str(error) or attempt == _STARTS - 1:
                raise
    if not debug:
        _use_up_rays_restart_notice()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # again (semievol.cli): Ray has set a handler of its own
    context = ray.data.DataContext.get_current()
    for name in ("ray.data", "ray.data._internal.progress", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context.raise_original_map_exception = True  # a UserError of a task stays one
    context.enable_progress_bars = False
    # Ray 2.60's new Parquet reader starts 32 footer-reading actors for each plan; on a small machine that is most of a
    # stage's time (measured on 2 cores, 60 rows: 53 s with it, 11 s without).
    context.use_datasource_v2 = False


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
    """Environment of every worker: quiet libraries, no calls to a model hub from a machine that is offline."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1", "VLLM_NO_USAGE_STATS": "1"}
    # RAY_ACCEL...: workers that reserved no GPU see none.
    quiet["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "1"
    passed_on = ("HF_HUB_OFFLINE", "HF_HOME", "VLLM_LOGGING_LEVEL")
    return quiet | {name: os.environ[name] for name in passed_on if name in os.environ}


def available() -> dict[str, float]:
    """What the connected cluster has now: {"CPU": .., "GPU": ..}."""
    import ray

    total = ray.cluster_resources()
    return {name: float(total.get(name, 0)) for name in ("CPU", "GPU")}


def at_most(pool: PoolResources) -> int:
    """How many actors a pool can grow to: `max_actors`; in a Ray of our own, no more than there is room for."""
    limit = pool.max_actors or pool.actors
    if _may_grow():
        return limit
    have = available()
    for each, room in ((pool.num_cpus, have["CPU"] - 1), (pool.num_gpus, have["GPU"])):  # and for a task beside them
        limit = min(limit, int(room // each)) if each else limit
    return max(limit, pool.actors)


def require(config: RunConfig, pools: Iterable[str], echo: Callable[[str], None]) -> None:
    """Say at once that there is no room for a pool, instead of waiting in silence once its stage has come.

    Args:
        pools: keys of `resources`: embed, label, train.
        echo: is told of a cluster that is too small now: whether an autoscaler can add nodes to it Ray does not say.

    Raises:
        UserError: a Ray of our own is too small, with both figures and the keys to change.
    """
    if lack := shortage(config, pools):
        too_small(lack, echo)


def too_small(lack: str, echo: Callable[[str], None]) -> None:
    """As `require`, for what is known to be lacking."""
    if not _may_grow():
        raise UserError(lack)
    echo(f"{lack}. Meanwhile it waits for nodes to join")


def shortage(config: RunConfig, pools: Iterable[str]) -> str | None:
    """What the connected cluster lacks for one of the pools, with the keys to change."""
    import ray

    have = available()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name in pools:
        pool = getattr(config.resources, name)
        key, count = ("workers", pool.workers) if name == "train" else ("actors", pool.actors)
        # Actors that take every CPU leave none for the tasks that read and write around them.
        for resource, each, spare in (("CPU", pool.num_cpus, 1), ("GPU", pool.num_gpus, 0)):
            size = f"resources.{name}.num_{resource.lower()}s"
            if each and each * count + spare > have[resource]:
                beside = f" and {spare} more beside them" if spare else ""
                return (
                    f"resources.{name} asks for {count} x {each:g} {resource}{beside}; the cluster has {have[resource]:g}: "
                    f"lower resources.{name}.{key} or {size}"
                )
            largest = max(node.get(resource, 0) for node in nodes)
            if each > largest:
                return f"{size} is {each:g}, and the largest node has {largest:g} {resource}: lower it, or add larger nodes"
    return None


def _may_grow() -> bool:
    """Whether nodes can join: the cluster is not one that `connect` has started here."""
    return bool(os.environ.get("RAY_ADDRESS"))


def check_nodes(config: RunConfig, run: str, owner: str, variables: Sequence[str]) -> None:
    """Say at once what a node lacks: the run folder and the inputs where they are local paths, a wanted variable.

    Variables are checked by name; no value leaves its node. Nodes that join later are not asked.

    Raises:
        UserError: with every node that lacks something, and what.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    local = paths.local(config)
    inputs = {key: path for key, path in local.items() if key != "storage"}
    marker = (storage.join(run, lease.FILE), owner) if "storage" in local else None
    here = ray.get_runtime_context().get_node_id()
    lacks = [f"this node: {lack}" for lack in _lacking(None, {}, variables)]
    if local or variables:
        ask = ray.remote(num_cpus=0, max_retries=0)(_lacking)
        asked = [
            (
                node["NodeManagerAddress"],
                ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                    marker, inputs, variables
                ),
            )
            for node in ray.nodes()
            if node["Alive"] and node["NodeID"] != here
        ]
        for address, answer in asked:
            try:
                lacks += [f"{address}: {lack}" for lack in ray.get(answer)]
            except ray.exceptions.RayError:
                continue  # the node has gone, and Ray goes on without it
    if lacks:
        raise UserError(
            "not every node has what the run needs:\n  "
            + "\n  ".join(lacks)
            + "\nUse URIs (s3://, gs://) or a folder that "
            "all nodes share (NFS); set variables where each node's Ray is started"
        )


def _lacking(marker: tuple[str, str] | None, inputs: Mapping[str, str], variables: Sequence[str]) -> list[str]:
    lacks = [f"--env {name}: not set" for name in variables if name not in os.environ]
    for key, path in inputs.items():
        fixed = re.split(r"[*?[]", path)[0]
        if not os.path.exists(path if fixed == path else os.path.dirname(fixed)):
            lacks.append(f"{key}: no '{path}'")
    if marker and not _sees(*marker):
        lacks.append(f"storage: '{os.path.dirname(marker[0])}' is not the folder that the driver writes to")
    return lacks


def _sees(uri: str, owner: str) -> bool:
    for _ in range(5):  # a shared file system may show a new file late
        if storage.exists(uri) and json.loads(storage.read_text(uri))["owner"] == owner:
            return True
        time.sleep(1)
    return False


def connection() -> str:
    """What tells this connection to Ray from all others."""
    import ray

    context = ray.get_runtime_context()
    return f"{context.gcs_address} {context.get_job_id()}"


def drivers_node() -> Any:
    """Where an actor is started that no other node's loss is to end: beside the driver (or whoever calls this)."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def user_error(error: BaseException) -> UserError | None:
    """The `UserError` that a task or actor raised, or a full disk as one, out of the wrappers that Ray put around it;
    else None."""
    seen: BaseException | None = error
    while seen is not None:
        for one in (getattr(seen, "cause", None), seen):  # ray.exceptions.RayTaskError has a cause
            if type(one) is UserError:
                return one
            if os.strerror(errno.ENOSPC) in str(one):  # of Arrow and of safetensors, which has errors of its own
                return UserError(
                    f"{str(one).strip().splitlines()[-1]}. Make room where the run is stored (storage=...) and in Ray's folder for "
                    f"temporary files on each node; then run the same command again: it goes on where this one stopped"
                )
        seen = seen.__cause__
    return None


def describe(config: RunConfig, pools: Iterable[str]) -> str:
    """What a run would use, and what it lacks for these pools: the cluster at RAY_ADDRESS, or the local Ray it would
    start. Starts nothing."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return f"none running; a local Ray with {local_cpus(config)} CPU would be started"
    connect(config)
    have = available()
    lack = shortage(config, pools)
    return f"{address}: {have['CPU']:g} CPU, {have['GPU']:g} GPU{f'. {lack}' if lack else ''}"


def local_cpus(config: RunConfig) -> int:
    """CPUs that a local Ray declares: more than there are cores, where the widest stage needs them."""
    return config.resources.local_num_cpus or max(os.cpu_count() or 1, math.ceil(cpus_needed(config)))
