"""The driver: the stages in order, what is done is skipped, what is not is resumed.

It knows stages and manifests; it knows no Ray Data, vLLM or DeepSpeed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from semievol import cluster, embedding, endpoint, lease, paths, report, storage
from semievol import config as configuration
from semievol.config import RunConfig
from semievol.errors import UserError
from semievol.progress import Console
from semievol.runfolder import Manifest, RunFolder, StageResult, fingerprint
from semievol.stages.context import StageContext

Echo = Callable[[str], None]
STARTED = "_started.json"


@dataclass(frozen=True)
class Stage:
    """A step of the run: where its function is, whose output it reads, which settings its output depends on."""

    name: str
    function: str
    needs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    reads: str = ""  # a model that is no stage's output: base | embedding
    actors: str = ""  # the key under `resources` that says what it asks for


# Only what changes a stage's output. Knobs of speed (batch sizes, commit sizes, memory) may change between attempts
# without losing what is committed.
_ENGINE = ("engine.kind", "engine.endpoint", "engine.dtype", "engine.max_model_len", "task", "seed")
_EVALUATED = (*_ENGINE, "evaluate.max_tokens")
_LABELED = (
    *(*_ENGINE, "engine.top_logprobs"),
    *("label.collaborators", "label.mode", "label.justify", "label.max_tokens"),
)
_TRAINER = ("trainer.kind", "trainer.endpoint", "trainer.learning_rate_multiplier")
_EMBEDDED = ("embedding.max_length", "retrieve")
STAGES = (
    Stage("ingest", "ingest:run", (), ("data", "task", "limits.max_row_bytes")),
    Stage("index", "retrieve:run_index", ("ingest",), _EMBEDDED, "embedding", "embed"),
    Stage("warmup", "train:run_warmup", ("ingest", "index"), ("task", "warmup", "seed", *_TRAINER), "base", "train"),
    Stage("retrieve", "retrieve:run", ("ingest", "index"), _EMBEDDED, "embedding", "embed"),
    Stage("label", "label:run", ("ingest", "warmup", "retrieve"), _LABELED, "", "label"),
    Stage("select", "select:run", ("label",), ("select",)),
    Stage(
        "finetune",
        "train:run_finetune",
        ("ingest", "warmup", "select"),
        ("task", "finetune", "seed", *_TRAINER),
        "base",
        "train",
    ),
    Stage("evaluate/base", "evaluate:run_model", ("ingest",), _EVALUATED, "base", "label"),
    Stage("evaluate/warm", "evaluate:run_model", ("ingest", "warmup"), _EVALUATED, "", "label"),
    Stage("evaluate/evolved", "evaluate:run_model", ("ingest", "finetune"), _EVALUATED, "", "label"),
    Stage(
        "evaluate/compare",
        "evaluate:run",
        ("ingest", "select", "evaluate/base", "evaluate/warm", "evaluate/evolved"),
        ("task", "evaluate.confidence_level"),
    ),
)


def needs(stage: Stage, run_config: RunConfig) -> tuple[str, ...]:
    """The stages whose output it reads in this run."""
    if stage.name == "warmup" and run_config.warmup.context == "none":
        return ("ingest",)  # else another embedding model would make another warm-up
    return stage.needs


@dataclass(frozen=True)
class Planned:
    """A stage as `plan` sees it."""

    stage: str
    state: str  # done | resume | to do
    rows_in: int | None
    rows_out: int | None
    asks: str


def stages_until(name: str | None) -> tuple[Stage, ...]:
    """The stages up to this one, or all.

    Raises:
        UserError: there is no such stage.
    """
    names = [stage.name for stage in STAGES]
    if name is not None and name not in names:
        raise UserError(f"--until: no stage '{name}'; the stages are {', '.join(names)}")
    return STAGES[: names.index(name) + 1] if name else STAGES


class Pipeline:
    """One run of one config."""

    def __init__(self, run_config: RunConfig, echo: Echo) -> None:
        self.config = paths.absolute(run_config)
        self.folder = RunFolder(self.config.storage, self.config.name)
        self._echo = echo
        self._console = Console(echo, self.folder.write_status)
        self._fingerprints = self._all_fingerprints()

    def plan(self) -> list[Planned]:
        """What `run` would do, without doing it and without starting anything."""
        return [self._plan(stage) for stage in STAGES]

    def run(self, until: str | None = None, variables: Sequence[str] = ()) -> dict[str, Any]:
        """Go through the stages, to the end or to `until`; returns the summary that is also written to summary.json.

        Args:
            variables: names of environment variables that every node must have.

        Raises:
            UserError: something the user can mend.
        """
        stages = stages_until(until)
        new = not storage.exists(self.folder.uri)
        started = time.monotonic()
        try:
            with lease.held(self.folder.uri, self._echo) as owner:
                if not all(self._done(stage) for stage in stages):
                    cluster.connect(self.config)
                    needed = [*variables, *endpoint.variables(self.config)]
                    cluster.check_nodes(self.config, self.folder.uri, owner, needed)
                manifests = {stage.name: self._done_or_run(stage) for stage in stages}
                summary = report.summary(self.folder.uri, self.config, manifests, time.monotonic() - started)
                self.folder.write_json("summary.json", summary)
                storage.write_text(storage.join(self.folder.uri, "README.md"), report.run_readme(summary))
                self.folder.write_status(stage=until or "", state="stopped as asked" if until else "finished")
                return summary
        except UserError:
            mine = not storage.exists(storage.join(self.folder.uri, lease.FILE))
            if new and mine and not self.folder.manifest(STAGES[0].name):
                storage.delete(self.folder.uri)  # nothing half-written
            raise

    def _done_or_run(self, stage: Stage) -> Manifest:
        manifest = self._done(stage)
        if manifest is None:
            return self._run_stage(stage)
        self._echo(_line(manifest, skipped=True))
        return manifest

    def _run_stage(self, stage: Stage) -> Manifest:
        out = self.folder.stage(stage.name)
        self._prepare(stage, out)
        module, _, function = stage.function.partition(":")
        run: Callable[[StageContext], StageResult] = getattr(import_module(f"semievol.stages.{module}"), function)
        inputs = {name: self.folder.stage(name) for name in needs(stage, self.config)}
        self.folder.write_status(stage=stage.name, state="running")
        started = time.monotonic()
        try:
            result = run(StageContext(stage.name, self.config, out, inputs, self._console))
        except BaseException as error:
            self.folder.write_status(stage=stage.name, state="failed", error=type(error).__name__)
            if mendable := cluster.user_error(error):
                raise mendable from None
            raise
        manifest = self.folder.commit(stage.name, self._fingerprints[stage.name], result, time.monotonic() - started)
        self._echo(_line(manifest, skipped=False))
        return manifest

    def _prepare(self, stage: Stage, out: str) -> None:
        """Keep the leftovers of the same work, which the stage resumes; remove those of any other."""
        marker = storage.join(out, STARTED)
        print_of_leftovers = storage.read_text(marker) if storage.exists(marker) else None
        if print_of_leftovers != self._fingerprints[stage.name] or self.folder.manifest(stage.name):
            self.folder.discard(stage.name)
        storage.write_text(marker, self._fingerprints[stage.name])
        storage.write_text(storage.join(self.folder.uri, "config.yaml"), configuration.to_yaml(self.config))
        self.folder.write_json("run.json", {"name": self.config.name, "fingerprints": self._fingerprints})

    def _done(self, stage: Stage) -> Manifest | None:
        manifest = self.folder.manifest(stage.name)
        matches = manifest is not None and manifest.fingerprint == self._fingerprints[stage.name]
        return manifest if matches else None

    def _plan(self, stage: Stage) -> Planned:
        manifest = self._done(stage)
        marker = storage.join(self.folder.stage(stage.name), STARTED)
        begun = storage.exists(marker) and storage.read_text(marker) == self._fingerprints[stage.name]
        state = "done" if manifest else "resume" if begun else "to do"
        asks = "1 CPU"
        if stage.actors:
            pool = getattr(self.config.resources, stage.actors)
            count = pool.workers if stage.actors == "train" else pool.actors
            asks = f"{count} x {pool.num_cpus:g} CPU" + (f", {pool.num_gpus:g} GPU" if pool.num_gpus else "")
        rows = manifest.rows if manifest else None
        return Planned(stage.name, state, rows.came_in if rows else None, rows.out if rows else None, asks)

    def _all_fingerprints(self) -> dict[str, str]:
        """Of every stage, from the config and the input files alone; also finds what is wrong with those."""
        from semievol.stages.ingest import inputs

        files = [asdict(entry) for entries in inputs(self.config.data).values() for entry in entries]
        models = {
            "base": _base_identity(self.config),
            "embedding": _model_identity("embedding.model", embedding.model_path(self.config.embedding.model)),
        }
        found: dict[str, str] = {}
        for stage in STAGES:
            settings = {key: _setting(self.config, key) for key in stage.settings}
            own = files if stage.name == "ingest" else models.get(stage.reads, [])
            found[stage.name] = fingerprint(stage.name, settings, [own, [found[n] for n in needs(stage, self.config)]])
        return found


def _setting(run_config: RunConfig, key: str) -> Any:
    value: Any = configuration.to_dict(run_config)
    for part in key.split("."):
        value = value[part]
    return value


def _line(manifest: Manifest, *, skipped: bool) -> str:
    rows = manifest.rows
    lost = [f"{n:,} {what}" for n, what in _losses(manifest) if n]
    took = "done before" if skipped else f"{manifest.seconds:,.0f} s"
    counts = f"{rows.came_in:,} in, {rows.out:,} out" + (f", {', '.join(lost)}" if lost else "")
    return f"{manifest.stage:<17} {took:>11}  {counts}; {manifest.headline}"


def _losses(manifest: Manifest) -> list[tuple[int, str]]:
    rows = manifest.rows
    return [(rows.quarantined, "quarantined"), (rows.duplicates, "duplicates"), (rows.leaks, "held back as leaks")]


def _base_identity(run_config: RunConfig) -> list[Any]:
    if run_config.engine.kind == "openai":
        return [run_config.model.base, run_config.engine.endpoint]  # a name there
    return _model_identity("model.base", run_config.model.base)


def _model_identity(key: str, model: str) -> list[Any]:
    """What tells one model from another: names, sizes and times of its files, or its commit on the hub.

    Raises:
        UserError: there is no such model, before anything starts.
    """
    if paths.is_path(model) or "://" in model:
        if not storage.exists(storage.join(model, "config.json")):
            raise UserError(f"{key}: no model at '{model}' (a folder with config.json, a URI, or a Hugging Face id)")
        return [[file.uri, file.size, file.mtime_ns] for file in storage.find(model)]
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(model, "config.json")
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{key}: '{model}' is no local folder, and the hub did not give it: {error}") from None
    return [model, path.split("/")[-2]]  # .../snapshots/<commit>/config.json
