"""Say in plain English what a run has gained, how sure that is, and what the validation rows say about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semievol.config import RunConfig
from semievol.stages.compare import better

RIVALS = {
    "warm": "the warm model",
    "control": "SFT of as many steps",
    "previous": "the evolved model of the round before",
}
Test = dict[str, Any]  # a paired test, as evaluate/compare writes it


def gains(paired: Mapping[str, Test] | None) -> dict[str, Test]:
    """Return the paired tests of the evolved model, by what it is compared with."""
    return {rival: test for rival in RIVALS if (test := (paired or {}).get(f"evolved_vs_{rival}"))}


def points(test: Test) -> str:
    """Return a gain in percentage points, with its interval."""
    low, high = (100 * end for end in test["interval"])
    return f"{100 * test['gain']:+.1f} points ({low:.1f} to {high:.1f})"


def verdict(figures: Mapping[str, Any], config: RunConfig) -> list[str]:
    """Return sentences: the gain that is left, over what, and which model the validation rows speak for.

    Args:
        figures: paired, validation and better of the last compared round, as evaluate/compare writes them.
    """
    over = gains(figures.get("paired"))
    if not over:
        return []
    rival = "control" if "control" in over else "warm"
    said = [f"The evolved model is {_how(over[rival])} {RIVALS[rival]}{_noise(over[rival])}: {points(over[rival])}."]
    if rival == "control":
        said.append(f"Over {RIVALS['warm']} it has {points(over['warm'])}.")
    elif config.trainer.kind != "openai":  # which takes no number of steps
        said.append("`evaluate.control: true` would tell how much of it comes from training for more steps.")
    return [*said, _decided(figures.get("validation"), figures.get("better"))]


def _how(test: Test) -> str:
    return "better than" if better(test) else "worse than" if test["interval"][1] < 0 else "not better than"


def _noise(test: Test) -> str:
    low, high = test["interval"]
    return " beyond noise" if low <= 0 <= high else ""


def _decided(validation: Mapping[str, Any] | None, which: str | None) -> str:
    """Return what the validation rows say; test rows are only reported on."""
    if validation is None:
        return (
            "No rows were there to decide by, as test rows are only reported on: `data.validation: 0.2` holds some back, by which "
            "a run decides on further rounds and on the model to serve."
        )
    evolved, warm = validation["accuracy"]["evolved"], validation["accuracy"]["warm"]
    if which == "warm":
        return f"Serve `warm`: on the validation rows it has {warm:.3f}, and the evolved model {evolved:.3f}."
    return f"Serve `evolved`: on the validation rows it has {evolved:.3f}, and the warm model {warm:.3f}."
