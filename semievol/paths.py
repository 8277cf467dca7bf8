"""The paths of a config: made absolute, so that they mean the same in every process, and told from URIs and hub ids."""

from __future__ import annotations

import re
from copy import deepcopy
from operator import attrgetter

from semievol import storage
from semievol.config import RunConfig

_MODELS = ("model.base", "embedding.model")  # may be a Hugging Face id too
_KEYS = ("storage", "data.labeled", "data.unlabeled", "data.test", *_MODELS)


def absolute(config: RunConfig) -> RunConfig:
    """The config with its local paths made absolute: workers run in other folders than the driver."""
    resolved = deepcopy(config)
    for key in _keys(config):
        value = attrgetter(key)(config)
        if key not in _MODELS or is_path(value):
            owner, _, name = key.rpartition(".")
            setattr(attrgetter(owner)(resolved) if owner else resolved, name, storage.absolute(value))
    return resolved


def relative(config: RunConfig) -> list[str]:
    """The keys whose value is a path that means something only here: relative to this folder or to the home folder."""
    resolved = absolute(config)
    return [key for key in _keys(config) if attrgetter(key)(config) != attrgetter(key)(resolved)]


def local(config: RunConfig) -> dict[str, str]:
    """The keys whose value is a path in a node's own file system (or one that it shares), with that path."""
    resolved = absolute(config)
    found = {key: attrgetter(key)(resolved).removeprefix("file://") for key in _keys(config)}
    return {key: path for key, path in found.items() if path.startswith("/")}


def _keys(config: RunConfig) -> list[str]:
    """Without the base model where it is a name at an endpoint."""
    return [key for key in _KEYS if key != "model.base" or config.engine.kind != "openai"]


def is_path(model: str) -> bool:
    """Whether a model is a local path and not a URI, a packaged model or a Hugging Face id (`organisation/name`)."""
    if "://" in model or model.startswith("package:"):
        return False
    return not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model) or storage.exists(model)
