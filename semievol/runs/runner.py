"""Run one step: skip it if it is done, resume it if it was interrupted, and write its manifest last."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from semievol import config as configuration
from semievol.config import RunConfig, TrainResources
from semievol.data import storage
from semievol.errors import UserError
from semievol.inference.pool import EnginePool
from semievol.runs import rounds
from semievol.runs.folder import RUN, Manifest, RunFolder
from semievol.runs.rounds import Step
from semievol.runtime import cluster
from semievol.runtime.progress import Console
from semievol.stages.base import StageContext
from semievol.trainers.base import Trainer

Echo = Callable[[str], None]
LoadTrainer = Callable[[RunConfig], Trainer]


@dataclass(frozen=True)
class PlannedStep:
    """What `plan` shows of a step."""

    stage: str
    round: int
    state: str  # done | resume | to do
    rows_in: int | None
    rows_out: int | None
    asks: str


@dataclass(frozen=True)
class Runner:
    """Runs the steps of a run folder. The folder's `fingerprints` tell which finished steps are up to date."""

    config: RunConfig
    folder: RunFolder
    echo: Echo
    engines: EnginePool
    load_trainer: LoadTrainer

    def done(self, step: Step) -> Manifest | None:
        """Return the manifest of a step whose fingerprint is up to date, or None."""
        manifest = self.folder.manifest(*step.key)
        return manifest if manifest and manifest.fingerprint == self.folder.fingerprints[step.key] else None

    def done_or_run(self, step: Step) -> Manifest:
        """Run the step unless it is done, and print its line."""
        manifest = self.done(step)
        if manifest is None:
            return self.run(step)
        self.echo(_line(manifest, skipped=True))
        return manifest

    def run(self, step: Step) -> Manifest:
        """Run the step even if it is done."""
        self._prepare(step)
        if not step.stage.asks_engines:
            self.engines.release()  # frees the accelerators for training
        status = partial(self.folder.write_status, stage=step.stage.name, round=step.round.number)
        started = time.monotonic()
        try:
            status(state="running")
            result = step.stage.run(self.context(step))
        except BaseException as error:
            with suppress(OSError, UserError):  # on a full disk, for example, raise the first error
                state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                status(state=state, error=type(error).__name__)
            if user_error := cluster.user_error(error):
                raise user_error from None
            raise
        seconds = time.monotonic() - started
        manifest = self.folder.commit(step.key, self.folder.fingerprints[step.key], result, seconds)
        self.echo(_line(manifest, skipped=False))
        return manifest

    def context(self, step: Step) -> StageContext:
        """Return the argument for the function of a step."""
        number = step.round.number
        return StageContext(
            step.stage.name,
            rounds.of_round(self.config, number),
            self.folder.stage(*step.key),
            {name: self.folder.stage(*key) for name, key in step.inputs.items()},
            Console(self.echo, partial(self.folder.write_status, round=number)),
            files=step.round.files,
            number=number,
            engines=self.engines,
            trainer=self.load_trainer,
        )

    def plan(self, step: Step) -> PlannedStep:
        """Return the state of the step and the resources that it needs."""
        manifest = self.done(step)
        _, begun = self._marker(step)
        state = "done" if manifest else "resume" if begun else "to do"
        asks = "1 CPU"
        if key := step.stage.pool_in(self.config):
            pool = getattr(self.config.resources, key)
            count = pool.workers if isinstance(pool, TrainResources) else pool.actors
            asks = f"{count} x {pool.num_cpus:g} CPU" + (f", {pool.num_gpus:g} GPU" if pool.num_gpus else "")
        rows_in, rows_out = (manifest.rows.came_in, manifest.rows.out) if manifest else (None, None)
        return PlannedStep(step.stage.name, step.round.number, state, rows_in, rows_out, asks)

    def write_config(self) -> None:
        """Record the config and the fingerprints of this call in the run folder."""
        storage.write_text(storage.join(self.folder.uri, "config.yaml"), configuration.to_yaml(self.config))
        prints = {f"round-{number}/{stage}": text for (stage, number), text in self.folder.fingerprints.items()}
        run_id = self.folder.run_id() or uuid.uuid4().hex
        self.folder.write_json(RUN, {"name": self.config.name, "id": run_id, "fingerprints": prints})

    def _prepare(self, step: Step) -> None:
        """Keep partial output that has this fingerprint, so that the stage resumes; remove all other output."""
        marker, begun = self._marker(step)
        if not begun or self.folder.manifest(*step.key):
            self.folder.discard(*step.key)
        storage.write_text(marker, self.folder.fingerprints[step.key])

    def _marker(self, step: Step) -> tuple[str, bool]:
        """Return the file that marks a begun step, and whether it holds the step's fingerprint."""
        marker = storage.join(self.folder.stage(*step.key), "_started.json")
        return marker, storage.exists(marker) and storage.read_text(marker) == self.folder.fingerprints[step.key]


def _line(manifest: Manifest, *, skipped: bool) -> str:
    rows = manifest.rows
    losses = ((rows.quarantined, "quarantined"), (rows.duplicates, "duplicates"), (rows.leaks, "held back as leaks"))
    lost = [f"{n:,} {what}" for n, what in losses if n]
    took = "done before" if skipped else f"{manifest.seconds:,.0f} s"
    counts = f"{rows.came_in:,} in, {rows.out:,} out" + (f", {', '.join(lost)}" if lost else "")
    return f"{manifest.stage:<17} {took:>11}  {counts}; {manifest.headline}"
