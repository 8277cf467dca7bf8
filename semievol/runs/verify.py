"""Verify a run folder: compare its files with the manifests, and each stage's rows with the rows that it read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.runs import rounds
from semievol.runs.folder import MANIFEST, RUN, Manifest, RunFolder, checksums
from semievol.runs.rounds import Round, Step
from semievol.stages.base import Key

Echo = Callable[[str], None]


@dataclass
class Verified:
    """Counts of what was checked, and the problems."""

    stages: int = 0
    files: int = 0
    rows: int = 0
    problems: list[str] = field(default_factory=list)


def verify(folder: RunFolder, config: RunConfig, echo: Echo) -> Verified:
    """Check every finished stage of a run: files, checksums, counts, unique ids, and ids that refer to other rows."""
    check = _Check(folder, echo)
    records = folder.records()
    unknown = (storage.FileEntry("", 0, 0),)  # round 0 always has files, also in runs that have no record of them
    files = {0: unknown} | {number: record.files for number, record in records.items()}
    on_disk = [Round(n, files.get(n, ())) for n in range(max(folder.numbers(), default=-1) + 1)]
    for step in rounds.steps(on_disk, config):
        check.step(step)
    if not check.found.stages:
        check.add(folder.uri, "no finished stage to verify (a study keeps its stages in stages/)")
    return check.found


class _Check:
    def __init__(self, folder: RunFolder, echo: Echo) -> None:
        self._folder = folder
        self._echo = echo
        self._run_id, self._fingerprints = folder.run_id(), folder.expected()
        self.found = Verified()
        self._unsound: set[Key] = set()

    def step(self, step: Step) -> None:
        """Check one stage, if it is finished."""
        where = f"round-{step.round.number}/{step.stage.name}"
        before = len(self.found.problems)
        try:
            manifest = self._folder.manifest(*step.key)
        except (ValueError, TypeError, KeyError) as error:
            return self.add(where, f"{MANIFEST} cannot be read: {error}")
        if manifest is None:
            return
        self.found.stages += 1
        self._manifest(where, manifest, step.stage.name)
        self._files(where, step.key, manifest)
        for key in step.inputs.values():
            if not storage.exists(storage.join(self._folder.stage(*key), MANIFEST)):
                self.add(where, f"reads {key[0]}, which is not finished; `semievol run` finishes it")
        sound = len(self.found.problems) == before
        current = self._fingerprints.get(where, manifest.fingerprint) == manifest.fingerprint
        if sound and current and not self._unsound & set(step.inputs.values()):  # else the rows cannot match
            self._rows(where, step, manifest)
        verdict = "ok" if current else "of other settings or data: the next run redoes it; its rows are not compared"
        if more := len(self.found.problems) - before:
            verdict = f"{more} problem(s)"
        if verdict != "ok":
            self._unsound.add(step.key)
        self._echo(f"{where:<26} {len(manifest.files):>6,} files  {manifest.rows.came_in:>12,} rows in  {verdict}")

    def add(self, where: str, problem: str) -> None:
        self.found.problems.append(f"{where}: {problem}")

    def _manifest(self, where: str, manifest: Manifest, name: str) -> None:
        if manifest.stage != name:
            self.add(where, f"{MANIFEST} is that of stage {manifest.stage}")
        if manifest.run and manifest.run != self._run_id:  # versions before 0.3 did not write it
            self.add(where, f"{MANIFEST} is that of another run ({manifest.run}); see id in {RUN}")
        rows = manifest.rows
        if rows.accounted != rows.came_in:
            self.add(where, f"{rows.came_in:,} rows came in, but {rows.accounted:,} are accounted for")

    def _files(self, where: str, key: Key, manifest: Manifest) -> None:
        uri = self._folder.stage(*key)
        listed = {storage.join(uri, file["path"]): file for file in manifest.files}
        present = {file.uri: file for file in self._folder.output(*key)}
        for file in listed.keys() - present.keys():
            self.add(where, f"{listed[file]['path']} is missing")
        for file in present.keys() - listed.keys():
            self.add(where, f"{file.removeprefix(uri + '/')} is in no manifest")
        both = sorted(listed.keys() & present.keys())
        for file, digest in zip(both, checksums(both), strict=True):
            path, size = listed[file]["path"], listed[file]["size"]
            if present[file].size != size:
                self.add(where, f"{path} has {present[file].size:,} bytes, not {size:,}")
            elif digest != listed[file].get("sha256", digest):  # versions before 0.3 did not write it
                self.add(where, f"{path} has other content than it was written with (SHA-256)")
        self.found.files += len(both)

    def _rows(self, where: str, step: Step, manifest: Manifest) -> None:
        inputs = {name: self._folder.stage(*key) for name, key in step.inputs.items()}
        rows = manifest.rows
        checks = RowChecks(self._folder.stage(*step.key), inputs, rows.came_in, rows.out, rows.quarantined)
        step.stage.verify(checks)
        self.found.rows += checks.rows
        for problem in checks.problems:
            self.add(where, problem)


def problems_as_text(verified: Verified) -> str:
    """Return the report that `semievol verify` prints."""
    checked = f"{verified.stages} stages, {verified.files:,} files, {verified.rows:,} rows"
    if not verified.problems:
        return f"{checked}: all as it was written"
    shown = "\n".join(f"  {problem}" for problem in verified.problems)
    return f"{checked}: {len(verified.problems)} problem(s)\n{shown}"
