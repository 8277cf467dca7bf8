"""Evaluation with solved examples: an engine that can only repeat what the nearest one answers."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.tables import LABELED, PREDICTED
from semievol.errors import UserError
from semievol.stages import evaluate, retrieve
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


@pytest.mark.parametrize("by", ["embedding", "bm25"])
def test_the_nearest_labeled_rows_stand_in_the_prompt(run_config: RunConfig, tmp_path: Path, by: str) -> None:
    storage.write_table(f"{tmp_path}/ingest/labeled/p.parquet", table(LABELED_ROWS, 1))
    storage.write_table(f"{tmp_path}/ingest/test/p.parquet", table(TEST_ROWS, 10))
    run_config.retrieve.by = by
    inputs = {name: f"{tmp_path}/{name}" for name in ("ingest", "index")}

    def ctx(name: str, out: str) -> StageContext:
        return StageContext(name, run_config, f"{tmp_path}/{out}", inputs, lambda *_: None, engine=CopyEngine)

    retrieve.run_index(ctx("index", "index"))
    run_config.evaluate.k = 2
    result = evaluate.run_model(ctx("evaluate/base", "with"))
    assert (result.rows.came_in, result.rows.out) == (2, 2)
    assert (result.metrics["accuracy"], result.metrics["unparsable"]) == (1.0, 0.0)
    rows = storage.read_table(f"{tmp_path}/with/rows")
    assert rows.schema.equals(PREDICTED)
    scores = evaluate.scores_by_row(f"{tmp_path}/with/rows", run_config)
    assert scores == {10: 1.0, 11: 1.0}

    if by == "embedding":
        return  # the rest is the same, and loads no model with bm25
    evaluate.run_model(ctx("evaluate/base", "with"))  # over its own leftovers: no row twice
    assert storage.count_rows(f"{tmp_path}/with/rows") == 2

    run_config.evaluate.k = 0
    result = evaluate.run_model(ctx("evaluate/base", "without"))
    assert (result.metrics["accuracy"], result.metrics["unparsable"]) == (0.0, 1.0)
    assert not (tmp_path / "without" / "retrieved").exists()

    refusing = replace(ctx("evaluate/base", "refused"), engine=RuleEngine)  # knows nothing to say to these
    run_config.engine.extra = {"log": f"{tmp_path}/log"}
    with pytest.raises(UserError, match=r"2 of 2 rows cannot be used(.|\n)*2 rows: greedy: nothing to say"):
        evaluate.run_model(refusing)
