"""Stages that do nothing but leave a file, for tests of what runs when."""

from typing import Any

import pytest

from semievol.data import storage
from semievol.stages import registry
from semievol.stages.base import Rows, StageContext, StageResult

_METRICS: dict[str, Any] = {"accuracy": 0.5, "interval": [0.4, 0.6], "unparsable": 0.0, "steps": 9}
_FIGURES = {"data": {"splits": {}, "reasons": {}, "notes": {}}, "selected": 1, "paired": {}, "pseudo_labels": None}


def idle_stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the work of every stage, and all that asks for Ray; returns the names of the stages that run, as they do."""
    ran: list[str] = []

    def run(ctx: StageContext) -> StageResult:
        ran.append(ctx.name)
        storage.write_text(f"{ctx.out}/made", f"{ctx.config.name}: {sorted(ctx.inputs)}")
        return StageResult(Rows(1, 1), _METRICS, "")

    for stage in registry():
        monkeypatch.setitem(stage.__dict__, "run", run)  # the declarations are frozen
        monkeypatch.setitem(stage.__dict__, "figures", lambda _: _FIGURES)
        monkeypatch.setitem(stage.__dict__, "gained", stage.gained and (lambda _: True))
    monkeypatch.setattr("semievol.runs.pipeline.cluster.connect", lambda config: None)
    monkeypatch.setattr("semievol.runs.pipeline.cluster.require", lambda config, pools, echo: None)
    monkeypatch.setattr("semievol.runs.pipeline.cluster.check_nodes", lambda *_: None)
    return ran
