"""A training that trains nothing. The real one runs in tests/e2e and tests/chaos."""

import shutil
from typing import Any

from semievol.trainers.local import MODEL, TrainSpec


def copy_base(stage: str, spec: TrainSpec, pool: Any, row_count: int, emit: Any) -> dict[str, Any]:
    """Leave a copy of the weights that the training would start from."""
    shutil.copytree(spec.base, f"{spec.out}/{MODEL}")
    return {"steps": row_count, "loss": 0.5}
