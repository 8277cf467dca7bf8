"""Which rounds a run has, which steps a round has, and whose output each step reads. Nothing here opens a file.

Round 0 is the whole method. A later round lets the evolved model of the round before label and starts the training from
it: on the same unlabeled rows (`rounds: N`), or on rows of its own, from files that have arrived since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from semievol.config import RunConfig
from semievol.data.storage import FileEntry
from semievol.errors import UserError
from semievol.runs.folder import Record
from semievol.stages.base import Key

Files = tuple[FileEntry, ...]
_SIGNIFICANT = 0.05  # McNemar's p below which a gain is no noise


@dataclass(frozen=True)
class Stage:
    """A kind of step: where its function is, whose output it reads, which settings its output depends on."""

    name: str
    function: str
    needs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    reads: str = ""  # models that are no stage's output: base | embedding | collaborators
    actors: str = ""  # the key under `resources` that says what it asks for


# Only what changes a stage's output. Knobs of speed (batch sizes, commit sizes, memory) may change between attempts
# without losing what is committed. Of the data not the paths: the files themselves count.
_ENGINE = ("engine.kind", "engine.endpoint", "engine.dtype", "engine.max_model_len", "engine.extra", "task", "seed")
SPEED = (  # of engine.extra, vLLM's EngineArgs
    *("gpu_memory_utilization", "tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend"),
    *("max_num_batched_tokens", "enable_prefix_caching", "enable_chunked_prefill", "enforce_eager", "block_size"),
)
_EVALUATED = (
    *_ENGINE[:-1],
    "evaluate.max_tokens",
    "evaluate.k",
    "evaluate.confidence_level",
)  # greedy: nothing is drawn
_LABELED = (
    *(*_ENGINE, "engine.top_logprobs"),
    *("label.collaborators", "label.mode", "label.justify", "label.max_tokens"),
)
_TRAINER = ("trainer.kind", "trainer.endpoint", "trainer.learning_rate_multiplier")
_EMBEDDED = ("embedding.max_length", "retrieve")
_INGESTED = ("data.columns", "data.exclude_test_overlap", "task", "limits.max_row_bytes", "limits.bad_shards")
STAGES = (  # in the order in which they run: what asks the warm model stands together, so that it is loaded once
    Stage("ingest", "ingest:run", (), _INGESTED),
    Stage("index", "index:run", ("ingest",), _EMBEDDED, "embedding", "embed"),
    Stage("warmup", "train:run_warmup", ("ingest", "index"), ("task", "warmup", "seed", *_TRAINER), "base", "train"),
    Stage("retrieve", "retrieve:run", ("ingest", "index"), _EMBEDDED, "embedding", "embed"),
    Stage(
        "evaluate/retrieve",
        "evaluate_retrieve:run",
        ("ingest", "index"),
        ("evaluate.k", *_EMBEDDED),
        "embedding",
        "embed",
    ),
    Stage("evaluate/base", "evaluate:run", ("ingest",), _EVALUATED, "base", "label"),
    Stage("evaluate/warm", "evaluate:run", ("ingest", "warmup"), _EVALUATED, "", "label"),
    Stage("label", "label:run", ("ingest", "warmup", "retrieve"), _LABELED, "collaborators", "label"),
    Stage("select", "select:run", ("label",), ("select",)),
    Stage(
        "finetune",
        "train:run_finetune",
        ("ingest", "warmup", "select"),
        ("task", "finetune", "seed", *_TRAINER),
        "base",
        "train",
    ),
    Stage("evaluate/evolved", "evaluate:run", ("ingest", "finetune"), _EVALUATED, "", "label"),
    Stage(
        "evaluate/compare",
        "compare:run",
        ("ingest", "select", "evaluate/base", "evaluate/warm", "evaluate/evolved"),
        ("task",),
    ),
)
_NAMES = [stage.name for stage in STAGES]
_ONCE = ("index", "warmup", "evaluate/retrieve", "evaluate/base", "evaluate/warm")  # in round 0, for all rounds
_OF_NEW_ROWS = ("ingest", "retrieve")  # in the rounds with files of their own
_READS_ROWS = ("retrieve", "select", "evaluate/compare")  # unlabeled rows or their oracle; others labeled and test rows


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
    inputs: dict[str, Key]  # whose output it reads, under the names by which its function asks for it

    @property
    def key(self) -> Key:
        return self.stage.name, self.round.number


def needs(stage: Stage, run_config: RunConfig) -> tuple[str, ...]:
    """The stages whose output it reads in this run."""
    if stage.name == "warmup" and run_config.warmup.context == "none":
        return ("ingest",)  # else another embedding model would make another warm-up
    if stage.name == "select" and run_config.select.ceiling:
        return ("ingest",)  # the only stage that may see the oracle, and only then
    if stage.function == "evaluate:run" and run_config.evaluate.k:
        return (*stage.needs, "evaluate/retrieve")
    return stage.needs


def check_until(name: str | None) -> None:
    """Refuse a stage that no round has.

    Raises:
        UserError: names the stages.
    """
    if name is not None and name not in _NAMES:
        raise UserError(f"--until: no stage '{name}'; the stages are {', '.join(_NAMES)}")


def until(steps: Sequence[Step], name: str | None) -> list[Step]:
    """The steps of a round up to a stage, or all."""
    last = _NAMES.index(name) if name else len(_NAMES)
    return [step for step in steps if _NAMES.index(step.stage.name) <= last]


def needed(steps: Sequence[Step]) -> list[Step]:
    """The last of these steps and what its output depends on among them, in order."""
    wanted = {steps[-1].key}
    for step in reversed(steps):
        if step.key in wanted:
            wanted |= set(step.inputs.values())
    return [step for step in steps if step.key in wanted]


def steps(rounds: Sequence[Round], run_config: RunConfig) -> list[Step]:
    """All steps of these rounds, each after those that it reads."""
    found = []
    sources: list[int] = []  # the rounds with files of their own so far
    for one in rounds:
        sources += [one.number] if one.files else []
        left_out = () if one.number == 0 else _ONCE if one.files else (*_ONCE, *_OF_NEW_ROWS)
        for stage in STAGES:
            if stage.name not in left_out and (stage.name != "evaluate/retrieve" or run_config.evaluate.k):
                found.append(Step(stage, one, _inputs(stage, one.number, sources, run_config)))
    return found


def _inputs(stage: Stage, number: int, sources: Sequence[int], run_config: RunConfig) -> dict[str, Key]:
    if stage.name == "ingest":
        return {f"round-{source}": ("ingest", source) for source in sources if source < number}
    found = {name: _source(stage, name, number, sources[-1]) for name in needs(stage, run_config)}
    if stage.name == "label":
        asked = {who.earlier_round() for who in run_config.label.collaborators}
        found |= {f"round-{n}": ("finetune", n) for n in range(number) if n in asked}
    if stage.name == "evaluate/compare" and number:
        found["evaluate/previous"] = ("evaluate/evolved", number - 1)
    return found


def _source(stage: Stage, name: str, number: int, rows: int) -> Key:
    """Which output a stage of a round means by a name; `rows` is the round whose files its unlabeled rows are from."""
    if name == "ingest":
        return name, rows if stage.name in _READS_ROWS else 0
    if name == "warmup" and number:
        return "finetune", number - 1
    return name, 0 if name in _ONCE else rows if name in _OF_NEW_ROWS else number


def of_round(run_config: RunConfig, number: int) -> RunConfig:
    """The config as a round sees it.

    A collaborator with the weights of round N takes part in the rounds after it. After round 0 what labels (`warm`) and
    what the training starts from are the last evolved model.
    """
    taking_part = [who for who in run_config.label.collaborators if who.takes_part(number)]
    start_from = "warm" if number else run_config.finetune.start_from
    return replace(
        run_config,
        label=replace(run_config.label, collaborators=taking_part),
        finetune=replace(run_config.finetune, start_from=start_from),
    )


def settled(records: Mapping[int, Record], listing: Iterable[FileEntry]) -> list[Round]:
    """The rounds up to the last one with files of its own, as they were begun.

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
    """The files that belong to no round yet: those not recorded with equal size and time."""
    known = {file for one in rounds for file in one.files}
    return tuple(file for file in listing if file not in known)


def following(rounds: Sequence[Round], run_config: RunConfig, gained: bool | None, arrived: Files) -> Round | None:
    """The round after these; None where there is none, or none yet.

    Args:
        gained: of the last round, as by `gained`; None while it is not finished.
        arrived: files that belong to no round yet.
    """
    number = rounds[-1].number + 1
    if _more_planned(rounds, run_config) and not stopped_early(rounds, run_config, gained):
        return Round(number)
    return Round(number, arrived) if arrived and gained is not None else None


def stopped_early(rounds: Sequence[Round], run_config: RunConfig, gained: bool | None) -> bool:
    """Whether more rounds over the same rows were wanted, and the last one says that they do not pay."""
    return run_config.stop_early and gained is False and _more_planned(rounds, run_config)


def _more_planned(rounds: Sequence[Round], run_config: RunConfig) -> bool:
    first = max(one.number for one in rounds if one.files)
    return rounds[-1].number + 1 - first < run_config.rounds


def gained(compared: Mapping[str, Any]) -> bool:
    """Whether a round is better than the one before, beyond noise; round 0, with none before it, is.

    Args:
        compared: the metrics of its evaluate/compare.
    """
    test = compared["paired"].get("evolved_vs_previous")
    if test is None:
        return True
    better: bool = compared["accuracy"]["evolved"] > compared["accuracy"]["previous"]
    return better and test["p_value"] < _SIGNIFICANT
