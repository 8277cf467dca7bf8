"""The interface of trainers: their input, their methods, and the names of their files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from semievol.config import TrainConfig
from semievol.data import storage
from semievol.engines.templates import OWN_TEMPLATE, ChatSettings
from semievol.runtime.progress import Emit

_ROWS_SEEN, _FEWEST, _MOST = 1280, 2, 20  # 160 steps of 8 rows; passes
ADAPTER, MODEL, METRICS = "adapter", "model", "metrics.json"
MEMBERS = "members.json"  # of a committee: {"folders": those of the members, "best": the number of one}
NAMED = "model.json"  # instead of weights: {"model": the name of a model at an endpoint}


@dataclass(frozen=True)
class TrainSpec:
    """One fine-tuning.

    Attributes:
        base: URI, folder or hub id of the weights to start from, or a name at an endpoint.
        out: URI of the stage's folder. The rows to train on are there, and the trained model is written there.
        held_out: URI of a folder of such rows that are not trained on. Their loss is measured after the training.
        steps: train exactly so many steps of the optimizer, in place of `config.epochs`.
    """

    base: str
    out: str
    config: TrainConfig
    seed: int
    chat: ChatSettings = OWN_TEMPLATE
    held_out: str | None = None
    steps: int | None = None

    def settled(self, row_count: int) -> TrainSpec:
        """Return the training over so many rows, with a number of passes in place of `epochs: auto`."""
        if self.config.epochs != "auto":
            return self
        return replace(self, config=self.config.model_copy(update={"epochs": float(passes(row_count))}))

    @property
    def rows(self) -> str:
        """URI of a folder of Parquet parts in the schema `TRAINING`, with `quarantine_reason` too."""
        return storage.join(self.out, "rows")


class Trainer(Protocol):
    """Fine-tunes models as the config of a run says.

    Attributes:
        needs_tokens: whether rows must hold the base model's tokens and fit `max_length`; else messages do, uncut.
        pool: the key under `resources` that it trains with; empty where it trains elsewhere.
        writes: what people look for in the stage's folder after a training: name, relative path.
    """

    needs_tokens: bool
    pool: str
    writes: ClassVar[dict[str, str]]

    def train(self, stage: str, spec: TrainSpec, row_count: int, emit: Emit) -> dict[str, Any]:
        """Fine-tune on the usable rows, `row_count` of them, and return the metrics: at least steps and loss."""


def passes(row_count: int) -> int:
    """Return how often to train on each row: few rows need many steps, and many rows are learned in two passes."""
    return min(_MOST, max(_FEWEST, round(_ROWS_SEEN / max(1, row_count))))


def members(folder: str) -> list[str]:
    """Return the folders of the members of a committee; none where one model was trained."""
    found = storage.join(folder, MEMBERS)
    names = json.loads(storage.read_text(found))["folders"] if storage.exists(found) else []
    return [storage.join(folder, name) for name in names]


def best_member(folder: str) -> int | None:
    """Return the number of the member that stands for a committee; None where one model was trained."""
    found = storage.join(folder, MEMBERS)
    return int(json.loads(storage.read_text(found))["best"]) if storage.exists(found) else None


def trained(folder: str, member: int | None = None) -> str:
    """Return what a training stage made, as an engine loads it: a URI of merged weights, or a name at an endpoint.

    Of a committee it is that of a member, by default the best one.
    """
    if storage.exists(members := storage.join(folder, MEMBERS)):
        found = json.loads(storage.read_text(members))
        folder = storage.join(folder, found["folders"][found["best"] if member is None else member])
    named = storage.join(folder, NAMED)
    return str(json.loads(storage.read_text(named))["model"]) if storage.exists(named) else storage.join(folder, MODEL)


def headline(metrics: dict[str, Any]) -> str:
    """Return the figure of a training that matters, for people."""
    return metrics.get("model") or f"loss {metrics['loss']:.3f} after {metrics['steps']} steps"
