"""List what a run asks of its models: one `Request` for each training, collaborator and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from semievol import trainers
from semievol.config import Collaborator, RunConfig, TrainConfig

JUSTIFICATION = "self-justification"


@dataclass(frozen=True)
class Request:
    """What one part of a run asks of each row.

    Attributes:
        splits: whose rows.
        model: whose tokens: a folder, a URI or a hub id; None where an endpoint counts them.
        max_length: tokens of prompt and response where a model is trained; None where a window limits them, or nothing.
        max_tokens: of a response; 0 where a model is trained.
        scores: given responses are scored, and none is written.
        k: solved examples in the prompt.
        every_other: only the rows with even ids show them.
        cuts: a prompt that is too long is cut; else it is refused.
        samples: responses to each prompt.
        paid: its tokens cost money.
    """

    name: str
    splits: tuple[str, ...]
    model: str | None
    max_length: int | None = None
    max_tokens: int = 0
    scores: bool = False
    k: int = 0
    every_other: bool = False
    style: str = "plain"
    order: str = "nearest_last"
    cuts: bool = True
    samples: int = 1
    paid: bool = False

    @property
    def trains(self) -> bool:
        return not self.max_tokens


def of_config(config: RunConfig) -> list[Request]:
    """Return the requests of a run, in its order.

    Args:
        config: its task knows the labels.
    """
    local = config.engine.kind != "openai"
    base = config.model.base if local else None
    serving, evaluate = config.serving, config.evaluate
    shown = serving.neighbors if serving.in_context else 0
    named = [("warm-up" if not config.folds else f"warm-up, warm-{m}", s) for m, s in enumerate(config.member_styles)]
    return [
        *(_training(name, config, config.warmup, ("labeled",), style) for name, style in named),
        *_labeling(config),
        _training("fine-tuning", config, config.finetune, ("labeled", "unlabeled")),
        Request("evaluation", ("test",), base, **_answers(config, config.evaluate_how), k=evaluate.k),
        Request("/v1/answer", ("test",), base, **_answers(config, config.evaluate_how), k=shown, cuts=False),
    ]


def _training(
    name: str, config: RunConfig, train: TrainConfig, splits: tuple[str, ...], style: str = "plain"
) -> Request:
    counted = trainers.load(config).needs_tokens
    context = getattr(train, "context", "none")
    k = getattr(train, "k", 0) if context != "none" else 0
    model, most = (config.model.base, train.max_length) if counted else (None, None)
    return Request(name, splits, model, max_length=most, k=k, every_other=context == "mixed", style=style)


def _labeling(config: RunConfig) -> Iterator[Request]:
    local = config.engine.kind != "openai"
    for who in config.voters:
        if who.kind == "model":
            yield _collaborator(config, who)
    if config.label_how["justify"] and sum(who.samples for who in config.voters) > 1:
        base = config.model.base if local else None
        yield Request(JUSTIFICATION, ("unlabeled",), base, **_answers(config, config.label_how), paid=not local)


def _answers(config: RunConfig, how: dict[str, Any]) -> dict[str, Any]:
    """Return what a request says about its responses, from `label_how` or `evaluate_how`."""
    scores = how["mode"] == "score"
    return {"max_tokens": 1 if scores else max(how["max_tokens"], config.task.longest), "scores": scores}


def _collaborator(config: RunConfig, who: Collaborator) -> Request:
    asks_endpoint = bool(who.endpoint) or config.engine.kind == "openai"
    return Request(
        f"labeling, {who.name}",
        ("unlabeled",),
        None if asks_endpoint else who.model if who.brings_weights() else config.model.base,
        **_answers(config, config.label_how),
        k=who.k,
        style=who.prompt,
        order=who.order,
        samples=who.samples,
        paid=asks_endpoint,
    )
