"""Re-read a run folder: compare its files with the manifests, and let each stage compare its rows with those that it read.

Reads files only, from anywhere; no cluster is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.runs import rounds
from semievol.runs.folder import MANIFEST, RUN, Manifest, RunFolder
from semievol.runs.rounds import Round, Step
from semievol.stages.base import Key

Echo = Callable[[str], None]
_READERS = 8


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
        if rows.accounted != rows.came_in:
            self._say(where, f"{rows.came_in:,} rows came in, but {rows.accounted:,} are accounted for")

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
        inputs = {name: self._folder.stage(*key) for name, key in step.inputs.items()}
        rows = manifest.rows
        checks = RowChecks(self._folder.stage(*step.key), inputs, rows.came_in, rows.out, rows.quarantined)
        step.stage.verify(checks)
        self.rows += checks.rows
        for problem in checks.problems:
            self._say(where, problem)


def problems_as_text(verified: Verified) -> str:
    """For people."""
    looked_at = f"{verified.stages} stages, {verified.files:,} files, {verified.rows:,} rows"
    if not verified.problems:
        return f"{looked_at}: all as it was written"
    shown = "\n".join(f"  {problem}" for problem in verified.problems)
    return f"{looked_at}: {len(verified.problems)} problem(s)\n{shown}"
