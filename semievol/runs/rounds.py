"""The rounds of a run, the steps of a round, and the inputs of each step. This module opens no file.

Round 0 is the whole method. In a later round the last evolved model labels, and training starts from it. The rows are the
same unlabeled rows (`rounds: N`), or rows of the round's own, from files that have arrived since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from semievol.config import RunConfig
from semievol.data.storage import FileEntry
from semievol.errors import UserError
from semievol.runs.folder import Record
from semievol.stages import registry
from semievol.stages.base import Key, Place, Scope, Stage

Files = tuple[FileEntry, ...]


@dataclass(frozen=True)
class Round:
    """A round and its unlabeled files. It has no files if it uses the rows of an earlier round."""

    number: int
    files: Files = ()


@dataclass(frozen=True)
class Step:
    """A stage in a round."""

    stage: Stage
    round: Round
    inputs: dict[str, Key]  # the steps whose output it reads, by the stage's names for them

    @property
    def key(self) -> Key:
        return self.stage.name, self.round.number


def check_until(name: str | None) -> None:
    """Refuse a name that no stage has."""
    names = [stage.name for stage in registry()]
    if name is not None and name not in names:
        raise UserError(f"--until: no stage '{name}'; the stages are {', '.join(names)}")


def until(steps: Sequence[Step], name: str | None) -> list[Step]:
    """Return the steps of a round up to a stage; None for all."""
    names = [stage.name for stage in registry()]
    last = names.index(name) if name else len(names)
    return [step for step in steps if names.index(step.stage.name) <= last]


def needed(steps: Sequence[Step]) -> list[Step]:
    """Return the last step and the steps that it depends on, in order."""
    wanted = {steps[-1].key}
    for step in reversed(steps):
        if step.key in wanted:
            wanted |= set(step.inputs.values())
    return [step for step in steps if step.key in wanted]


def steps(rounds: Sequence[Round], run_config: RunConfig) -> list[Step]:
    """Return all steps of the rounds, each after the steps that it reads."""
    ordered = []
    sources: tuple[int, ...] = ()  # the rounds so far that have files
    for each in rounds:
        sources += (each.number,) if each.files else ()
        scopes = {Scope.ROUND, Scope.NEW_ROWS} if each.files else {Scope.ROUND}
        place = Place(of_round(run_config, each.number), each.number, sources)
        for stage in registry():
            if stage.wanted(run_config) and (each.number == 0 or stage.scope in scopes):
                ordered.append(Step(stage, each, stage.inputs(place)))
    return ordered


def of_round(run_config: RunConfig, number: int) -> RunConfig:
    """Return the config of a round.

    A collaborator with the weights of round N takes part from round N+1 on. In round 0, one that asks a committee becomes
    one for each member. After round 0, the last evolved model both
    labels (as `warm`) and is the start of the training.
    """
    all_of_them = run_config.label.collaborators if number else run_config.voters
    collaborators = [c for c in all_of_them if c.takes_part(number)]
    start_from = "warm" if number else run_config.finetune.start_from
    label = run_config.label.model_copy(update={"collaborators": collaborators})
    finetune = run_config.finetune.model_copy(update={"start_from": start_from})
    return run_config.model_copy(update={"label": label, "finetune": finetune})


def settled(records: Mapping[int, Record], listing: Iterable[FileEntry]) -> list[Round]:
    """Return the recorded rounds, up to the last one with files of its own.

    The files of a finished round are fixed, and may be deleted. If files of an unfinished round have changed, the round
    starts over with all files that belong to no earlier round.
    Without records, the listing becomes round 0.
    """
    listing = tuple(listing)
    if not records:
        return [Round(0, listing)]
    last = max(records)
    files = {number: record.files for number, record in records.items()}
    if not records[last].finished and not set(files[last]) <= set(listing):
        before = {file for number in files if number < last for file in files[number]}
        files[last] = tuple(file for file in listing if file not in before) or files[last]
    return [Round(number, files.get(number, ())) for number in range(last + 1)]


def new_files(rounds: Sequence[Round], listing: Iterable[FileEntry]) -> Files:
    """Return the files that no round has with the same content."""
    known = {file for each in rounds for file in each.files}
    return tuple(file for file in listing if file not in known)


def following(rounds: Sequence[Round], run_config: RunConfig, gained: bool | None, arrived: Files) -> Round | None:
    """Return the next round, over the same rows or over the files that have `arrived`; None if there is none, or none yet.

    Args:
        gained: whether the last round is better than the one before it; None while it is not finished.
    """
    number = rounds[-1].number + 1
    if _more_planned(rounds, run_config) and not stopped_early(rounds, run_config, gained):
        return Round(number)
    return Round(number, arrived) if arrived and gained is not None else None


def stopped_early(rounds: Sequence[Round], run_config: RunConfig, gained: bool | None) -> bool:
    """Tell whether `stop_early` cancels the remaining rounds because the last one did not improve."""
    return run_config.stop_early and gained is False and _more_planned(rounds, run_config)


def _more_planned(rounds: Sequence[Round], run_config: RunConfig) -> bool:
    first = max(each.number for each in rounds if each.files)
    return rounds[-1].number + 1 - first < run_config.rounds
