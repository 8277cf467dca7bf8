"""Labeling with two sets of weights and one OpenAI-compatible endpoint, which fails as asked."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol.config import Collaborator, EngineConfig, RunConfig
from semievol.config.running import PriceConfig
from semievol.data import storage
from semievol.data.tables import RETRIEVED
from semievol.engines import Engine
from semievol.engines.openai import OpenAIEngine
from semievol.errors import UserError
from semievol.inference.pool import EnginePool, Factory
from semievol.stages import label
from semievol.stages.base import StageContext
from tests.support.engines import RuleEngine, requests
from tests.support.openai_server import Fault, OpenAIServer

pytestmark = pytest.mark.usefixtures("ray_cluster")

ROWS = list(range(100, 160))


def rules_or_endpoint(model: str, config: EngineConfig, chat: object = None) -> Engine:
    return OpenAIEngine(model, config) if config.kind == "openai" else RuleEngine(model, config)


@pytest.fixture
def engines(engine_pool: Callable[[Factory], EnginePool]) -> EnginePool:
    return engine_pool(rules_or_endpoint)


def prepare(tmp_path: Path, config: RunConfig, engines: EnginePool, server: OpenAIServer) -> StageContext:
    """Collaborators with the base weights, at the endpoint, and with the warm weights, which also judge."""
    rows = [
        {"row_id": i, "question": f"say={'ABC'[i % 3]} row={i}", "options": ["x", "y", "z"], "context": None}
        | {"neighbor_ids": [], "neighbor_scores": []}
        for i in ROWS
    ]
    storage.write_table(f"{tmp_path}/retrieve/rows/part-0.parquet", pa.Table.from_pylist(rows, schema=RETRIEVED))
    config.engine.extra = {"log": f"{tmp_path}/requests"}
    config.engine.retries, config.engine.concurrency = 1, 4
    config.engine.price_per_million = PriceConfig(input=100.0, output=1000.0)
    config.label.rows_per_commit = 10
    config.label.collaborators = [
        Collaborator(name="base", model="base", k=0),
        Collaborator(name="remote", model="gpt", endpoint=server.url, k=0, samples=2),
        Collaborator(name="warm", k=0),
    ]
    inputs = {name: f"{tmp_path}/{name}" for name in ("ingest", "retrieve", "warmup")}
    return StageContext("label", config, f"{tmp_path}/label", inputs, lambda *_: None, engines=engines)


def labeled(tmp_path: Path) -> dict[int, dict[str, Any]]:
    table = storage.read_table(f"{tmp_path}/label/rows")
    rows = {row["row_id"]: row for row in table.to_pylist()}
    assert len(rows) == len(table)
    return rows


def test_weights_and_an_endpoint_that_dies_half_way_label_the_same_rows(
    run_config: RunConfig, engines: EnginePool, tmp_path: Path, openai_server: OpenAIServer
) -> None:
    def refuses_one(path: str, body: dict[str, Any]) -> Fault | None:
        return Fault(400, "not that one") if "row=113" in body["messages"][0]["content"] else None

    openai_server.fault = lambda path, body: Fault(0) if len(openai_server.rows()) >= 25 else refuses_one(path, body)
    ctx = prepare(tmp_path, run_config, engines, openai_server)
    assert [(work.members, work.endpoint, work.last) for work in label.passes(ctx)] == [
        ((0,), None, False),
        ((1,), openai_server.url, False),
        ((2,), None, True),
    ]
    with pytest.raises(UserError) as failure:
        label.run(ctx)
    answered = openai_server.rows()
    kept = storage.read_table(f"{tmp_path}/label/pass-1/rows")["row_id"].to_pylist()
    assert set(kept) - {113} == set(answered) and 25 <= len(kept) < 60  # every answer that was paid for
    message = str(failure.value)
    assert message.startswith(f"stage label (remote, pass 2 of 3): {len(kept)} of 60 rows are answered")
    assert f"label.collaborators[1].endpoint: {openai_server.url} is unavailable" in message
    assert message.endswith("run the same command again: it asks for the rest")
    assert "\n" not in message

    openai_server.fault = refuses_one
    result = label.run(ctx)
    result.rows.check("label")
    assert Counter(openai_server.rows()) == dict.fromkeys(set(ROWS) - {113}, 1)
    assert Counter(requests(f"{tmp_path}/requests")) == dict.fromkeys(ROWS, 2)  # once by each of the weights
    assert (result.rows.out, result.rows.quarantined) == (60, 0)
    rows = labeled(tmp_path)
    assert set(rows) == set(ROWS)
    assert all(row["answer"] == "ABC"[i % 3] and not row["justified"] for i, row in rows.items())
    assert [r["collaborator"] for r in rows[100]["responses"]] == ["base", "remote", "remote", "warm"]
    assert rows[100]["responses"][1]["nll"] == pytest.approx(0.2)
    assert [r["prompt_tokens"] for r in rows[100]["responses"]] == [0, 10, 0, 0]
    by_three = rows[113]["responses"]
    assert [r["collaborator"] for r in by_three if r["answer"]] == ["base", "warm"]
    assert "not that one" in next(r["error"] for r in by_three if r["error"])
    assert rows[113]["agreement"] == 1.0
    assert result.metrics["failed"] == {"base": 0, "remote": 1, "warm": 0} and "remote failed on 1" in result.headline
    assert (result.metrics["answered_in_part"], result.metrics["prompt_tokens"]) == (1, 590)
    assert result.metrics["output_tokens"] == 59 * 6 + 60 * 6
    assert result.metrics["cost"] == pytest.approx((590 * 100 + 59 * 6 * 1000) / 1e6)
    assert openai_server.most_in_flight <= 4
