"""A training that trains nothing. The real one runs in tests/e2e and tests/chaos."""

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

from semievol.config import RunConfig
from semievol.trainers.base import METRICS, MODEL, TrainSpec


class CopyTrainer:
    """Leaves a copy of the weights that the training would start from, with a line about this training in `trained`."""

    needs_tokens = True
    pool = "train"
    writes: ClassVar = {"model": MODEL}

    def __init__(self, config: RunConfig) -> None:
        pass

    def train(self, stage: str, spec: TrainSpec, row_count: int, emit: Any) -> dict[str, Any]:
        shutil.copytree(spec.base, f"{spec.out}/{MODEL}")
        with Path(spec.out, MODEL, "trained").open("a") as lineage:
            lineage.write(f"{stage}\n")
        metrics = {"steps": spec.steps or row_count, "loss": 0.5}
        Path(spec.out, METRICS).write_text(json.dumps(metrics))
        return metrics
