"""The oracle measures pseudo-labels and makes the ceiling of a study; nothing else sees it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from semievol.config import Collaborator, RunConfig
from semievol.data import storage
from semievol.data.tables import ORACLE, RETRIEVED, SELECTED, UNLABELED
from semievol.errors import UserError
from semievol.inference.pool import EnginePool, Factory
from semievol.stages import compare, ingest, label, select
from semievol.stages.base import StageContext
from tests.support.engines import RuleEngine

pytestmark = pytest.mark.usefixtures("ray_cluster")
OPTIONS = ["x", "y", "z"]


def test_without_the_ceiling_the_same_rows_are_selected_when_there_is_no_oracle(
    run_config: RunConfig, engine_pool: Callable[[Factory], EnginePool], tmp_path: Path
) -> None:
    def rows(kind: str, count: int, **more: object) -> str:
        said = [f"say={'ABC'[i % 3]} row={i} {kind} {'split' if i % 5 == 0 else ''}" for i in range(count)]
        return "\n".join(json.dumps({"question": q, "options": OPTIONS} | more) for q in said)

    (tmp_path / "unlabeled").mkdir()
    (tmp_path / "labeled.csv").write_text('question,options,answer\nsay=A,"[""x"", ""y""]",A\n')
    (tmp_path / "test.jsonl").write_text(rows("test", 2, answer="A"))
    (tmp_path / "unlabeled" / "0.jsonl").write_text(rows("unlabeled", 40, truth="B"))
    run_config.engine.extra = {"log": f"{tmp_path}/requests"}
    run_config.label.collaborators = [Collaborator(name="a", k=0), Collaborator(name="b", k=0)]
    engines = engine_pool(RuleEngine)
    selected = []
    for column in ("truth", None):
        run_config.data.columns.oracle = column
        here = f"{tmp_path}/{column}"

        def ctx(stage: str, *inputs: str, here: str = here) -> StageContext:
            folders = {name: f"{here}/{name}" for name in inputs}
            return StageContext(stage, run_config, f"{here}/{stage}", folders, lambda *_: None, engines=engines)

        assert ingest.run(ctx("ingest")).metrics["oracle_rows"] == (40 if column else 0)
        unlabeled = storage.read_table(f"{here}/ingest/unlabeled").to_pylist()
        found = [row | {"neighbor_ids": [], "neighbor_scores": []} for row in unlabeled]
        storage.write_table(f"{here}/retrieve/rows/p.parquet", pa.Table.from_pylist(found, schema=RETRIEVED))
        label.run(ctx("label", "ingest", "retrieve", "warmup"))
        select.run(ctx("select", "label"))
        selected.append(storage.read_table(f"{here}/select/rows").sort_by("row_id"))
    assert 0 < selected[0]["selected"].to_pylist().count(True) < 40
    assert selected[0].equals(selected[1])


def prepare(tmp_path: Path, config: RunConfig, truths: dict[int, str | None]) -> StageContext:
    rows = [{"row_id": i, "question": f"q{i}", "options": OPTIONS, "context": None} for i in truths]
    known = [{"row_id": i, "oracle": truth} for i, truth in truths.items() if truth]
    for part in range(2):
        table = pa.Table.from_pylist(rows[part::2], schema=UNLABELED)
        storage.write_table(f"{tmp_path}/ingest/unlabeled/{part}.parquet", table)
        if known[part::2]:
            table = pa.Table.from_pylist(known[part::2], schema=ORACLE)
            storage.write_table(f"{tmp_path}/ingest/oracle/{part}.parquet", table)
    return StageContext("select", config, f"{tmp_path}/out", {"ingest": f"{tmp_path}/ingest"}, lambda *_: None)


def test_the_ceiling_selects_every_row_whose_truth_is_known(run_config: RunConfig, tmp_path: Path) -> None:
    run_config.select.ceiling = True
    ctx = prepare(tmp_path, run_config, {1: "A", 2: "B", 3: None, 4: "C"})
    result = select.run(ctx)
    assert (result.rows.came_in, result.rows.out) == (4, 4)
    assert (result.metrics["selected"], result.metrics["ceiling"]) == (3, True)
    assert "not a result" in result.headline
    table = storage.read_table(f"{tmp_path}/out/rows")
    assert table.schema.equals(SELECTED)
    rows = {row["row_id"]: row for row in table.to_pylist()}
    assert {i: row["answer"] for i, row in rows.items()} == {1: "A", 2: "B", 3: None, 4: "C"}
    assert {i for i, row in rows.items() if row["selected"]} == {1, 2, 4}
    assert rows[3]["rejected_because"] == "no true answer is known"
    assert (rows[1]["question"], rows[1]["options"], rows[1]["nll"]) == ("q1", OPTIONS, None)

    # Measuring it is possible and says nothing: it is right by construction, and has no confidence.
    folders = {"ingest": f"{tmp_path}/ingest", "select": f"{tmp_path}/out"}
    found = compare.measure_pseudo_labels(replace(ctx, inputs=folders))
    assert found == {
        "accuracy": 1.0,
        "selected_accuracy": 1.0,
        "coverage": 0.75,
        "measures": {"nll": None, "token_entropy": None, "vote_entropy": None},
    }
    with pytest.raises(UserError, match=r"no unlabeled row has a true answer in .* = 'truth'"):
        select.run(prepare(tmp_path / "none", run_config, {1: None}))


def test_confidences_are_measured_against_the_truth(run_config: RunConfig, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    right = rng.random(300) < 0.8
    ctx = prepare(tmp_path, run_config, dict.fromkeys(range(320), "A") | {310: None})
    rows = [
        {"row_id": i, "question": "q", "options": OPTIONS, "answer": "A" if right[i] else "B", "selected": i < 100}
        | {"nll": float(rng.exponential() + (not right[i])), "vote_entropy": 0.0 if right[i] else 1.0}
        for i in range(300)
    ]
    rows.append({"row_id": 310, "question": "q", "options": OPTIONS, "answer": "A", "selected": True, "nll": 0.0})
    for part in range(3):
        table = pa.Table.from_pylist(rows[part::3], schema=SELECTED)
        storage.write_table(f"{tmp_path}/select/rows/{part}.parquet", table)
    folders = {"ingest": f"{tmp_path}/ingest", "select": f"{tmp_path}/select"}
    found = compare.measure_pseudo_labels(replace(ctx, inputs=folders))
    assert found is not None
    assert found["accuracy"] == pytest.approx(right.mean(), abs=1e-4)
    assert found["selected_accuracy"] == pytest.approx(right[:100].mean(), abs=1e-4)
    measures = found["measures"]
    assert measures["token_entropy"] is None
    assert measures["vote_entropy"]["auroc"] == 1.0
    nll = np.array([row["nll"] for row in rows[:300]])
    pairs = nll[right][:, None] < nll[~right][None]
    assert measures["nll"]["auroc"] == pytest.approx(pairs.mean(), abs=0.005)
    assert len(measures["nll"]["risk"]) == 20
    assert measures["nll"]["risk"][-1] == pytest.approx((~right).mean(), abs=1e-4)
    assert measures["nll"]["risk"][9] == pytest.approx((~right)[np.argsort(nll)[:150]].mean(), abs=0.01)
