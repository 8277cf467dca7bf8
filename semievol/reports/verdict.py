"""Say in plain English what a run has gained, how sure that is, and which model the validation rows speak for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semievol.config import RunConfig
from semievol.runs import promotion
from semievol.runs.folder import Manifest
from semievol.stages import making, validating
from semievol.stages.base import Key
from semievol.stages.compare import better

RIVALS = ("warm", "control", "previous")  # previous: the evolved model of the round before
Test = dict[str, Any]  # a paired test, as evaluate/compare writes it


def gains(paired: Mapping[str, Test] | None) -> dict[str, Test]:
    """Return the paired tests of the evolved model, by what it is compared with."""
    return {rival: test for rival in RIVALS if (test := (paired or {}).get(f"evolved_vs_{rival}"))}


def points(test: Test) -> str:
    """Return a gain in percentage points, with its interval."""
    low, high = (100 * end for end in test["interval"])
    return f"{100 * test['gain']:+.1f} points ({low:.1f} to {high:.1f})"


def validated(manifests: Mapping[Key, Manifest]) -> dict[str, float]:
    """Return the accuracies on the validation rows of `warm` and the last `evolved`, as they would be served; else nothing."""
    last = {stage: manifest for (stage, _), manifest in sorted(manifests.items(), key=lambda item: item[0][1])}
    found = {model: last.get(validating(model).name) for model in ("warm", "evolved")}
    trainings = {"warm": last.get(making("warm").name)}
    served = {of: promotion.served_accuracy(manifest, trainings.get(of)) for of, manifest in found.items() if manifest}
    return served if len(served) == len(found) else {}


def served(accuracies: Mapping[str, float], config: RunConfig) -> str | None:
    """Return the model that the validation rows speak for: evolved, unless `promote` would refuse it for warm."""
    if not accuracies:
        return None
    return "warm" if promotion.worse(accuracies["evolved"], accuracies["warm"], config.serving.tolerance) else "evolved"


def verdict(over: Mapping[str, Test], accuracies: Mapping[str, float], config: RunConfig) -> str:
    """Return sentences: the gain that is left, over what, and which model to serve; nothing before the models are compared.

    Args:
        over: as `gains` returns it.
        accuracies: as `validated` returns them.
    """
    if not over:
        return ""
    warm = "the warm committee" if config.folds else "the warm model"
    test, name = (over["control"], "SFT of as many steps") if "control" in over else (over["warm"], warm)
    low, high = test["interval"]
    how = "better than" if better(test) else "worse than" if high < 0 else "not better than"
    noise = " beyond noise" if low <= 0 <= high else ""
    said = [f"The evolved model is {how} {name}{noise}: {points(test)}."]
    if "control" in over:
        said.append(f"Over {warm} it has {points(over['warm'])}.")
    elif config.trainer.kind != "openai":  # which takes no number of steps
        said.append("`evaluate.control: true` would tell how much of it comes from training for more steps.")
    return " ".join([*said, _decided(accuracies, config)])


def _decided(accuracies: Mapping[str, float], config: RunConfig) -> str:
    """Return what the validation rows say; test rows are only reported on."""
    model = served(accuracies, config)
    if model is None:
        return (
            "No rows were there to decide by, as test rows are only reported on: `data.validation: 0.2` holds some back, by which "
            "a run decides on further rounds and on the model to serve."
        )
    other = "evolved" if model == "warm" else "warm"
    return f"Serve `{model}`: on the validation rows it has {accuracies[model]:.3f}, and `{other}` {accuracies[other]:.3f}."
