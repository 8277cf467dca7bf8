"""Fine-tuning on the cluster: a Ray Train TorchTrainer, whose workers run `semievol.trainers.worker`."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from semievol.config import TrainResources
from semievol.data import storage
from semievol.runtime import cluster
from semievol.runtime.progress import Emit, reporting
from semievol.trainers.base import ADAPTER, METRICS, MODEL, TrainSpec
from semievol.trainers.worker import Job, work

_RETRIES = 2  # only after the loss of a worker; Ray repeats announced preemptions without a limit


class LocalTrainer:
    """Trains low-rank adapters and merges them into the base.

    Args:
        extras: `trainer.extra` and those of LoRA, by their keys. All are checked before the first training.
        dtype: as `trainer.dtype`.
    """

    needs_tokens = True
    pool = "train"
    writes: ClassVar = {"model": MODEL, "adapter": ADAPTER}

    def __init__(self, resources: TrainResources, extras: dict[str, dict[str, Any]], dtype: str = "auto") -> None:
        self._resources, self._extras, self._dtype = resources, extras, dtype

    def train(self, stage: str, spec: TrainSpec, row_count: int, emit: Emit) -> dict[str, Any]:
        """Fine-tune and return the metrics of rank 0: steps, final loss, the loss curve, tokens, seconds."""
        from ray.train import WorkerGroupError

        spec = spec.settled(row_count)
        job = Job(stage, spec, self._resources.num_gpus > 0, self._extras, self._dtype)
        steps = spec.steps or round(row_count * float(spec.config.epochs) / spec.config.batch_size)
        for attempt in range(1 + _RETRIES):
            with reporting(stage, steps, emit) as progress:
                try:
                    with _interruptible():
                        self._torch_trainer(job, progress, attempt).fit()
                    break
                except WorkerGroupError as error:
                    failures = list(error.worker_failures.values())
                    for failure in failures:
                        if user_error := cluster.user_error(failure):
                            raise user_error from None
                    if attempt == _RETRIES or not any(map(_is_loss, failures)):
                        raise
        storage.delete(storage.join(spec.out, "_ray_train"))
        return dict(json.loads(storage.read_text(storage.join(spec.out, METRICS))))

    def _torch_trainer(self, job: Job, progress: Any, attempt: int) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        filesystem, path = storage.resolve(storage.join(job.spec.out, "_ray_train"))
        cpus, gpus = self._resources.num_cpus, self._resources.num_gpus
        return TorchTrainer(
            work,
            train_loop_config={"job": job, "progress": progress},
            scaling_config=ScalingConfig(
                num_workers=self._resources.workers,
                use_gpu=job.use_gpu,
                resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
            ),
            run_config=RunConfig(
                name=f"train-{attempt}",
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(max_failures=0),
            ),
        )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C: Ray Train's handler ends the process, and stays after the training."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def _is_loss(failure: BaseException) -> bool:
    """Tell whether a worker failed because it (or its node) is gone, and not because of what it ran."""
    from ray.exceptions import RayActorError

    # Ray Train wraps the death of a worker: WorkerHealthCheckFailedError.health_check_failure is what Ray said.
    return isinstance(getattr(failure, "health_check_failure", failure), RayActorError)
