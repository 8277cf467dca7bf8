"""Fingerprints of steps: digests of settings, input files, models, earlier steps and the version of the stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from pydantic import BaseModel

from semievol.config import RunConfig
from semievol.config.section import FINGERPRINT
from semievol.data import paths, storage
from semievol.data.storage import FileEntry
from semievol.engines.templates import ChatSettings
from semievol.errors import UserError
from semievol.retrieval import embedding
from semievol.runs.folder import fingerprint
from semievol.runs.rounds import Step, of_round
from semievol.stages.base import Key


class Fingerprints:
    """The fingerprints of a config's steps.

    Args:
        files: the input files by split, with checksums. Unlabeled files are taken from each round instead.
    """

    def __init__(self, run_config: RunConfig, files: Mapping[str, Iterable[FileEntry]]) -> None:
        self._config = run_config
        self.files = files
        self._models = {
            "base": _base_identity(run_config),
            "chat_template": [ChatSettings.of(run_config.model).template],  # its text: the file may have changed
            "embedding": _model_identity(
                "embedding.model", embedding.model_path(run_config.embedding.model), ("modules.json", "config.json")
            ),
            "collaborators": [
                _model_identity(key, getattr(owner, name))
                for key, owner, name in paths.models(run_config)
                if key.startswith("label.")
            ],
        }

    def of(self, steps: Iterable[Step]) -> dict[Key, str]:
        """Return the fingerprint of every step. Each step must come after the steps that it reads."""
        prints: dict[Key, str] = {}
        for step in steps:
            prints[step.key] = self.of_step(step, [prints[key] for key in step.inputs.values()])
        return prints

    def of_step(self, step: Step, inputs: list[str]) -> str:
        """Return the fingerprint of a step, given the fingerprints of its inputs."""
        stage, number = step.stage, step.round.number
        config = of_round(self._config, number)
        settings = {key: _plain(attrgetter(key)(config)) for key in stage.settings}
        later = {key: attrgetter(key)(config) for key in stage.if_set}
        settings |= {key: _plain(value) for key, value in later.items() if value is not None}
        own: list[Any] = [self._models[name] for name in stage.models]
        if stage.reads_files:
            held = ("test", "validation", "labeled") if number == 0 else ()
            read = [file for split in held for file in self.files.get(split, ())]
            own += [[file.uri, file.size, file.sha256] for file in (*step.round.files, *read)]
        return fingerprint(stage.name, stage.version, settings, own, inputs)


def _plain(value: Any) -> Any:
    """Return a setting as plain values: a section, or a list of sections, becomes dicts."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.model_dump(context=FINGERPRINT) if isinstance(value, BaseModel) else value


def _base_identity(run_config: RunConfig) -> list[Any]:
    if run_config.engine.kind == "openai":
        return [run_config.model.base, run_config.engine.endpoint]  # the name of a model at the endpoint
    return _model_identity("model.base", run_config.model.base)


def _model_identity(key: str, model: str, begins_with: Sequence[str] = ("config.json",)) -> list[Any]:
    """Return the names, sizes and times of a model's files, or its commit on the hub. It has a file of `begins_with`."""
    if paths.is_path(model) or "://" in model:
        if not any(storage.exists(storage.join(model, name)) for name in begins_with):
            wanted = " or ".join(begins_with)
            raise UserError(f"{key}: no model at '{model}' (a folder with {wanted}, a URI, or a Hugging Face id)")
        return [[file.uri, file.size, file.mtime_ns] for file in storage.find(model)]
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    problem: Exception | None = None
    for name in begins_with:
        try:
            return [model, hf_hub_download(model, name).split("/")[-2]]  # .../snapshots/<commit>/<file>
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            problem = error
    raise UserError(f"{key}: '{model}' is not a local folder, and the hub does not return it: {problem}")
