"""Which rounds a run has, which steps a round has, and whose output each step reads. Nothing here opens a file.

Round 0 is the whole method. A later round lets the evolved model of the round before label and starts the training from
it: on the same unlabeled rows (`rounds: N`), or on rows of its own, from files that have arrived since.
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
    """A round and the unlabeled files that it is defined over; none where its rows are those of an earlier round."""

    number: int
    files: Files = ()


@dataclass(frozen=True)
class Step:
    """A stage in a round."""

    stage: Stage
    round: Round
    inputs: dict[str, Key]  # the steps whose output it reads, under the names by which the stage asks for them

    @property
    def key(self) -> Key:
        return self.stage.name, self.round.number


def check_until(name: str | None) -> None:
    """Refuse a stage that no round has.

    Raises:
        UserError: names the stages.
    """
    names = [stage.name for stage in registry()]
    if name is not None and name not in names:
        raise UserError(f"--until: no stage '{name}'; the stages are {', '.join(names)}")


def until(steps: Sequence[Step], name: str | None) -> list[Step]:
    """Return the steps of a round up to a stage, or all."""
    names = [stage.name for stage in registry()]
    last = names.index(name) if name else len(names)
    return [step for step in steps if names.index(step.stage.name) <= last]


def needed(steps: Sequence[Step]) -> list[Step]:
    """Return the last of these steps and those among them that its output depends on, in order."""
    wanted = {steps[-1].key}
    for step in reversed(steps):
        if step.key in wanted:
            wanted |= set(step.inputs.values())
    return [step for step in steps if step.key in wanted]


def steps(rounds: Sequence[Round], run_config: RunConfig) -> list[Step]:
    """Return all steps of these rounds, each after those that it reads."""
    found = []
    sources: tuple[int, ...] = ()  # the rounds with files of their own so far
    for one in rounds:
        sources += (one.number,) if one.files else ()
        place = Place(of_round(run_config, one.number), one.number, sources)
        for stage in registry():
            if stage.wanted(run_config) and _runs_in(stage.scope, one):
                found.append(Step(stage, one, stage.inputs(place)))
    return found


def _runs_in(scope: Scope, one: Round) -> bool:
    return one.number == 0 or scope is Scope.ROUND or (scope is Scope.NEW_ROWS and bool(one.files))


def of_round(run_config: RunConfig, number: int) -> RunConfig:
    """Return the config as a round sees it.

    A collaborator with the weights of round N takes part in the rounds after it. After round 0 both the model that labels
    (`warm`) and the model that training starts from are the last evolved one.
    """
    taking_part = [who for who in run_config.label.collaborators if who.takes_part(number)]
    start_from = "warm" if number else run_config.finetune.start_from
    label = run_config.label.model_copy(update={"collaborators": taking_part})
    finetune = run_config.finetune.model_copy(update={"start_from": start_from})
    return run_config.model_copy(update={"label": label, "finetune": finetune})


def settled(records: Mapping[int, Record], listing: Iterable[FileEntry]) -> list[Round]:
    """Return the rounds up to the last one with files of its own, as they were begun.

    Files of a finished round are frozen, so it does not matter if they are gone. When files of an unfinished one have
    changed, it starts over, with all files that belong to no round before it.

    Args:
        records: of each round with files of its own; without any, the listing makes round 0.
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
    """Return the files that belong to no round yet: those not recorded with equal size and time."""
    known = {file for one in rounds for file in one.files}
    return tuple(file for file in listing if file not in known)


def following(rounds: Sequence[Round], run_config: RunConfig, gained: bool | None, arrived: Files) -> Round | None:
    """Return the round after these; None where there is none, or none yet.

    Args:
        gained: whether the last round is better than the one before; None while it is not finished.
        arrived: files that belong to no round yet.
    """
    number = rounds[-1].number + 1
    if _more_planned(rounds, run_config) and not stopped_early(rounds, run_config, gained):
        return Round(number)
    return Round(number, arrived) if arrived and gained is not None else None


def stopped_early(rounds: Sequence[Round], run_config: RunConfig, gained: bool | None) -> bool:
    """Tell whether more rounds over the same rows were wanted, and the last one shows that they do not pay."""
    return run_config.stop_early and gained is False and _more_planned(rounds, run_config)


def _more_planned(rounds: Sequence[Round], run_config: RunConfig) -> bool:
    first = max(one.number for one in rounds if one.files)
    return rounds[-1].number + 1 - first < run_config.rounds
