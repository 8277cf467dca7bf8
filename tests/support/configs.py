"""A run's config for tests that need no files."""

from typing import Any

from semievol.config import DataConfig, ModelConfig, RunConfig


def run_config(**changes: Any) -> RunConfig:
    """Return a config of defaults, with these sections or keys of the top."""
    data, model = DataConfig(labeled="l", unlabeled="u", test="t"), ModelConfig(base="m")
    return RunConfig(**({"name": "x", "data": data, "model": model} | changes))
