"""Verify: re-read a run folder and compare it with its manifests, its counts with each other, and its ids.

Reads files only, from anywhere: no cluster is needed. Ids are compared in buckets, so memory does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semievol.config import RunConfig
from semievol.data import storage
from semievol.runs import rounds
from semievol.runs.folder import MANIFEST, RUN, Manifest, RunFolder
from semievol.runs.rounds import Round, Step
from semievol.stages.base import Key

Echo = Callable[[str], None]
Ids = npt.NDArray[np.int64]
_READERS = 8
_IDS_AT_A_TIME = 4_000_000


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what is wrong with it."""

    stages: int
    files: int
    rows: int
    problems: list[str]


def verify(folder: RunFolder, config: RunConfig, echo: Echo) -> Verified:
    """Check every finished stage of a run: files and checksums, counts, unique ids, and ids that refer to others."""
    check = _Check(folder, config, echo)
    records = folder.records()
    nothing_known = (storage.FileEntry("", 0, 0),)  # round 0 has files, even where nobody knows them any more
    files = {0: nothing_known} | {number: record.files for number, record in records.items()}
    these = [Round(n, files.get(n, ())) for n in range(max(folder.numbers(), default=-1) + 1)]
    for step in rounds.steps(these, config):
        check.step(step)
    if not check.stages:
        check.problems.append(
            f"{folder.uri}: no finished stage; a run that has one is needed (those of a study lie in its stages/)"
        )
    return Verified(check.stages, check.files, check.rows, check.problems)


class _Check:
    def __init__(self, folder: RunFolder, config: RunConfig, echo: Echo) -> None:
        self._folder = folder
        self._config = config
        self._echo = echo
        self._run_id, self._fingerprints = folder.run_id(), folder.wanted()
        self.stages = self.files = self.rows = 0
        self.problems: list[str] = []
        self._unsound: set[Key] = set()

    def step(self, step: Step) -> None:
        """Check one stage; one that is not finished has nothing to check yet."""
        name, number = step.key
        uri = self._folder.stage(name, number)
        where = f"round-{number}/{name}"
        if not storage.exists(storage.join(uri, MANIFEST)):
            return
        found = len(self.problems)
        try:
            manifest = self._folder.manifest(name, number)
            assert manifest is not None
        except (ValueError, TypeError, KeyError) as error:
            self._say(where, f"{MANIFEST} cannot be read: {error}")
            return
        self.stages += 1
        self._manifest(where, manifest, name)
        self._files(where, uri, manifest)
        for key in step.inputs.values():
            if not storage.exists(storage.join(self._folder.stage(*key), MANIFEST)):
                self._say(where, f"made of {key[0]}, which is not finished; `semievol run` goes on with it")
        sound = len(self.problems) == found
        current = self._fingerprints.get(where, manifest.fingerprint) == manifest.fingerprint
        if sound and current and not self._unsound & set(step.inputs.values()):  # else the rows are known not to fit
            self._rows(where, step, manifest)
        if len(self.problems) > found or not current:
            self._unsound.add(step.key)
        said = "ok" if current else "of other settings or data, and to be made anew; its rows are not compared"
        said = said if len(self.problems) == found else f"{len(self.problems) - found} problem(s)"
        self._echo(f"{where:<26} {len(manifest.files):>6,} files  {manifest.rows.came_in:>12,} rows in  {said}")

    def _say(self, where: str, problem: str) -> None:
        self.problems.append(f"{where}: {problem}")

    def _manifest(self, where: str, manifest: Manifest, name: str) -> None:
        if manifest.stage != name:
            self._say(where, f"{MANIFEST} is that of stage {manifest.stage}")
        if manifest.run and manifest.run != self._run_id:  # versions before 0.3 wrote none
            self._say(where, f"{MANIFEST} is that of another run ({manifest.run}); see id in {RUN}")
        rows = manifest.rows
        accounted = rows.out + rows.quarantined + rows.duplicates + rows.leaks
        if accounted != rows.came_in:
            self._say(where, f"{rows.came_in:,} rows came in, but {accounted:,} are accounted for")

    def _files(self, where: str, uri: str, manifest: Manifest) -> None:
        listed = {storage.join(uri, file["path"]): file for file in manifest.files}
        there = {file.uri: file for file in storage.find(uri) if not file.uri.endswith(MANIFEST)}
        for file in listed.keys() - there.keys():
            self._say(where, f"{listed[file]['path']} is missing")
        for file in there.keys() - listed.keys():
            self._say(where, f"{file.removeprefix(uri + '/')} is in no manifest")
        both = sorted(listed.keys() & there.keys())
        with ThreadPoolExecutor(_READERS) as pool:
            for file, digest in zip(both, pool.map(storage.sha256, both), strict=True):
                if there[file].size != listed[file]["size"]:
                    sizes = f"{there[file].size:,} bytes, not {listed[file]['size']:,}"
                    self._say(where, f"{listed[file]['path']} has {sizes}")
                elif digest != listed[file].get("sha256", digest):  # versions before 0.3 wrote none
                    self._say(where, f"{listed[file]['path']} has other content than it was written with (SHA-256)")
        self.files += len(both)

    def _rows(self, where: str, step: Step, manifest: Manifest) -> None:
        name = step.stage.name
        inputs = {name: self._folder.stage(*key) for name, key in step.inputs.items()}
        uri = self._folder.stage(*step.key)
        rows = storage.join(uri, "rows")
        if name == "ingest":
            splits = {split: storage.join(uri, split) for split in ("labeled", "unlabeled", "test")}
            self._equal(where, "rows kept", sum(map(storage.count_rows, splits.values())), manifest.rows.out)
            quarantined = storage.count_rows(storage.join(uri, "quarantine"))
            self._equal(where, "rows quarantined", quarantined, manifest.rows.quarantined)
            for split, folder in splits.items():
                self._ids(f"{where}/{split}", folder)
            self._ids(f"{where}/oracle", storage.join(uri, "oracle"), within=[splits["unlabeled"]])
            return
        if name == "evaluate/compare":
            return  # nothing but figures
        lost = manifest.rows.quarantined
        if name in ("warmup", "finetune"):
            self._equal(where, "rows rendered", storage.count_rows(rows), manifest.rows.came_in)
            selected = [storage.join(inputs["select"], "rows")] if "select" in inputs else []
            self._ids(where, rows, within=[storage.join(self._folder.stage("ingest"), "labeled"), *selected])
            return
        self._equal(where, "rows written", storage.count_rows(rows), manifest.rows.out + lost)
        ingested = inputs.get("ingest", "")
        if name == "index":
            self._ids(where, rows, equal=storage.join(ingested, "labeled"))
        elif name == "retrieve":
            self._ids(where, rows, equal=storage.join(ingested, "unlabeled"))
            self._neighbors(where, rows, storage.join(self._folder.stage("ingest"), "labeled"))
        elif name == "label":
            self._ids(where, rows, equal=storage.join(inputs["retrieve"], "rows"))
        elif name == "select":
            source = storage.join(inputs["label"], "rows") if "label" in inputs else storage.join(ingested, "unlabeled")
            self._ids(where, rows, within=[source])
        else:
            self._ids(where, rows, equal=storage.join(ingested, "test"))

    def _equal(self, where: str, what: str, found: int, said: int) -> None:
        self.rows += found
        if found != said:
            self._say(where, f"{found:,} {what}, and its {MANIFEST} says {said:,}")

    def _ids(self, where: str, uri: str, *, equal: str = "", within: Sequence[str] = ()) -> None:
        """Ids are unique, and those of another folder: all of them, or some of several."""
        buckets = 1 + storage.count_rows(uri) // _IDS_AT_A_TIME
        for bucket in range(buckets):
            ids = np.sort(_column(uri, "row_id", bucket, buckets))
            if doubled := np.unique(ids[1:][ids[1:] == ids[:-1]]).tolist():
                self._say(where, f"{len(doubled):,} row ids stand there more than once, {doubled[0]} first")
            if not (equal or within):
                continue
            known = [equal] if equal else within
            others = np.concatenate([_column(folder, "row_id", bucket, buckets) for folder in known])
            if strange := np.setdiff1d(ids, others).tolist():
                self._say(where, f"{len(strange):,} row ids are not in {' or '.join(known)}, {strange[0]} first")
            if equal and (missing := np.setdiff1d(others, ids).tolist()):
                self._say(where, f"{len(missing):,} row ids of {equal} are missing, {missing[0]} first")

    def _neighbors(self, where: str, uri: str, labeled: str) -> None:
        known = np.unique(_column(labeled, "row_id", 0, 1))
        strange: set[int] = set()
        for table in _tables(uri, "neighbor_ids"):
            strange.update(np.setdiff1d(table.column(0).combine_chunks().flatten().to_numpy(), known).tolist())
        if strange:
            self._say(where, f"{len(strange):,} neighbor ids are no labeled rows, {min(strange)} first")


def _tables(uri: str, column: str) -> Iterator[pa.Table]:
    """That column of each file of a folder."""

    def read(file: storage.FileEntry) -> pa.Table:
        return storage.read_table(file.uri, [column])

    files = storage.find(uri)
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(files), _READERS):  # no more of them in memory at a time
            yield from pool.map(read, files[start : start + _READERS])


def _column(uri: str, column: str, bucket: int, buckets: int) -> Ids:
    kept = [np.empty(0, np.int64)]
    for table in _tables(uri, column):
        ids = table.column(0).to_numpy()
        kept.append(ids[ids.view(np.uint64) % np.uint64(buckets) == bucket])
    return np.concatenate(kept)


def problems_as_text(verified: Verified) -> str:
    """For people."""
    looked_at = f"{verified.stages} stages, {verified.files:,} files, {verified.rows:,} rows"
    if not verified.problems:
        return f"{looked_at}: all as it was written"
    shown = "\n".join(f"  {problem}" for problem in verified.problems)
    return f"{looked_at}: {len(verified.problems)} problem(s)\n{shown}"
