"""The config of a whole run. `docs/reference/config.md` is generated from it (`semievol schema --markdown`)."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from semievol.config.labeling import EmbeddingConfig, EvaluateConfig, LabelConfig, RetrieveConfig, SelectConfig
from semievol.config.running import EngineConfig, LimitsConfig, ResourcesConfig, ServingConfig
from semievol.config.section import FolderName, Section, with_kind
from semievol.config.training import DeepSpeedTrainer, FinetuneConfig, Trainer, WarmupConfig
from semievol.tasks import KINDS, Task
from semievol.tasks.multiple_choice import MultipleChoice

if TYPE_CHECKING:
    AnyTask = Task
else:
    AnyTask = Annotated[reduce(or_, KINDS.values()), Field(discriminator="kind"), with_kind("multiple_choice")]


class Columns(Section):
    """Names of the input columns, as they stand in your files."""

    question: str = "question"
    options: str | None = "options"
    """A list, or a JSON list as text: multiple choice needs it, other kinds show it if there. null: ignore it."""
    answer: str = "answer"
    """Multiple choice: a letter (A is the first option) or the text of one option."""
    context: str | None = None
    """A passage that the question is about."""
    stratum: str | None = None
    """A group of rows (a subject, a source) for `select.per: stratum`."""
    oracle: str | None = None
    """The true answer of *unlabeled* rows. It is only ever used to measure pseudo-labels."""


class DataConfig(Section):
    """Where the rows are: a file, a folder, a glob or a URI each.

    Files are CSV, TSV, JSON, JSONL (optionally .gz, .zst or .bz2), Parquet, Arrow, spreadsheets, or TXT with one unlabeled text a line.
    `hf://datasets/OWNER/NAME[@REVISION][/SUBSET][/SPLIT]` is a split on the Hugging Face hub. A folder may be one that `datasets`
    has saved; keys in the names of folders (`label=pos/`) are columns.
    """

    labeled: str
    unlabeled: str
    test: str
    columns: Columns = Columns()
    exclude_test_overlap: bool = True
    """Keep rows that are in the test set too out of training."""


class ModelConfig(Section):
    """The base model M."""

    base: str
    """A local folder, a URI, or a Hugging Face id."""


class RunConfig(Section):
    """A whole run, in YAML. Every key can also be set on the command line, as `key=value`."""

    name: FolderName
    """The run's folder is `<storage>/<name>/`."""
    preset: Literal["default", "paper", "released"] = "default"
    """Settings to start from, which this file changes (semievol/config/presets)."""
    storage: str = "runs"
    """A folder or any pyarrow filesystem URI (s3://, gs://, hdfs://)."""
    seed: int = 0
    rounds: PositiveInt = 1
    """Rounds over the same unlabeled rows. Each labels with the evolved model of the last one, and trains it on."""
    stop_early: bool = True
    """Begin no further round after one that is no better than the last one (test rows, McNemar, p < 0.05)."""
    data: DataConfig
    task: AnyTask = MultipleChoice()
    """What kind of answer a row wants; the kind decides which other keys there are."""
    model: ModelConfig
    embedding: EmbeddingConfig = EmbeddingConfig()
    trainer: Trainer = DeepSpeedTrainer()
    """What fine-tunes; the kind decides which other keys there are."""
    warmup: WarmupConfig = WarmupConfig()
    retrieve: RetrieveConfig = RetrieveConfig()
    label: LabelConfig = LabelConfig()
    select: SelectConfig = SelectConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    engine: EngineConfig = EngineConfig()
    serving: ServingConfig = ServingConfig()
    resources: ResourcesConfig = ResourcesConfig()
    limits: LimitsConfig = LimitsConfig()

    @property
    def serving_gpus(self) -> float:
        """GPUs that each replica of a served model reserves, for each one that it is split over."""
        given = self.resources.serve.num_gpus
        return self.resources.label.num_gpus / self.engine.split if given is None else given
