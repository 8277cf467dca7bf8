"""Which round is served as `evolved`: a record in the run folder that the endpoint follows.

`promotions.json` is a list, oldest first, that only ever grows. A rollback is an entry of its own, so the history says
what was served when.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace

from semievol import stages
from semievol.config import RunConfig, loads
from semievol.data import storage
from semievol.errors import UserError
from semievol.runs.folder import RunFolder, now
from semievol.stages.base import Key

_RECORD = "promotions.json"
_ROUND = re.compile(r"round-(\d+)")


@dataclass(frozen=True)
class Promotion:
    """An entry of the record. `accuracy` is the round's on the test rows, `against` that of what was served before."""

    action: str  # promote | rollback
    round: int
    model: str  # fingerprint of the training that made it: another model of the same round is not promoted by this
    accuracy: float
    against: float
    forced: bool = False
    at: str = ""


def open_run(run: str, overrides: list[str] | None = None) -> tuple[RunFolder, RunConfig]:
    """The folder and the resolved config of a run that was started before.

    Raises:
        UserError: there is no run at this URI.
    """
    path, _, name = storage.absolute(run).rstrip("/").rpartition("/")
    folder = RunFolder(path, name)
    file = storage.join(folder.uri, "config.yaml")
    if not storage.exists(file):
        raise UserError(f"no run at '{run}' (no config.yaml in it). Name the folder <storage>/<name> of a run")
    return folder, loads(storage.read_text(file), overrides, file)


def history(folder: RunFolder) -> list[Promotion]:
    """The record, oldest first; empty where nothing was promoted yet."""
    uri = storage.join(folder.uri, _RECORD)
    return [Promotion(**entry) for entry in json.loads(storage.read_text(uri))] if storage.exists(uri) else []


def promoted(folder: RunFolder) -> list[Promotion]:
    """The promotions that were not rolled back, oldest first: the round of the last one is served as `evolved`."""
    standing: list[Promotion] = []
    for entry in history(folder):
        if entry.action == "promote":
            standing.append(entry)
        else:
            standing.pop()
    return standing


def promote(folder: RunFolder, config: RunConfig, round_number: int, *, force: bool = False) -> Promotion:
    """Make a round the one that is served as `evolved`.

    It is compared on the held-out test rows with what is served now, and with the base model when nothing was promoted.

    Raises:
        UserError: the round is not finished, was promoted already, or is worse by more than `serving.tolerance` (in
            accuracy) or cannot be compared; the last two can be forced.
    """
    accuracy = accuracy_of(folder, f"round-{round_number}")
    _, model = model_of(folder, config, f"round-{round_number}")
    trained = folder.manifest(stages.making("evolved").name, round_number)
    evaluated = folder.manifest(stages.evaluating("evolved").name, round_number)
    if trained and evaluated and evaluated.finished_at < trained.finished_at:
        raise UserError(f"round {round_number} was trained again after its evaluation. `semievol run` evaluates it")
    before = promoted(folder)
    if before and (before[-1].round, before[-1].model) == (round_number, model):
        raise UserError(f"round {round_number} is promoted already")
    again = bool(before) and before[-1].round == round_number  # trained anew: what was served is gone from the folder
    rival = f"round-{before[-1].round}" if before and not again else "base"
    against = before[-1].accuracy if again else accuracy_of(folder, rival)
    if not force:
        if _test_rows(folder, f"round-{round_number}") != _test_rows(folder, rival):
            raise UserError(
                f"round {round_number} and {rival} were evaluated on different test rows; --force promotes it"
            )
        if accuracy < against - config.serving.tolerance:
            raise UserError(
                f"round {round_number} has accuracy {accuracy:.3f} on the test rows, {rival} {against:.3f}: worse by more "
                f"than serving.tolerance = {config.serving.tolerance:g}. --force promotes it all the same"
            )
    return _record(folder, Promotion("promote", round_number, model, accuracy, against, forced=force))


def rollback(folder: RunFolder) -> Promotion:
    """Serve what was served before the last promotion.

    Raises:
        UserError: there is nothing to go back to.
    """
    standing = promoted(folder)
    if len(standing) < 2:
        raise UserError(
            "nothing to roll back to: " + ("one round was promoted" if standing else "nothing was promoted")
        )
    left, back = standing[-1], standing[-2]
    return _record(folder, Promotion("rollback", back.round, back.model, back.accuracy, left.accuracy))


def finished_rounds(folder: RunFolder) -> list[int]:
    """Return the rounds with an evaluated model, in order."""
    stage, rounds = stages.evaluating("evolved").name, list[int]()
    while folder.manifest(stage, len(rounds)) is not None:
        rounds.append(len(rounds))
    return rounds


def model_of(folder: RunFolder, config: RunConfig, name: str) -> tuple[str, str]:
    """Where the weights of a served model are, and a digest that changes with them.

    Args:
        name: base, warm (of round 0) or round-N.

    Raises:
        UserError: the stage that makes the model is not finished.
    """
    if name == "base":
        return config.model.base, hashlib.sha256(config.model.base.encode()).hexdigest()[:16]
    match = _ROUND.fullmatch(name)
    stage, round_number = (stages.making("evolved").name, int(match[1])) if match else (stages.making("warm").name, 0)
    manifest = folder.manifest(stage, round_number)
    if manifest is None:
        raise UserError(
            f"no model '{name}' in {folder.uri}: its {stage} is not finished. `semievol run` goes on with it"
        )
    return storage.join(folder.stage(stage, round_number), "model"), manifest.fingerprint


def accuracy_of(folder: RunFolder, name: str) -> float:
    """Accuracy on the test rows, of a round's evolved model or of `base`.

    Raises:
        UserError: it is not evaluated yet.
    """
    stage, at = _evaluation(name)
    manifest = folder.manifest(stage, at)
    if manifest is None:
        rounds = ", ".join(map(str, finished_rounds(folder))) or "none"
        raise UserError(f"round {at} is not evaluated yet in {folder.uri}; finished rounds: {rounds}")
    return float(manifest.metrics["accuracy"])


def _evaluation(name: str) -> Key:
    """Return the step that evaluates round-N, or base, which is evaluated once for all rounds."""
    match = _ROUND.fullmatch(name)
    return (stages.evaluating("evolved").name, int(match[1])) if match else (stages.evaluating("base").name, 0)


def _test_rows(folder: RunFolder, name: str) -> list[int]:
    rows = storage.read_table(storage.join(folder.stage(*_evaluation(name)), "rows"), ["row_id"])
    return sorted(rows["row_id"].to_pylist())


def _record(folder: RunFolder, entry: Promotion) -> Promotion:
    entry = replace(entry, at=now())
    entries = [asdict(e) for e in [*history(folder), entry]]
    storage.write_text(storage.join(folder.uri, _RECORD), json.dumps(entries, indent=1))
    return entry
