"""A training that trains nothing. The real one runs in tests/e2e and tests/chaos."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq

from semievol.config import RunConfig
from semievol.trainers.base import MODEL, TrainSpec


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
        return {"steps": row_count, "loss": 0.5}


class MemberTrainer(CopyTrainer):
    """Adds a line to `trainings` beside the base: seed, rows and held-out rows. The seeds of `losses` measure those."""

    losses: ClassVar[dict[int, float]] = {0: 0.5, 1: 2.0, 2: 0.4, 4: 0.45}  # seed 1 goes wrong, and 4 is its second try

    def train(self, stage: str, spec: TrainSpec, row_count: int, emit: Any) -> dict[str, Any]:
        held_out = pq.read_table(spec.held_out).num_rows if spec.held_out else 0
        with Path(spec.base, "..", "trainings").open("a") as log:
            log.write(f"{spec.seed} {row_count} {held_out}\n")
        if spec.seed == 2 and not (crashed := Path(spec.base, "..", "crashed")).exists():
            crashed.touch()
            raise RuntimeError("the trainer died")
        return super().train(stage, spec, row_count, emit) | {"held_out_loss": self.losses.get(spec.seed)}
