"""Evaluation with solved examples: an engine that can only repeat what the nearest one answers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.tables import LABELED, LABELED_RETRIEVED, PREDICTED
from semievol.errors import UserError
from semievol.inference.pool import EnginePool, Factory
from semievol.stages import evaluate, index, retrieve
from semievol.stages.base import StageContext
from tests.support.engines import CopyEngine, RuleEngine

pytestmark = pytest.mark.usefixtures("ray_cluster")
LABELED_ROWS = {
    "The cat sleeps on the warm sofa.": "A",
    "A kitten plays with a ball of wool.": "A",
    "The central bank raised its interest rate.": "B",
    "Shares fell after the profit warning.": "B",
}
TEST_ROWS = {"The cat naps with a kitten.": "A", "The bank warned that profit and shares fell.": "B"}


def table(rows: dict[str, str], first: int) -> pa.Table:
    records = [
        {"row_id": first + i, "question": q, "options": ["pets", "money"], "context": None, "answer": answer}
        for i, (q, answer) in enumerate(rows.items())
    ]
    return pa.Table.from_pylist(records, schema=LABELED)


def test_the_nearest_labeled_rows_stand_in_the_prompt(
    run_config: RunConfig, engine_pool: Callable[[Factory], EnginePool], tmp_path: Path
) -> None:
    storage.write_table(f"{tmp_path}/ingest/labeled/p.parquet", table(LABELED_ROWS, 1))
    storage.write_table(f"{tmp_path}/ingest/test/p.parquet", table(TEST_ROWS, 10))
    run_config.retrieve.by = "bm25"  # test_retrieve has the embedding model
    engines = engine_pool(CopyEngine)

    def ctx(name: str, out: str, *inputs: str) -> StageContext:
        read = {name: f"{tmp_path}/{name}" for name in inputs}
        return StageContext(name, run_config, f"{tmp_path}/{out}", read, lambda *_: None, engines=engines)

    index.run(ctx("index", "index", "ingest"))
    run_config.evaluate.k = 2
    retrieved = retrieve.TEST.run(ctx("evaluate/retrieve", "evaluate/retrieve", "ingest", "index"))
    assert (retrieved.rows.came_in, retrieved.rows.out, retrieved.metrics["k"]) == (2, 2, 2)
    assert storage.read_table(f"{tmp_path}/evaluate/retrieve/rows").schema.equals(LABELED_RETRIEVED)
    result = evaluate.run(ctx("evaluate/base", "with", "ingest", "evaluate/retrieve"))
    assert (result.rows.came_in, result.rows.out) == (2, 2)
    assert (result.metrics["accuracy"], result.metrics["unparsable"]) == (1.0, 0.0)
    rows = storage.read_table(f"{tmp_path}/with/rows")
    assert rows.schema.equals(PREDICTED)
    scores = evaluate.scores_by_row(f"{tmp_path}/with/rows", run_config.task)
    assert scores == {10: 1.0, 11: 1.0}

    evaluate.run(ctx("evaluate/base", "with", "ingest", "evaluate/retrieve"))  # over its own leftovers: no row twice
    assert storage.count_rows(f"{tmp_path}/with/rows") == 2

    run_config.evaluate.k = 0
    result = evaluate.run(ctx("evaluate/base", "without", "ingest"))
    assert (result.metrics["accuracy"], result.metrics["unparsable"]) == (0.0, 1.0)

    refusing = replace(
        ctx("evaluate/base", "refused", "ingest"), engines=engine_pool(RuleEngine)
    )  # knows nothing to say to these
    run_config.engine.extra = {"log": f"{tmp_path}/log"}
    with pytest.raises(UserError, match=r"2 of 2 rows cannot be used(.|\n)*2 rows: greedy: nothing to say"):
        evaluate.run(refusing)
