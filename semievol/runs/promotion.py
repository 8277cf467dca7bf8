"""Promotions: the record in a run folder that tells the endpoint which round to serve as `evolved`.

`promotions.json` is a list, oldest first, that only grows. A rollback is an entry of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from semievol import stages
from semievol.config import RunConfig, of_run
from semievol.data import storage
from semievol.errors import UserError
from semievol.runs.folder import RunFolder, now
from semievol.stages.base import Key, Stage
from semievol.trainers.base import trained

_RECORD = "promotions.json"


@dataclass(frozen=True)
class Promotion:
    """An entry of the record, with the accuracy of the round and of the model served before (`against`)."""

    action: str  # promote | rollback
    round: int
    model: str  # fingerprint of its training; if the round is trained again, the new model is not promoted
    accuracy: float
    against: float
    forced: bool = False
    at: str = ""


def open_run(run: str, overrides: list[str] | None = None) -> tuple[RunFolder, RunConfig]:
    """Return the folder and the resolved config of an existing run."""
    path, _, name = storage.absolute(run).rstrip("/").rpartition("/")
    folder = RunFolder(path, name)
    file = storage.join(folder.uri, "config.yaml")
    if not storage.exists(file):
        raise UserError(
            f"no run at '{run}' (no config.yaml in it). Name the folder <storage>/<name> of a run, not its config"
        )
    return folder, of_run(storage.read_text(file), overrides, file)


def history(folder: RunFolder) -> list[Promotion]:
    """Return the record, oldest first; empty before the first promotion."""
    return [Promotion(**entry) for entry in folder.read_json(_RECORD)]


def promoted(folder: RunFolder) -> list[Promotion]:
    """Return the promotions that were not rolled back, oldest first. The last one is served as `evolved`."""
    active: list[Promotion] = []
    for entry in history(folder):
        if entry.action == "promote":
            active.append(entry)
        else:
            active.pop()
    return active


def promote(folder: RunFolder, config: RunConfig, round_number: int, *, force: bool = False) -> Promotion:
    """Serve a round as `evolved`.

    Its accuracy on the validation rows (on the test rows where there are none) is compared with that of the model served
    now, or of the base model if there is none. It must not be lower by more than `serving.tolerance`, and the rows must be
    the same; `force` overrides both.
    """
    name, held_out = f"round-{round_number}", "test" if config.data.validation is None else "validation"
    find = stages.evaluating if held_out == "test" else stages.validating
    accuracy = _accuracy(folder, name, find)
    _, model = model_of(folder, config, name)
    trained, evaluated = (folder.manifest(*_step(name, found)) for found in (stages.making, find))
    if trained and evaluated and evaluated.finished_at < trained.finished_at:
        raise UserError(f"round {round_number} was trained again after its evaluation. `semievol run` evaluates it")
    before = promoted(folder)
    if before and (before[-1].round, before[-1].model) == (round_number, model):
        raise UserError(f"round {round_number} is promoted already")
    again = bool(before) and before[-1].round == round_number  # trained again: the served model is gone
    rival = f"round-{before[-1].round}" if before and not again else "base"
    against = before[-1].accuracy if again else _accuracy(folder, rival, find)
    if not force:
        if _rows(folder, name, find) != _rows(folder, rival, find):
            raise UserError(f"{name} and {rival} were evaluated on different {held_out} rows; --force promotes it")
        if accuracy < against - config.serving.tolerance:
            raise UserError(
                f"round {round_number} has accuracy {accuracy:.3f} on the {held_out} rows, {rival} {against:.3f}: worse by more "
                f"than serving.tolerance = {config.serving.tolerance:g}. --force promotes it anyway"
            )
    return _record(folder, Promotion("promote", round_number, model, accuracy, against, forced=force))


def rollback(folder: RunFolder) -> Promotion:
    """Serve the round that was served before the last promotion."""
    active = promoted(folder)
    if len(active) < 2:
        raise UserError("nothing to roll back to: " + ("one round was promoted" if active else "nothing was promoted"))
    left, back = active[-1], active[-2]
    return _record(folder, Promotion("rollback", back.round, back.model, back.accuracy, left.accuracy))


def finished_rounds(folder: RunFolder) -> list[int]:
    """Return the rounds with an evaluated model, in order."""
    stage, rounds = stages.evaluating("evolved").name, list[int]()
    while folder.manifest(stage, len(rounds)) is not None:
        rounds.append(len(rounds))
    return rounds


def model_of(folder: RunFolder, config: RunConfig, name: str) -> tuple[str, str]:
    """Return the folder or hub id of a served model's weights, and a digest that changes with them.

    Args:
        name: base, warm (of round 0; of a committee the best member) or round-N.
    """
    if name == "base":
        return config.model.base, hashlib.sha256(config.model.base.encode()).hexdigest()[:16]
    step = _step(name, stages.making)
    manifest = folder.manifest(*step)
    if manifest is None:
        raise UserError(f"no model '{name}' in {folder.uri}: its {step[0]} is not finished. `semievol run` finishes it")
    return trained(folder.stage(*step)), manifest.fingerprint


def _accuracy(folder: RunFolder, name: str, find: Callable[[str], Stage]) -> float:
    """Return the accuracy of a round's evolved model or of `base` on held-out rows."""
    step = _step(name, find)
    manifest = folder.manifest(*step)
    if manifest is None:
        rounds = ", ".join(map(str, finished_rounds(folder))) or "none"
        raise UserError(f"round {step[1]} is not evaluated yet in {folder.uri}; finished rounds: {rounds}")
    return float(manifest.metrics["accuracy"])


def _step(name: str, find: Callable[[str], Stage]) -> Key:
    """Return the step that makes or evaluates a model. Those of base and warm are in round 0."""
    match = re.fullmatch(r"round-(\d+)", name)
    return (find("evolved").name, int(match[1])) if match else (find(name).name, 0)


def _rows(folder: RunFolder, name: str, find: Callable[[str], Stage]) -> list[int]:
    rows = storage.read_table(storage.join(folder.stage(*_step(name, find)), "rows"), ["row_id"])
    return sorted(rows["row_id"].to_pylist())


def _record(folder: RunFolder, entry: Promotion) -> Promotion:
    entry = replace(entry, at=now())
    folder.write_json(_RECORD, [asdict(e) for e in [*history(folder), entry]])
    return entry
