"""Impossible values and combinations, each named by its key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from operator import attrgetter

from semievol.config.schema import CONFIDENCES, RunConfig, ServingConfig
from semievol.errors import UserError

SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")  # of transformers
_POSITIVE = (
    *(f"{train}.{key}" for train in ("warmup", "finetune") for key in ("epochs", "learning_rate", "batch_size")),
    *(f"{train}.{key}" for train in ("warmup", "finetune") for key in ("per_device_batch_size", "max_length")),
    *("warmup.lora.rank", "finetune.lora.rank", "embedding.batch_size", "embedding.max_length"),
    *("rounds", "label.max_tokens", "label.rows_per_commit", "select.max_per_answer", "evaluate.max_tokens"),
    *(
        "engine.max_model_len",
        "engine.max_num_seqs",
        "engine.start_timeout_s",
        "engine.kv_cache_gib",
        "engine.concurrency",
        "engine.timeout_s",
        "trainer.learning_rate_multiplier",
        "trainer.poll_s",
        "limits.max_row_bytes",
        "limits.no_progress_s",
        "retrieve.exact_up_to",
    ),
    *(f"serving.{key}" for key in ("concurrency", "max_body_bytes", "max_tokens", "default_max_tokens", "max_n")),
    *(f"serving.{key}" for key in ("timeout_s", "replicas", "endpoint_replicas")),
    *("resources.embed.actors", "resources.label.actors", "resources.train.workers", "resources.local_num_cpus"),
    *("warmup.lora.alpha", "finetune.lora.alpha"),
)
_NOT_NEGATIVE = (
    *("retrieve.k", "evaluate.k", "engine.retries", "serving.neighbors", "serving.tolerance"),
    *("warmup.weight_decay", "finetune.weight_decay"),
    *(f"resources.{pool}.{what}" for pool in ("embed", "label", "train", "serve") for what in ("num_cpus", "num_gpus")),
)


def check(config: RunConfig) -> None:
    """Impossible values and combinations, each named by its key."""
    from semievol.method.prompts import STYLES
    from semievol.tasks import KINDS, needs_options

    def require(ok: bool, message: str) -> None:
        if not ok:
            raise UserError(message)

    def one_of(key: str, value: str, allowed: Iterable[str]) -> None:
        require(value in allowed, f"{key}: '{value}' is none of {', '.join(allowed)}")

    require(
        re.fullmatch(r"[\w][\w.-]*", config.name) is not None,
        f"name: '{config.name}' names a folder: letters, digits, . _ -",
    )
    for key in _POSITIVE:
        value = attrgetter(key)(config)
        require(value is None or value > 0, f"{key}: {value} is not positive")
    for key in _NOT_NEGATIVE:
        value = attrgetter(key)(config)
        require(value is None or value >= 0, f"{key}: must not be negative, is {value}")
    require(0 < config.evaluate.confidence_level < 1, "evaluate.confidence_level: not between 0 and 1")
    one_of("task.kind", config.task.kind, KINDS)
    require(0 <= config.task.tolerance < 1, f"task.tolerance: {config.task.tolerance} is not in [0, 1)")
    require(0 < config.task.similarity <= 1, f"task.similarity: {config.task.similarity} is not in (0, 1]")
    require(
        config.data.columns.options is not None or not needs_options(config.task),
        f"data.columns.options: {config.task.kind} needs a column of options",
    )
    one_of("warmup.context", config.warmup.context, ("none", "knn", "mixed"))
    require(
        config.warmup.context == "none" or 0 < config.warmup.k <= config.retrieve.k,
        f"warmup.k: {config.warmup.k} is not between 1 and retrieve.k = {config.retrieve.k}",
    )
    one_of("engine.kind", config.engine.kind, ("vllm", "openai"))
    require(0 <= config.engine.top_logprobs <= 20, "engine.top_logprobs: not between 0 and 20")
    one_of("label.mode", config.label.mode, ("sample", "score"))
    one_of("select.confidence", config.select.confidence, CONFIDENCES)
    one_of("select.per", config.select.per, ("all", "answer", "stratum"))
    require(
        config.select.per != "stratum" or config.data.columns.stratum is not None,
        "select.per: stratum needs data.columns.stratum, the column that names each row's group",
    )
    closed = needs_options(config.task)  # answers are some of a few options
    for key, wants in (
        ("select.per: answer", config.select.per == "answer"),
        ("select.max_per_answer", config.select.max_per_answer is not None),
        ("label.mode: score", config.label.mode == "score"),
    ):
        require(
            closed or not wants, f"{key} needs answers from a closed set, which task.kind: {config.task.kind} has not"
        )
    require(
        config.select.confidence != "token_entropy" or config.engine.top_logprobs > 0,
        "select.confidence: token_entropy (the default) is made of engine.top_logprobs, which is 0; nll and vote_entropy "
        "need none",
    )
    for key in ("select.theta", "select.sample"):
        value = getattr(config.select, key.removeprefix("select."))
        require(0 < value <= 1, f"{key}: {value} is not in (0, 1]")
    require(0 <= config.select.min_agreement <= 1, "select.min_agreement: not in [0, 1]")
    require(
        not config.select.ceiling or config.data.columns.oracle is not None,
        "select.ceiling: needs data.columns.oracle, the column with the true answers of unlabeled rows",
    )
    one_of("finetune.start_from", config.finetune.start_from, ("base", "warm"))
    require(0 <= config.limits.max_bad_fraction <= 1, "limits.max_bad_fraction: not in [0, 1]")
    one_of("limits.bad_shards", config.limits.bad_shards, ("stop", "quarantine"))
    one_of("retrieve.by", config.retrieve.by, ("embedding", "bm25"))
    _check_serving(config.serving, require)
    _check_endpoints(config, require)
    collaborators = config.label.collaborators
    require(len(collaborators) > 0, "label.collaborators: at least one is needed")
    require(
        any(c.takes_part(0) for c in collaborators),
        "label.collaborators: none takes part in round 0; those with model: round-N take part in the rounds after N only",
    )
    names = [c.name for c in collaborators]
    require(len(set(names)) == len(names), f"label.collaborators: names must differ, got {names}")
    for i, c in enumerate(collaborators):
        key = f"label.collaborators[{i}]"
        require(0 <= c.k <= config.retrieve.k, f"{key}.k: {c.k} is not between 0 and retrieve.k = {config.retrieve.k}")
        one_of(f"{key}.kind", c.kind, ("model", "neighbors"))
        require(c.k > 0 or c.kind == "model", f"{key}.k: neighbors that vote must be at least 1")
        require(
            c.kind == "model" or config.retrieve.by == "embedding", f"{key}.kind: neighbors vote by cosine, not by bm25"
        )
        require(
            c.kind == "model" or config.task.kind not in ("numeric", "open_ended"),
            f"{key}.kind: the answer of another row says nothing about this one where task.kind is {config.task.kind}",
        )
        limits = f"{key}.temperature: {c.temperature:g} is neither 0 nor from 0.01 to 2"
        require(c.temperature == 0 or 0.01 <= c.temperature <= 2, limits)  # as in vLLM
        require(c.samples == 1 or c.temperature > 0, f"{key}.samples: more than one needs a temperature above 0")
        require(
            c.samples == 1 or config.label.mode == "sample", f"{key}.samples: more than one needs label.mode: sample"
        )
        require(c.samples > 0, f"{key}.samples: {c.samples} is not positive")
        one_of(f"{key}.order", c.order, ("nearest_last", "nearest_first"))
        one_of(f"{key}.prompt", c.prompt, STYLES)
    for how in ("tensor", "pipeline"):
        size = config.engine.extra.get(f"{how}_parallel_size", 1)
        require(type(size) is int and size > 0, f"engine.extra.{how}_parallel_size: {size} is no positive whole number")
    split, gpus = config.engine.split, config.resources.label.num_gpus
    require(
        gpus in (0, split) or 0 < gpus < split == 1,
        f"resources.label.num_gpus: is {gpus:g}, where engine.extra splits a model over {split} GPUs of a node "
        "(tensor_parallel_size x pipeline_parallel_size)",
    )
    for key, pool in (("embed", config.resources.embed), ("label", config.resources.label)):
        require(
            pool.max_actors is None or pool.max_actors >= pool.actors,
            f"resources.{key}.max_actors: {pool.max_actors} is below resources.{key}.actors = {pool.actors}",
        )
    for key, train in (("warmup", config.warmup), ("finetune", config.finetune)):
        per_step = train.per_device_batch_size * config.resources.train.workers
        one_of(f"{key}.scheduler", train.scheduler, SCHEDULERS)
        require(0 <= train.warmup_ratio < 1, f"{key}.warmup_ratio: {train.warmup_ratio} is not in [0, 1)")
        require(0 <= train.lora.dropout < 1, f"{key}.lora.dropout: {train.lora.dropout} is not in [0, 1)")
        require(train.zero_stage in (0, 1, 2, 3), f"{key}.zero_stage: {train.zero_stage} is none of 0, 1, 2, 3")
        require(
            config.trainer.kind == "openai" or (train.batch_size >= per_step and train.batch_size % per_step == 0),
            f"{key}.batch_size: {train.batch_size} is no multiple of {key}.per_device_batch_size x "
            f"resources.train.workers = {per_step}",
        )


def _check_serving(serving: ServingConfig, require: Callable[[bool, str], None]) -> None:
    for name in serving.models:
        ok = name in ("base", "warm", "evolved") or re.fullmatch(r"round-\d+", name) is not None
        require(ok, f"serving.models: '{name}' is none of base, warm, evolved, round-N")
    require(len(set(serving.models)) == len(serving.models) > 0, "serving.models: name at least one, and none twice")
    rate = re.fullmatch(r"[1-9]\d*/(second|minute|hour|day)", serving.rate)
    require(rate is not None, f"serving.rate: '{serving.rate}' is not like 600/minute (second, minute, hour, day)")
    require(0 < serving.port < 65536, f"serving.port: {serving.port} is no port")
    require(0 <= serving.min_confidence <= 1, "serving.min_confidence: not in [0, 1]")
    require(
        not serving.in_context or serving.neighbors > 0, "serving.in_context: needs serving.neighbors of at least 1"
    )


def _check_endpoints(config: RunConfig, require: Callable[[bool, str], None]) -> None:
    """What OpenAI-compatible endpoints need, and what they cannot do."""
    endpoints = {"engine.endpoint": config.engine.endpoint} if config.engine.kind == "openai" else {}
    for i, who in enumerate(config.label.collaborators):
        if who.kind == "model" and who.endpoint is not None:
            endpoints[f"label.collaborators[{i}].endpoint"] = who.endpoint
    trainer = config.trainer
    require(trainer.kind in ("deepspeed", "openai"), f"trainer.kind: '{trainer.kind}' is none of deepspeed, openai")
    require(
        (trainer.kind == "openai") == (config.engine.kind == "openai"),
        f"trainer.kind: {trainer.kind} with engine.kind: {config.engine.kind}: what one makes the other cannot ask. Use "
        f"openai for both, or deepspeed with vllm (a collaborator's own endpoint goes with those too)",
    )
    if trainer.kind == "openai":
        for key, epochs in (("warmup", config.warmup.epochs), ("finetune", config.finetune.epochs)):
            require(
                epochs == int(epochs), f"{key}.epochs: {epochs:g} is no whole number, which trainer.kind: openai needs"
            )
        if trainer.endpoint is not None:
            endpoints["trainer.endpoint"] = trainer.endpoint
    for key, url in endpoints.items():
        ok = re.fullmatch(r"https?://[^/\s]+(/\S*)?", url) is not None
        require(ok, f"{key}: '{url}' is no base URL of an API, as in http://host:8000/v1")
        require(
            config.label.mode == "sample",
            f"label.mode: score needs the exact probabilities of given responses, which only engine.kind: vllm gives; "
            f"{key} names an endpoint. Use label.mode: sample",
        )
    for kind, price in (
        ("input", config.engine.price_per_million.input),
        ("output", config.engine.price_per_million.output),
    ):
        require(price is None or price >= 0, f"engine.price_per_million.{kind}: must not be negative")
