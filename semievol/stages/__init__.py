"""The stages of a round, one file each. Every `Stage` that a module of this folder declares is found and put in order here."""

from __future__ import annotations

from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pkgutil import iter_modules

from semievol.stages.base import Stage


@cache
def registry() -> tuple[Stage, ...]:
    """Return all stages in the order in which they run; of those that may run at any time, the alphabet decides."""
    found: dict[str, Stage] = {}
    for module in iter_modules(__path__):
        for value in vars(import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, Stage):
                found[value.name] = value
    order = TopologicalSorter({name: found[name].after for name in sorted(found)})
    return tuple(found[name] for name in order.static_order())


def making(model: str) -> Stage:
    """Return the stage that trains a model: warm, control or evolved."""
    return next(stage for stage in registry() if stage.makes == model)


def evaluating(model: str) -> Stage:
    """Return the stage that evaluates a model: base, warm, control or evolved."""
    return next(stage for stage in registry() if stage.evaluates == model)


def validating(model: str) -> Stage:
    """Return the stage that evaluates a model on the validation rows: base, warm or evolved."""
    return next(stage for stage in registry() if stage.validates == model)
