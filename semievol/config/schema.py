"""The config of a whole run. `docs/reference/config.md` is generated from it (`semievol schema --markdown`)."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from semievol.config.labeling import (
    Collaborator,
    EmbeddingConfig,
    EvaluateConfig,
    LabelConfig,
    RetrieveConfig,
    SelectConfig,
)
from semievol.config.prompting import PromptConfig
from semievol.config.running import EngineConfig, LimitsConfig, ResourcesConfig, ServingConfig
from semievol.config.section import FilesOrShare, FolderName, Section, with_kind
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
    """A list, also written as text, or a mapping of letters to texts: multiple choice needs it, classification ignores it, other kinds show it if there.
    null: ignore it."""
    answer: str = "answer"
    """Multiple choice: a letter (A is the first option) or the text of one option. Classification: a label."""
    context: str | None = None
    """A passage that the question is about."""
    stratum: str | None = None
    """A group of rows (a subject, a source) for `select.per: stratum`."""
    oracle: str | None = None
    """The true answer of *unlabeled* rows. It is only ever used to measure pseudo-labels. If it is the column of a chat, the
    oracle is the assistant's last turn."""
    messages: str | None = "messages"
    """The column of `task.kind: chat`: a list of messages, of texts that take turns or of pairs, JSON text too, or a transcript.
    Default: `messages`, or `conversations`, `conversation`, `dialog`, `contents`, `turns`, `data`. A file without them has
    `instruction`, `prompt`, `query` or `question` (or the one named above), and `output`, `completion`, `response` or
    `answer`; also `input`, `system`, `history`. null: only those."""


class DataConfig(Section):
    """Where the rows are: a file, a folder, a glob or a URI each.

    Files are CSV, TSV, JSON, JSONL (optionally .gz, .zst or .bz2), Parquet, Arrow, spreadsheets, or TXT with one unlabeled text a line.
    `hf://datasets/OWNER/NAME[@REVISION][/SUBSET][/SPLIT]` is a split on the Hugging Face hub. A folder may be one that `datasets`
    has saved; keys in the names of folders (`label=pos/`) are columns.
    """

    labeled: str
    unlabeled: str
    test: FilesOrShare
    """Or a fraction such as 0.2: the share of the labeled rows to hold back, of each label. A hash of each row decides."""
    validation: FilesOrShare | None = None
    """Likewise. By these rows `stop_early` and `promote` decide, where there are any; test rows are then only reported on."""
    columns: Columns = Columns()
    exclude_test_overlap: bool = True
    """Keep rows that are among the test or validation rows too out of training."""

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        for split in ("labeled", "unlabeled", "test", "validation"):
            if getattr(self, split) == "":
                raise ValueError(f"{split}: the path is empty")
        if (total := sum(self.carved.values())) >= 1:
            raise ValueError(
                f"test and data.validation hold back {total:g} of the labeled rows; they must leave some to learn from"
            )
        return self

    @property
    def carved(self) -> dict[str, float]:
        """Return the shares of the labeled rows that are held back, by the split that they become."""
        given = {"test": self.test, "validation": self.validation}
        return {split: share for split, share in given.items() if isinstance(share, float)}


class ModelConfig(Section):
    """The base model M."""

    base: str
    """A local folder, a URI, or a Hugging Face id."""
    chat_template: str | None = None
    """A file or URI of a Jinja template to use instead of the model's own, or one that comes with the package: `plain` (roles
    as text; the end of a sequence ends a response), `chatml` (<|im_start|>, <|im_end|>) or `alpaca` (### Instruction:). A
    model without a template gets `plain`. The token that ends a turn is found from the template."""
    thinking: Literal["off", "on"] = "off"
    """Whether a model that can think does so before it answers. `off`: prompts end behind an empty thought, where the
    model's template has one. `on`: leave room for thoughts in `label.max_tokens` and `evaluate.max_tokens`; a thought that
    does not end is no answer."""

    @field_validator("thinking", mode="before")
    @classmethod
    def _as_word(cls, value: object) -> object:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value  # YAML reads both as booleans


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
    """Begin no further round after one that is no better than the last one (McNemar, p < 0.05). Validation rows decide, or
    test rows where there are none."""
    data: DataConfig
    task: AnyTask = MultipleChoice()
    """What kind of answer a row wants; the kind decides which other keys there are."""
    prompt: PromptConfig = PromptConfig()
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

    @model_validator(mode="after")
    def _complete(self) -> RunConfig:
        if self.folds and "collaborators" not in self.label.model_fields_set:
            committee = [Collaborator(name="committee", k=0)]
            self.label = self.label.model_copy(update={"collaborators": committee})
        return self

    @property
    def folds(self) -> int | None:
        """Return into how many folds the labeled rows are dealt; None where there is no committee."""
        return self.warmup.members if self.warmup.members > 1 else None

    @property
    def member_styles(self) -> list[str]:
        """Return the style of each member's prompts; of a single warm model `plain`."""
        styles = self.warmup.styles or list(self.prompt.styles)
        return [styles[m % len(styles)] for m in range(self.warmup.members)] if self.folds else ["plain"]

    @property
    def voters(self) -> list[Collaborator]:
        """Return the collaborators of round 0: one that asks a committee becomes one for each member, NAME@warm-m."""
        found = []
        for who in self.label.collaborators:
            if self.folds and who.kind == "model" and who.model == "warm" and not who.endpoint:
                each = [
                    {"name": f"{who.name}@warm-{m}", "model": f"warm-{m}", "prompt": s}
                    for m, s in enumerate(self.member_styles)
                ]
                found += [who.model_copy(update=update) for update in each]
            else:
                found.append(who)
        return found

    @property
    def endpoints(self) -> list[str]:
        """Return the keys of what lets an endpoint answer when rows are labeled."""
        engine = ["engine.kind: openai"] if self.engine.kind == "openai" else []
        return engine + [f"label.collaborators[{i}]" for i, c in enumerate(self.label.collaborators) if c.endpoint]

    @property
    def label_how(self) -> dict[str, Any]:
        """Return how collaborators are asked: the mode that `auto` stands for, and what matters with it."""
        several = any(c.samples > 1 for c in self.label.collaborators)
        mode = self._mode(self.label.mode, sampled=bool(self.endpoints) or several)
        justify = not self.folds if self.label.justify is None else self.label.justify
        return _how(mode, self.label.max_tokens) | {"justify": justify}

    @property
    def evaluate_how(self) -> dict[str, Any]:
        """Return how models are asked for the test rows, as `label_how` does."""
        mode = self._mode(self.evaluate.mode, sampled=self.engine.kind == "openai")
        return _how(mode, self.evaluate.max_tokens)

    def _mode(self, given: str, *, sampled: bool) -> str:
        if given != "auto":
            return given
        thinks = self.model.thinking == "on"  # scores leave no room for that
        return "score" if self.task.scored and not sampled and not thinks else "sample"

    @property
    def candidates_task(self) -> dict[str, Any] | None:
        """Return the task that retrieval finds candidates for; None where prompts list none."""
        return self.task.model_dump() if self.task.lists_candidates else None

    @property
    def warmup_prompt(self) -> dict[str, Any]:
        """Return what the prompts of the warm-up depend on."""
        styles = {"styles": [self.prompt.styles[style] for style in self.member_styles]} if self.folds else {}
        return self.prompt.output_settings(examples=self.warmup.context != "none") | styles

    @property
    def label_prompt(self) -> dict[str, Any]:
        """Return what the prompts of the collaborators depend on."""
        asked = [c for c in self.label.collaborators if c.kind == "model"]
        styles = {c.prompt: self.prompt.styles[c.prompt] for c in asked}
        return self.prompt.output_settings(examples=any(c.k for c in asked)) | {"styles": styles}

    @property
    def evaluate_prompt(self) -> dict[str, Any]:
        """Return what the prompts of the test rows depend on."""
        return self.prompt.output_settings(examples=self.evaluate.k > 0)

    @property
    def finetune_prompt(self) -> dict[str, Any]:
        """Return what the prompts of the final training depend on."""
        return self.prompt.output_settings(examples=False)

    @property
    def serving_gpus(self) -> float:
        """GPUs that each replica of a served model reserves, for each one that it is split over."""
        given = self.resources.serve.num_gpus
        return self.resources.label.num_gpus / self.engine.split if given is None else given


def _how(mode: str, max_tokens: int) -> dict[str, Any]:
    return {"mode": mode} | ({"max_tokens": max_tokens} if mode == "sample" else {})
