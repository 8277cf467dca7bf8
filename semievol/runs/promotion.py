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
from semievol.runs.folder import Manifest, RunFolder, now
from semievol.stages.base import Key, Stage
from semievol.trainers.base import trained

_RECORD = "promotions.json"


class WarmIsBetter(UserError):
    """Say that a round is worse than the warm model on the validation rows."""


@dataclass(frozen=True)
class Promotion:
    """An entry of the record, with the accuracy of the round and of the model served before (`against`) on the validation rows.

    Both are None where there were none.
    """

    action: str  # promote | rollback
    round: int
    model: str  # fingerprint of its training; if the round is trained again, the new model is not promoted
    accuracy: float | None
    against: float | None
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

    Validation rows decide, where the run has some: the accuracy must not be lower by more than `serving.tolerance` than that
    of the model served now (the base model if there is none) or of `warm`, on the same rows. `force` overrides it. Without
    validation rows any finished round is promoted, as test rows are only reported on.
    """
    name, validates = f"round-{round_number}", config.data.validation is not None
    evaluated = _evaluated(folder, name, stages.validating if validates else stages.evaluating)
    _, model = model_of(folder, config, name)
    training = folder.manifest(*_step(name, stages.making))
    if training and evaluated.finished_at < training.finished_at:
        raise UserError(f"round {round_number} was trained again after its evaluation. `semievol run` evaluates it")
    before = promoted(folder)
    if before and (before[-1].round, before[-1].model) == (round_number, model):
        raise UserError(f"round {round_number} is promoted already")
    again = bool(before) and before[-1].round == round_number  # trained again: the served model is gone
    accuracy = against = None
    if validates:
        rival = f"round-{before[-1].round}" if before and not again else "base"
        accuracy, against = _accuracy(folder, name), before[-1].accuracy if again else _accuracy(folder, rival)
        if not force:
            for than, theirs in (("warm", _accuracy(folder, "warm")), (rival, against)):
                _check(folder, name, accuracy, than, theirs, config.serving.tolerance)
    return _record(folder, Promotion("promote", round_number, model, accuracy, against, forced=force))


def _check(folder: RunFolder, name: str, accuracy: float, rival: str, theirs: float | None, tolerance: float) -> None:
    """Refuse a round that is worse than a rival on the validation rows, or was asked other rows."""
    if _rows(folder, name) != _rows(folder, rival):
        raise UserError(f"{name} and {rival} were evaluated on different validation rows; --force promotes it")
    if theirs is not None and worse(accuracy, theirs, tolerance):
        text = (
            f"{name} has accuracy {accuracy:.3f} on the validation rows, {rival} {theirs:.3f}: worse by more than "
            f"serving.tolerance = {tolerance:g}. --force promotes it anyway"
        )
        if rival == "warm":
            raise WarmIsBetter(f"{text}; `semievol serve {folder.uri} --models base,warm` serves the better one")
        raise UserError(text)


def worse(accuracy: float, theirs: float, tolerance: float) -> bool:
    """Tell whether a model is worse than another by more than `serving.tolerance`."""
    return accuracy < theirs - tolerance


def served_accuracy(evaluated: Manifest, training: Manifest | None) -> float:
    """Return the accuracy of what is served under a model's name: of a committee its best member."""
    members = evaluated.metrics.get("members")
    if members and training:
        return float(members[f"warm-{training.metrics['best']}"])
    return float(evaluated.metrics["accuracy"])


def told(entry: Promotion) -> str:
    """Return what a promotion was decided by, for people."""
    if entry.accuracy is None:
        return "no rows decided: the run has no data.validation, and test rows are only reported on"
    before = "" if entry.against is None else f", before {entry.against:.3f}"
    return f"accuracy {entry.accuracy:.3f} on the validation rows{before}"


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


def _accuracy(folder: RunFolder, name: str) -> float:
    """Return the accuracy of a round's evolved model, of `warm` or of `base` on the validation rows."""
    training = folder.manifest(stages.making("warm").name) if name == "warm" else None
    return served_accuracy(_evaluated(folder, name, stages.validating), training)


def _evaluated(folder: RunFolder, name: str, find: Callable[[str], Stage]) -> Manifest:
    """Return the manifest of a model's evaluation on the test or validation rows."""
    step = _step(name, find)
    if manifest := folder.manifest(*step):
        return manifest
    rounds = ", ".join(map(str, finished_rounds(folder))) or "none"
    what = f"round {step[1]}" if name.startswith("round-") else name
    raise UserError(
        f"{what} is not evaluated yet in {folder.uri}; finished rounds: {rounds}. `semievol run` evaluates it"
    )


def _step(name: str, find: Callable[[str], Stage]) -> Key:
    """Return the step that makes or evaluates a model. Those of base and warm are in round 0."""
    match = re.fullmatch(r"round-(\d+)", name)
    return (find("evolved").name, int(match[1])) if match else (find(name).name, 0)


def _rows(folder: RunFolder, name: str) -> list[int]:
    rows = storage.read_table(storage.join(folder.stage(*_step(name, stages.validating)), "rows"), ["row_id"])
    return sorted(rows["row_id"].to_pylist())


def _record(folder: RunFolder, entry: Promotion) -> Promotion:
    entry = replace(entry, at=now())
    folder.write_json(_RECORD, [asdict(e) for e in [*history(folder), entry]])
    return entry
