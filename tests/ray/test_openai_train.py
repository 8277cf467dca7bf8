"""Warm-up and final training at an endpoint: rows rendered by Ray Data, one job each, and models that are names."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol.config import OpenAITrainer, RunConfig
from semievol.data import storage
from semievol.data.row_checks import RowChecks
from semievol.data.tables import LABELED, SELECTED
from semievol.stages import evaluate, finetune, label, warmup
from semievol.stages.base import StageContext
from tests.support.openai_server import OpenAIServer

pytestmark = pytest.mark.usefixtures("ray_cluster")


def row(i: int) -> dict[str, Any]:
    return {"row_id": i, "question": f"say=B row={i}", "options": ["x", "y", "z"], "context": None, "answer": "B"}


def test_both_trainings_and_what_comes_of_them(
    run_config: RunConfig, tmp_path: Path, openai_server: OpenAIServer
) -> None:
    run_config.engine.kind, run_config.engine.endpoint = "openai", openai_server.url
    run_config.trainer = OpenAITrainer(poll_s=0.001)
    run_config.model.base, run_config.finetune.start_from = "gpt-4o-mini", "warm"
    run_config.warmup.max_length = 1  # the API cuts by rules of its own
    for name, schema, content in [
        ("ingest/labeled", LABELED, [row(i) for i in range(20)]),
        ("ingest/test", LABELED, [row(i) for i in range(30, 36)]),
        ("select/rows", SELECTED, [row(i) | {"selected": i % 2 == 0} for i in range(40, 50)]),
    ]:
        storage.write_table(f"{tmp_path}/{name}/p.parquet", pa.Table.from_pylist(content, schema=schema))
    inputs = {name: f"{tmp_path}/{name}" for name in ("ingest", "warmup", "select", "finetune")}

    def at(stage: str) -> StageContext:
        return StageContext(stage, run_config, f"{tmp_path}/{stage}", inputs, lambda *_: None)

    result = warmup.run(at("warmup"))
    result.rows.check("warmup")
    checks = RowChecks(f"{tmp_path}/warmup", inputs, 20, 20, 0)
    warmup.STAGE.verify(checks)
    assert (checks.rows, checks.problems) == (20, [])
    assert (result.rows.out, result.headline) == (20, "ft:gpt-4o-mini:job-0")
    assert at("label").weights("warm") == "ft:gpt-4o-mini:job-0"
    assert [work.model for work in label.passes(at("label"))] == ["ft:gpt-4o-mini:job-0"]

    result = finetune.run(at("finetune"))
    assert (result.rows.came_in, result.rows.out) == (25, 25)
    assert result.places == {"evolved model": "model.json"}
    checks = RowChecks(f"{tmp_path}/finetune", inputs, 24, 24, 0)
    finetune.STAGE.verify(checks)
    assert checks.problems == ["25 rows written, and its manifest says 24"]
    uploaded = [json.loads(line) for line in openai_server.files["file-1"].decode().splitlines()]
    assert len(uploaded) == 25
    assert {exchange["messages"][-1]["content"] for exchange in uploaded} == {"Answer: B"}
    assert openai_server.jobs["job-1"]["model"] == "ft:gpt-4o-mini:job-0"

    result = evaluate.run(at("evaluate/evolved"))
    assert result.metrics["accuracy"] == 1.0
    asked = {body["model"] for path, body in openai_server.calls if path == "POST /chat/completions"}
    assert asked == {"ft:ft:gpt-4o-mini:job-0:job-1"}
