"""Retrieval with the real embedding model and FAISS."""

from pathlib import Path

import pyarrow as pa
import pytest

from semievol.config import Collaborator, RunConfig
from semievol.data import storage
from semievol.data.tables import FOLDED, LABELED, LABELED_RETRIEVED, RETRIEVED, UNLABELED
from semievol.stages import index, retrieve
from semievol.stages.base import StageContext
from semievol.tasks.classification import Classification

pytestmark = pytest.mark.usefixtures("ray_cluster")

LABELED_TEXTS = {
    1: "The cat sleeps on the warm sofa.",
    2: "A kitten plays with a ball of wool.",
    3: "The central bank raised its interest rate.",
    4: "Shares fell after the profit warning.",
}


def test_neighbours_are_near_in_meaning_and_never_the_row_itself(run_config: RunConfig, tmp_path: Path) -> None:
    def table(texts: dict[int, str], schema: pa.Schema) -> pa.Table:
        common = {"options": ["x", "y"], "context": None, "stratum": None}
        rows = [common | {"row_id": i, "question": text, "answer": "A"} for i, text in texts.items()]
        return pa.Table.from_pylist(rows, schema=schema)

    unlabeled = {10: "My two cats are napping.", 11: "Inflation worries the bond market.", 3: LABELED_TEXTS[3]}
    storage.write_table(f"{tmp_path}/ingest/labeled/part-0.parquet", table(LABELED_TEXTS, LABELED))
    storage.write_table(f"{tmp_path}/ingest/unlabeled/part-0.parquet", table(unlabeled, UNLABELED))
    run_config.retrieve.k = 2
    run_config.resources.embed.num_gpus = 1
    inputs = {name: f"{tmp_path}/{name}" for name in ("ingest", "index")}
    built = index.run(StageContext("index", run_config, inputs["index"], inputs, lambda *_: None))
    assert (built.rows.came_in, built.rows.out) == (4, 4)
    labeled = storage.read_table(f"{tmp_path}/index/rows")
    assert labeled.schema.equals(LABELED_RETRIEVED)
    own = {row["row_id"]: row for row in labeled.to_pylist()}
    assert own[1]["neighbor_ids"][0] == 2 and own[4]["neighbor_ids"][0] == 3
    assert all(key not in row["neighbor_ids"] for key, row in own.items())  # a row that shows itself gives itself away
    ctx = StageContext("retrieve", run_config, f"{tmp_path}/out", inputs, lambda *_: None)
    result = retrieve.UNLABELED.run(ctx)
    assert (result.rows.came_in, result.rows.out) == (3, 3)
    rows = storage.read_table(f"{tmp_path}/out/rows")
    assert rows.schema.equals(RETRIEVED)
    found = {row["row_id"]: row for row in rows.to_pylist()}
    assert set(found[10]["neighbor_ids"]) == {1, 2}
    assert set(found[11]["neighbor_ids"]) == {3, 4}
    assert 3 not in found[3]["neighbor_ids"]
    assert len(found[3]["neighbor_ids"]) == 2
    for row in found.values():
        assert row["neighbor_scores"] == sorted(row["neighbor_scores"], reverse=True)
        assert all(-1.001 <= score <= 1.001 for score in row["neighbor_scores"])

    # Run again over its own leftovers: everything is committed, so no row is written twice.
    retrieve.UNLABELED.run(ctx)
    assert storage.count_rows(f"{tmp_path}/out/rows") == 3

    run_config.retrieve.k = 0
    run_config.embedding.model = "nowhere/to-be-found"  # and nobody looks for it
    retrieve.UNLABELED.run(StageContext("retrieve", run_config, f"{tmp_path}/none", inputs, lambda *_: None))
    none = storage.read_table(f"{tmp_path}/none/rows").to_pylist()
    assert [(row["neighbor_ids"], row["neighbor_scores"]) for row in none] == [([], [])] * 3
    assert all(row["probe"] is None for row in none)


def test_a_probe_is_fitted_to_the_labeled_rows_and_answers_the_others(run_config: RunConfig, tmp_path: Path) -> None:
    about = {
        "Animals": [
            "The cat sleeps.",
            "A kitten plays with wool.",
            "Dogs bark at the mailman.",
            "Horses graze.",
            "Birds sing.",
        ],
        "money": [
            "The bank raised its rate.",
            "Shares fell.",
            "Bonds rallied.",
            "Profits rose at the bank.",
            "Inflation is high.",
        ],
    }
    labeled = [(text, label.upper() if i == 0 else label) for label in about for i, text in enumerate(about[label])]
    new = {100: "My two cats are napping.", 101: "The market fears inflation and higher rates."}
    common = {"options": [], "context": None, "stratum": None}
    rows = [common | {"row_id": i, "question": text, "answer": label} for i, (text, label) in enumerate(labeled)]
    storage.write_table(f"{tmp_path}/ingest/labeled/p.parquet", pa.Table.from_pylist(rows, schema=LABELED))
    rows = [common | {"row_id": i, "question": text} for i, text in new.items()]
    storage.write_table(f"{tmp_path}/ingest/unlabeled/p.parquet", pa.Table.from_pylist(rows, schema=UNLABELED))
    run_config.task = Classification(labels=list(about))
    run_config.warmup.members, run_config.retrieve.k = 2, 0
    run_config.label.collaborators = [Collaborator(name="probe", kind="probe")]
    inputs = {name: f"{tmp_path}/{name}" for name in ("ingest", "index")}
    index.run(StageContext("index", run_config, inputs["index"], inputs, lambda *_: None))
    assert all(row["probe"] is None for row in storage.read_table(f"{tmp_path}/index/rows").to_pylist())
    crossfit = storage.read_table(f"{tmp_path}/index/crossfit")
    assert crossfit.schema.equals(FOLDED)
    for row in crossfit.to_pylist():
        assert {entry["answer"] for entry in row["probe"]} <= set(about)  # as the label set spells them
        assert sum(entry["share"] for entry in row["probe"]) == pytest.approx(1)
    retrieve.UNLABELED.run(StageContext("retrieve", run_config, f"{tmp_path}/out", inputs, lambda *_: None))
    found = {row["row_id"]: row for row in storage.read_table(f"{tmp_path}/out/rows").to_pylist()}
    likeliest = {i: max(row["probe"], key=lambda entry: entry["share"])["answer"] for i, row in found.items()}
    assert likeliest == {100: "Animals", 101: "money"}
    assert found[100]["neighbor_ids"] == []
