"""The paths of a config: made absolute, so that they mean the same in every process, and told from URIs and hub ids."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from operator import attrgetter
from typing import Any

from semievol.config import RunConfig
from semievol.data import storage

_PLACES = ("storage", "data.labeled", "data.unlabeled", "data.test")


def absolute(config: RunConfig) -> RunConfig:
    """The config with its local paths made absolute: workers run in other folders than the driver."""
    resolved = deepcopy(config)
    for _, owner, name in _paths(resolved):
        setattr(owner, name, storage.absolute(getattr(owner, name)))
    return resolved


def relative(config: RunConfig) -> list[str]:
    """The keys whose value is a path that means something only here: relative to this folder or to the home folder."""
    return [
        key for key, owner, name in _paths(config) if getattr(owner, name) != storage.absolute(getattr(owner, name))
    ]


def local(config: RunConfig) -> dict[str, str]:
    """The keys whose value is a path in a node's own file system (or one that it shares), with that path."""
    found = {key: getattr(owner, name).removeprefix("file://") for key, owner, name in _paths(absolute(config))}
    return {key: path for key, path in found.items() if path.startswith("/")}


def models(config: RunConfig) -> Iterator[tuple[str, Any, str]]:
    """The models that are loaded from a folder, a URI or the hub: key, the object that holds it, the name there."""
    if config.engine.kind != "openai":  # else they are names at the endpoint
        yield "model.base", config.model, "base"
        for i, who in enumerate(config.label.collaborators):
            if who.brings_weights():
                yield f"label.collaborators[{i}].model", who, "model"
    yield "embedding.model", config.embedding, "model"


def _paths(config: RunConfig) -> Iterator[tuple[str, Any, str]]:
    for key in _PLACES:
        owner, _, name = key.rpartition(".")
        yield key, attrgetter(owner)(config) if owner else config, name
    for key, owner, name in models(config):
        model = getattr(owner, name)
        if is_path(model) or "://" in model:
            yield key, owner, name


def is_path(model: str) -> bool:
    """Whether a model is a local path and not a URI, a packaged model or a Hugging Face id (`organisation/name`)."""
    if "://" in model or model.startswith("package:"):
        return False
    return not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model) or storage.exists(model)
