"""Checks across sections. Each section's own checks are in its class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from semievol.config.prompting import columns_of
from semievol.config.schema import RunConfig
from semievol.config.training import TrainConfig

# All that a trainer of kind openai reads of warmup and finetune. The keys of lora are looked at one by one.
_READ_BY_OPENAI = {
    *("epochs", "batch_size", "context", "k", "members", "styles", "start_from", "include_labeled", "lora")
}


def problems(config: RunConfig, preset: dict[str, Any]) -> Iterator[str]:
    """Yield what does not fit together. Each message begins with a key. `preset` has the settings of the config's preset."""
    yield from _task(config)
    yield from _collaborators(config)
    yield from _endpoints(config)
    yield from _chat(config)
    for key, train in (("warmup", config.warmup), ("finetune", config.finetune)):
        if config.trainer.kind == "openai":
            yield from _trained_by_openai(key, train, preset.get(key, {}))
        elif train.batch_size % (per_step := train.per_device_batch_size * config.resources.train.workers):
            product = f"{key}.per_device_batch_size x resources.train.workers = {per_step}"
            yield f"{key}.batch_size: must be a multiple of {product}, is {train.batch_size}"
    if config.evaluate.control and config.trainer.kind == "openai":
        yield "evaluate.control: needs trainer.kind: deepspeed; the API of trainer.kind: openai takes epochs and no number of steps"
    warmup, split, gpus = config.warmup, config.engine.split, config.resources.label.num_gpus
    for style in warmup.styles or ():
        if style not in config.prompt.styles:
            yield f"warmup.styles: prompt.styles has no '{style}'; it has {', '.join(config.prompt.styles)}"
    if warmup.styles == []:
        yield "warmup.styles: name at least one, or leave it out for all of prompt.styles"
    if warmup.context != "none" and not 0 < warmup.k <= config.retrieve.k:
        yield f"warmup.k: must be from 1 to retrieve.k = {config.retrieve.k}, is {warmup.k}"
    if config.select.confidence == "token_entropy" and not config.engine.top_logprobs:
        yield "select.confidence: token_entropy (the default) needs engine.top_logprobs; nll and vote_entropy do not"
    if gpus not in (0, split) and not 0 < gpus < split == 1:
        over = f"{split} GPUs of a node (tensor_parallel_size x pipeline_parallel_size)"
        yield f"resources.label.num_gpus: is {gpus:g}, where engine.extra splits a model over {over}"


def _task(config: RunConfig) -> Iterator[str]:
    task, columns, select = config.task, config.data.columns, config.select
    answers = {columns.answer, columns.oracle} | ({columns.messages} if task.conversational else set())
    for name in columns_of(config.prompt.template or ""):
        if name in answers:
            yield f"prompt.template: must not show the column '{name}', which holds the answer"
    for key in task.needs:
        if getattr(columns, key) is None:
            yield f"data.columns.{key}: {task.kind} needs a column of {key}"
    if select.per == "stratum" and columns.stratum is None:
        yield "select.per: stratum needs data.columns.stratum, the column that names each row's group"
    if select.ceiling and columns.oracle is None:
        yield "select.ceiling: needs data.columns.oracle, the column with the true answers of unlabeled rows"
    if task.lists_candidates and not config.serving.neighbors:
        yield "serving.neighbors: must be at least 1 with task.show: likeliest, so that the endpoint finds the labels to list"
    for setting, wants in (
        ("select.per: answer", select.per == "answer"),
        ("select.max_per_answer", select.max_per_answer is not None),
        ("label.mode: score", config.label.mode == "score"),
        ("evaluate.mode: score", config.evaluate.mode == "score"),
        ("finetune.targets: soft", config.finetune.targets == "soft"),
    ):
        if wants and not task.closed:
            which = f"task.kind: {task.kind}" + (" with several labels a row" if task.sets else "")
            yield f"{setting} needs answers from a closed set, which {which} does not have"


def _collaborators(config: RunConfig) -> Iterator[str]:
    for i, who in enumerate(config.label.collaborators):
        key, most = f"label.collaborators[{i}]", config.retrieve.k
        if who.prompt not in config.prompt.styles:
            yield f"{key}.prompt: prompt.styles has no '{who.prompt}'; it has {', '.join(config.prompt.styles)}"
        if who.member() is not None:
            yield f"{key}.model: is {who.model}; warm stands for every member of the committee (warmup.members)"
        if config.folds and "@" in who.name:
            yield f"{key}.name: must not hold @, which stands before a member's name (warmup.members)"
        if config.folds and (who.kind, who.model, who.endpoint) == ("model", "warm", None) and who.prompt != "plain":
            yield f"{key}.prompt: each member of the committee has its own style (warmup.styles); set label.collaborators without it"
        if who.k > most and who.kind != "probe":
            yield f"{key}.k: must be from 0 to retrieve.k = {most}, is {who.k}"
        if who.kind == "neighbors" and config.retrieve.by != "embedding":
            yield f"{key}.kind: neighbors vote by cosine, not by {config.retrieve.by}"
        if who.kind == "neighbors" and not config.task.transfers:
            yield f"{key}.kind: with task.kind: {config.task.kind} answers do not transfer between rows"
        if who.kind == "probe":
            yield from _probe(config, key)
    if sum(who.kind == "probe" for who in config.label.collaborators) > 1:
        yield "label.collaborators: one probe is enough, as all of them would give the same answers"


def _probe(config: RunConfig, key: str) -> Iterator[str]:
    if config.retrieve.by != "embedding":
        yield f"{key}.kind: a probe reads embeddings, which retrieve.by: {config.retrieve.by} does not make; use embedding"
    if not (config.task.closed and config.task.names_labels):
        several = " and one label a row" if config.task.sets else ""
        yield f"{key}.kind: a probe needs one label set for all rows, task.kind: classification{several}; leave it out"


def _endpoints(config: RunConfig) -> Iterator[str]:
    trainer, engine = config.trainer.kind, config.engine.kind
    if (trainer == "openai") != (engine == "openai"):
        yield (
            f"trainer.kind: {trainer} with engine.kind: {engine}: the engine cannot load what the trainer makes. Use openai for "
            "both, or deepspeed with vllm (also where a collaborator has its own endpoint)"
        )
    for key, mode, asked in (
        ("label.mode", config.label.mode, config.endpoints),
        ("evaluate.mode", config.evaluate.mode, config.endpoints if engine == "openai" else []),
    ):
        if mode == "score" and asked:
            yield (
                f"{key}: score needs the exact probabilities of given responses, which only engine.kind: vllm gives; "
                f"{asked[0]} asks an endpoint. Use {key}: sample"
            )


def _chat(config: RunConfig) -> Iterator[str]:
    model = config.model
    if config.engine.kind == "openai":
        for key, given in (("chat_template", model.chat_template), ("thinking", model.thinking == "on")):
            if given:
                yield f"model.{key}: with engine.kind: openai the endpoint decides on it; leave it out"
    elif model.thinking == "on":
        for key, mode in (("label.mode", config.label.mode), ("evaluate.mode", config.evaluate.mode)):
            if mode == "score":
                yield f"{key}: score asks for no thoughts; use {key}: sample with model.thinking: on"


def _trained_by_openai(key: str, train: TrainConfig, preset: dict[str, Any]) -> Iterator[str]:
    if train.epochs != "auto" and train.epochs != int(train.epochs):
        yield f"{key}.epochs: must be a whole number for trainer.kind: openai, is {train.epochs:g}"
    for group, section in ((key, train), (f"{key}.lora", train.lora)):
        for name, value in section.model_dump(exclude=_READ_BY_OPENAI, exclude_defaults=True).items():
            default = type(section).model_fields[name].default
            if value != preset.get(name):
                yield f"{group}.{name}: trainer.kind: openai does not read it; leave it at its default, {default}"
