"""Make the paths of a config absolute, so that every process can use them, and tell them from URIs and hub ids."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.models import is_packaged


def absolute(config: RunConfig) -> RunConfig:
    """Return the config with absolute local paths: workers run in other folders than the driver."""
    resolved = config.model_copy(deep=True)
    for _, owner, name in _paths(resolved):
        setattr(owner, name, storage.absolute(getattr(owner, name)))
    return resolved


def relative(config: RunConfig) -> list[str]:
    """Return the keys whose path is valid only here: relative to the working folder or to the home folder."""
    return [
        key for key, owner, name in _paths(config) if getattr(owner, name) != storage.absolute(getattr(owner, name))
    ]


def local(config: RunConfig) -> dict[str, str]:
    """Return the paths in a node's own or shared file system, by key."""
    paths = {key: getattr(owner, name).removeprefix("file://") for key, owner, name in _paths(absolute(config))}
    return {key: path for key, path in paths.items() if path.startswith("/")}


def models(config: RunConfig) -> Iterator[tuple[str, Any, str]]:
    """Yield the models that are loaded from a folder, a URI or the hub: key, owner and attribute name."""
    if config.engine.kind != "openai":  # whose models are names at the endpoint
        yield "model.base", config.model, "base"
        for i, collaborator in enumerate(config.label.collaborators):
            if collaborator.brings_weights():
                yield f"label.collaborators[{i}].model", collaborator, "model"
    yield "embedding.model", config.embedding, "model"


def packaged(config: RunConfig) -> dict[str, str]:
    """Return the models inside Python packages, by key."""
    found = {key: getattr(owner, name) for key, owner, name in models(config)}
    return {key: model for key, model in found.items() if is_packaged(model)}


def _paths(config: RunConfig) -> Iterator[tuple[str, Any, str]]:
    yield "storage", config, "storage"
    for name in ("labeled", "unlabeled", "test", "validation"):
        if isinstance(getattr(config.data, name), str):  # else a share of the labeled rows
            yield f"data.{name}", config.data, name
    for key, owner, name in models(config):
        model = getattr(owner, name)
        if is_path(model) or "://" in model:
            yield key, owner, name
    if re.search(r"[./]", config.model.chat_template or ""):  # no name of a template of the package
        yield "model.chat_template", config.model, "chat_template"


def is_path(model: str) -> bool:
    """Tell whether a model is a local path, not a URI, a packaged model or a Hugging Face id (`organisation/name`)."""
    if "://" in model or is_packaged(model):
        return False
    return not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model) or storage.exists(model)
