"""Settings for execution: engines, cluster resources, the serving endpoint, and limits."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from semievol.config.section import BaseURL, Options, Section, Share

# Arguments of vLLM's EngineArgs that change how fast it answers, and not what.
_SPEED = {
    *("gpu_memory_utilization", "tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend"),
    *("max_num_batched_tokens", "enable_prefix_caching", "enable_chunked_prefill", "enforce_eager", "block_size"),
}


class PriceConfig(Section):
    """What an endpoint charges for a million tokens, in any currency. Costs are counted where both are set."""

    input: NonNegativeFloat | None = None
    output: NonNegativeFloat | None = None


class EngineConfig(Section):
    """What answers prompts: vLLM on the cluster, or an OpenAI-compatible endpoint."""

    kind: Literal["vllm", "openai"] = "vllm"
    endpoint: BaseURL = "https://api.openai.com/v1"
    """The base URL, for `kind: openai`."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable with the endpoint's key, also a collaborator's. A config never holds a key."""
    concurrency: PositiveInt = 32
    """Requests in flight to an endpoint, of each labeler."""
    timeout_s: PositiveFloat = 120.0
    """Seconds that an endpoint has for a request."""
    retries: NonNegativeInt = 10
    """Retries after 429, 5xx or a lost connection. Waits grow from 0.5 s to 8 s, unless Retry-After sets them."""
    price_per_million: PriceConfig = PriceConfig()
    dtype: str = "auto"
    """Default: the model's own; float32 on a CPU that cannot multiply bfloat16."""
    max_model_len: PositiveInt | None = None
    """Default: the model's own limit."""
    max_num_seqs: PositiveInt = 128
    """Prompts that vLLM answers at a time."""
    start_timeout_s: PositiveFloat = 3600.0
    """Seconds that an engine may take to load. After that it is restarted; it is started at most three times."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 5
    """Next tokens that `select.confidence: token_entropy` is computed from."""
    kv_cache_gib: PositiveFloat = 1.0
    """The CPU build's KV cache; float32 needs twice as much. On a GPU use `extra.gpu_memory_utilization`."""
    extra: Options = {}
    """Further arguments of vLLM's `EngineArgs`, passed on as they are."""

    @model_validator(mode="after")
    def _check(self) -> EngineConfig:
        for key in ("tensor_parallel_size", "pipeline_parallel_size"):
            size = self.extra.get(key, 1)
            if type(size) is not int or size < 1:
                raise ValueError(f"extra.{key}: must be a positive whole number, is {size!r}")
        return self

    @property
    def split(self) -> int:
        """GPUs that a model is split over."""
        return math.prod(self.extra.get(f"{how}_parallel_size", 1) for how in ("tensor", "pipeline"))

    @property
    def output_extra(self) -> Options:
        """Return the part of `extra` that affects answers, without speed options."""
        return {key: value for key, value in self.extra.items() if key not in _SPEED}


class PoolResources(Section):
    """An actor pool: how many actors, and what each one reserves."""

    actors: PositiveInt = 1
    max_actors: PositiveInt | None = None
    """Upper bound when autoscaling. Default: `actors`."""
    num_cpus: NonNegativeFloat = 1.0
    num_gpus: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _check(self) -> PoolResources:
        if self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(f"max_actors: must be at least actors = {self.actors}, is {self.max_actors}")
        return self


class TrainResources(Section):
    """Ray Train workers, and what each one reserves."""

    workers: PositiveInt = 2
    num_cpus: NonNegativeFloat = 1.0
    num_gpus: NonNegativeFloat = 0.0


class ServeResources(Section):
    """What each replica of a served model reserves, for each GPU that it is split over."""

    num_cpus: NonNegativeFloat = 1.0
    num_gpus: NonNegativeFloat | None = None
    """Default: as a labeler."""


class ResourcesConfig(Section):
    """What the run asks of the cluster. On a GPU cluster set `num_gpus`; the rest of the config stays the same."""

    local_num_cpus: PositiveInt | None = None
    """CPUs declared to a local Ray. Default: all cores, or more if a stage needs more."""
    embed: PoolResources = PoolResources()
    label: PoolResources = PoolResources()
    train: TrainResources = TrainResources()
    serve: ServeResources = ServeResources()


class ServingConfig(Section):
    """The endpoint (`semievol serve`). Limits hold for each replica of the endpoint by itself."""

    models: list[str] = ["base", "evolved"]
    """Any of `base`, `warm`, `round-N` and `evolved`."""
    host: str = "127.0.0.1"
    """Any other address needs keys."""
    port: Annotated[int, Field(gt=0, lt=65536)] = 8000
    keys: str | None = None
    """A file or URI with one `NAME:sha256:HEX` a line. Default: the variable SEMIEVOL_API_KEYS."""
    rate: str = "6000/minute"
    """Rate limit per key: N/second, minute, hour or day."""
    concurrency: PositiveInt = 256
    """Concurrent requests per key."""
    max_body_bytes: PositiveInt = 1_048_576
    max_tokens: PositiveInt = 2048
    """Tokens of one response at most."""
    default_max_tokens: PositiveInt = 256
    """Tokens per response if the request sets no limit, or what the prompt leaves of the window."""
    max_n: PositiveInt = 8
    """Responses to one prompt at most."""
    timeout_s: PositiveFloat = 120.0
    """Seconds to a whole response, or to the first part of a streamed one."""
    replicas: PositiveInt = 1
    """Replicas of each model."""
    endpoint_replicas: PositiveInt = 1
    """Replicas of the endpoint in front of the models."""
    neighbors: NonNegativeInt = 3
    """Nearest labeled rows that /v1/answer shows. 0 loads no embedding model."""
    in_context: bool = False
    """Put these rows into the prompt as solved examples."""
    min_confidence: Share = 0.0
    """Confidence below which /v1/answer abstains."""
    tolerance: NonNegativeFloat = 0.01
    """`promote` refuses a round whose accuracy on the validation rows is lower by more than this: than that of the model
    served now, or of `warm`. Without `data.validation` it compares nothing."""

    @model_validator(mode="after")
    def _check(self) -> ServingConfig:
        for name in self.models:
            if not re.fullmatch(r"base|warm|evolved|round-\d+", name):
                raise ValueError(f"models: must be base, warm, evolved or round-N, got '{name}'")
        if not len(set(self.models)) == len(self.models) > 0:
            raise ValueError("models: name at least one, and none twice")
        if not re.fullmatch(r"[1-9]\d*/(second|minute|hour|day)", self.rate):
            raise ValueError(f"rate: must be like 600/minute (second, minute, hour, day), is '{self.rate}'")
        if self.in_context and not self.neighbors:
            raise ValueError("in_context: needs serving.neighbors of at least 1")
        return self


class LimitsConfig(Section):
    """When bad data stops the run."""

    max_bad_fraction: Share = 0.1
    """Highest share of a stage's input rows that may be quarantined."""
    max_row_bytes: PositiveInt = 1_000_000
    """A longer row is quarantined."""
    bad_shards: Literal["stop", "quarantine"] = "stop"
    """What happens when a file cannot be read to its end. `quarantine` keeps the rows before."""
    no_progress_s: PositiveFloat = 600.0
    """An engine that finishes no row for this many seconds is replaced."""
