"""Run the stages of each round in order. Finished steps are skipped, and an interrupted step is resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from semievol import trainers
from semievol.config import RunConfig
from semievol.data import models, paths, storage
from semievol.data.inputs import inputs
from semievol.engines import endpoint
from semievol.errors import UserError
from semievol.inference.pool import EnginePool
from semievol.runs import lease, rounds
from semievol.runs.checksums import Checksums
from semievol.runs.fingerprints import Fingerprints
from semievol.runs.folder import Manifest, RunFolder
from semievol.runs.rounds import Files, Round, Step
from semievol.runs.runner import Echo, LoadTrainer, PlannedStep, Runner
from semievol.runtime import cluster
from semievol.stages import compare, select
from semievol.stages.base import Key


@dataclass(frozen=True)
class Finished:
    """The result of a driver, from which reports are made. `seconds` covers this call only."""

    folder: RunFolder
    config: RunConfig
    manifests: dict[Key, Manifest]
    seconds: float


Report = Callable[[Finished], dict[str, Any]]


class Pipeline:
    """One run of one config.

    Args:
        folder: of the run; default: <storage>/<name>.
        engines, load_trainer: replace the engines and the trainer of the config.
    """

    def __init__(
        self,
        run_config: RunConfig,
        echo: Echo,
        folder: RunFolder | None = None,
        engines: EnginePool | None = None,
        load_trainer: LoadTrainer = trainers.load,
    ) -> None:
        self.config = paths.absolute(run_config)
        self.folder = folder or RunFolder(self.config.storage, self.config.name)
        self._echo = echo
        self.remarks: list[str] = []  # what is unusual about the input files, and what no rows will decide
        files = inputs(self.config, begun=bool(self.folder.records()), notes=self.remarks)
        if self.config.rounds > 1 and self.config.stop_early and self.config.data.validation is None:
            self.remarks.append(
                f"stop_early: all {self.config.rounds} rounds run, as only validation rows may decide (data.validation, such as 0.2)"
            )
        self._listing: Files = tuple(files["unlabeled"])
        self._checksums = Checksums(self.folder)
        self._fingerprints = Fingerprints(self.config, files)
        if storage.exists(self.folder.uri):
            self._identify()  # else there is nothing to compare the content with, and `plan` need not read it
        self._engines = engines or EnginePool()
        self._runner = Runner(self.config, self.folder, echo, self._engines, load_trainer)
        self._settle()

    def plan(self) -> list[PlannedStep]:
        """Return what `run` would do, without starting anything."""
        return [self._runner.plan(step) for step in self._steps]

    def notes(self) -> list[str]:
        """Return the reasons why an expected further round does not run."""
        last, said = self.rounds[-1].number, []
        if rounds.stopped_early(self.rounds, self.config, self._gained()):
            said.append(
                f"no round {last + 1} over these rows: the gain of round {last} on the validation rows is within noise (stop_early)"
            )
        if arrived := rounds.new_files(self.rounds, self._listing):
            why = "wait until this round is finished" if self._gained() is None else "hold no new row"
            said.append(f"{len(arrived):,} unlabeled file(s) that have arrived since, {arrived[0].uri} first, {why}")
        return said

    def run(
        self, report: Report, until: str | None = None, variables: Sequence[str] = (), *, only_needed: bool = False
    ) -> dict[str, Any]:
        """Run all rounds, or run up to the stage `until` of the first unfinished round.

        Args:
            report: writes the figures into the run folder, while this driver holds the lease, and returns them.
            variables: names of environment variables that every node must have.
            only_needed: skip the stages that the last stage of a round does not depend on.
        """
        rounds.check_until(until)
        new = not storage.exists(self.folder.uri)
        started = time.monotonic()
        try:
            with lease.held(self.folder.uri, self._echo) as owner:
                self._identify()
                self._settle()  # another driver may have done more in the meantime
                self._runner.write_config()
                for remark in self.remarks:
                    self._echo(remark)
                manifests = self._run_rounds(until, only_needed, partial(self._connect, owner, variables))
                for note in self.notes():
                    self._echo(note)
                figures = report(Finished(self.folder, self.config, manifests, time.monotonic() - started))
                self.folder.write_status(stage=until or "", state="stopped as asked" if until else "finished")
                return figures
        except UserError:
            mine = not storage.exists(storage.join(self.folder.uri, lease.FILE))
            if new and mine and not self.folder.manifest(*self._steps[0].key):
                storage.delete(self.folder.uri)  # leave no empty run behind
            raise
        finally:
            self._engines.release()

    def select(self) -> dict[str, Any]:
        """Select again among the pseudo-labels of the last labeled round. Later stages are not run.

        Returns:
            The metrics of the stage, the `round`, and `pseudo_labels` (None without an oracle).
        """
        steps = {step.key: step for step in self._steps}
        selecting = [steps[select.STAGE.name, one.number] for one in self.rounds]
        labeled = [
            step.round.number for step in selecting if all(self.folder.manifest(*k) for k in step.inputs.values())
        ]
        if not labeled:
            raise UserError(f"no pseudo-labels in {self.folder.uri} yet. `semievol run` makes them")
        number = labeled[-1]
        step = steps[select.STAGE.name, number]
        with lease.held(self.folder.uri, self._echo) as owner:
            self._connect(owner, ())
            # Use the fingerprints of the labels on disk: with changed settings, a later round's would not match.
            read = [manifest.fingerprint for key in step.inputs.values() if (manifest := self.folder.manifest(*key))]
            self.folder.fingerprints[step.key] = self._fingerprints.of_step(step, read)
            manifest = self._runner.run(step)
            self._runner.write_config()
            measured = compare.measure_pseudo_labels(self._runner.context(steps[compare.STAGE.name, number]))
        return manifest.metrics | {"round": number, "pseudo_labels": measured}

    def _identify(self) -> None:
        """Add checksums to the input files."""
        files = {split: self._checksums.add_to(found) for split, found in self._fingerprints.files.items()}
        self._fingerprints.files, self._listing = files, tuple(files["unlabeled"])

    def _settle(self) -> None:
        """Set the rounds from the records, the input files and the results so far."""
        self._lay_out(rounds.settled(self.folder.records(), self._listing))
        while True:
            arrived = rounds.new_files(self.rounds, self._listing)
            following = rounds.following(self.rounds, self.config, self._gained(), arrived)
            if following is None:
                return
            before = self.rounds
            self._lay_out([*before, following])
            reads = [step.key for step in self._steps_of(following) if step.stage.reads_files]
            if following.files and self.folder.nothing_new() in map(self.folder.fingerprints.get, reads):
                return self._lay_out(before)

    def _lay_out(self, these: list[Round]) -> None:
        self.rounds = these
        self._steps = rounds.steps(these, self.config)
        self.folder.fingerprints = self._fingerprints.of(self._steps)

    def _gained(self) -> bool | None:
        """Tell whether the last round is better than the one before it; None while it is not finished."""
        for step in self._steps_of(self.rounds[-1]):
            if step.stage.gained and (manifest := self._runner.done(step)):
                return step.stage.gained(manifest.metrics)
        return None

    def _steps_of(self, one: Round) -> list[Step]:
        return [step for step in self._steps if step.round == one]

    def _connect(self, owner: str, variables: Sequence[str]) -> None:
        cluster.connect(self.config)
        needed = [*variables, *endpoint.variables(self.config)]
        cluster.check_nodes(self.config, (storage.join(self.folder.uri, lease.FILE), owner), needed)
        for key, model in paths.packaged(self.config).items():
            if note := models.conversion(model):
                self._echo(f"{key}: {note}")
                cluster.run_here(models.local, model)

    def _run_rounds(self, until: str | None, only_needed: bool, connect: Callable[[], None]) -> dict[Key, Manifest]:
        manifests: dict[Key, Manifest] = {}
        number = 0
        while number < len(self.rounds):
            one = self.rounds[number]
            steps = self._steps_of(one)
            wanted = rounds.until(steps, until)
            wanted = rounds.needed(wanted) if only_needed else wanted
            if ahead := [step for step in wanted if not self._runner.done(step)]:
                self._require(one)
                connect()
                cluster.require(self.config, self.pools(ahead), self._echo)  # before hours of work, and at each stage
            self._record(one, finished=False)
            if number:
                rows = f"{len(one.files):,} new unlabeled file(s)" if one.files else "the same unlabeled rows"
                self._echo(f"round {number}, from the evolved model of round {number - 1}: {rows}")
            for step in wanted:
                if step in ahead:
                    cluster.require(self.config, self.pools([step]), self._echo)
                manifests[step.key] = self._runner.done_or_run(step)
                if number and step.stage.reads_files and not manifests[step.key].rows.out:
                    del manifests[step.key]
                    self.folder.give_up(step.key)
                    self._settle()
                    return manifests
            if until and not all(map(self._runner.done, steps)):
                return manifests  # stopped at `until`
            self._record(one, finished=True)
            self._settle()  # the result of this round decides whether there is another
            number += 1
        return manifests

    def pools(self, steps: Sequence[Step] | None = None) -> list[str]:
        """Return the keys in `resources` of the actor pools that some steps need; default: the unfinished steps."""
        needy = [step for step in self._steps if not self._runner.done(step)] if steps is None else steps
        return [pool for pool in dict.fromkeys(step.stage.pool_in(self.config) for step in needy) if pool]

    def _record(self, one: Round, *, finished: bool) -> None:
        """Write the record of a round with files of its own, unless it is up to date."""
        known = self.folder.records().get(one.number)
        if one.files and (known is None or known.files != one.files or known.finished < finished):
            self.folder.record(one.number, one.files, finished=finished)

    def _require(self, one: Round) -> None:
        """Raise if a round must be read again and its files are missing or changed."""
        if any(step.stage.reads_files and self._runner.done(step) for step in self._steps_of(one)):
            return
        here = set(self._listing)
        gone = [
            file.uri
            for file in one.files
            if file not in here and self._checksums.add_to(storage.find(file.uri)) != [file]
        ]
        if gone:
            raise UserError(
                f"round {one.number} would have to be read again, as the config or labeled or test rows have changed, but "
                f"{len(gone):,} of its unlabeled files are gone or changed, {gone[0]} first. Bring them back, or use another name="
            )
