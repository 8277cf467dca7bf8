"""Labeling with an engine that follows rules, and selection over what comes out."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from semievol import storage
from semievol.config import Collaborator, RunConfig
from semievol.schema import LABELED, PSEUDO_LABELED, RETRIEVED, SELECTED
from semievol.stages import label, select
from semievol.stages.context import StageContext
from tests.ray.fakes import RuleEngine, requests

pytestmark = pytest.mark.usefixtures("ray_cluster")


def prepare(tmp_path: Path, config: RunConfig, questions: dict[int, str], with_vote: bool = False) -> StageContext:
    rows = [
        {"row_id": i, "question": q, "options": ["x", "y", "z"], "context": None}
        | {"neighbor_ids": [1, 2], "neighbor_scores": [0.9, 0.8]}
        for i, q in questions.items()
    ]
    for part, chunk in enumerate(np.array_split(np.arange(len(rows)), 4)):
        table = pa.Table.from_pylist([rows[i] for i in chunk], schema=RETRIEVED)
        storage.write_table(f"{tmp_path}/retrieve/rows/part-{part}.parquet", table)
    solved = [
        {
            "row_id": i,
            "question": f"say=A row={i} " + "long " * 100,
            "options": ["x", "y"],
            "context": None,
            "answer": "A",
        }
        for i in (1, 2)
    ]
    storage.write_table(f"{tmp_path}/ingest/labeled/p.parquet", pa.Table.from_pylist(solved, schema=LABELED))
    config.engine.extra = {"log": f"{tmp_path}/requests"}
    models = [Collaborator("a", k=0), Collaborator("b", k=0), Collaborator("c", k=2)]
    config.label.collaborators = [*models, *([Collaborator("d", "neighbors", k=2)] if with_vote else [])]
    inputs = {name: f"{tmp_path}/{name}" for name in ("ingest", "retrieve", "warmup")}
    return StageContext("label", config, f"{tmp_path}/label", inputs, lambda *_: None, engine=RuleEngine)


def test_agreement_justification_and_quarantine(run_config: RunConfig, tmp_path: Path) -> None:
    questions = {
        10: "say=B row=10 plain",
        11: "say=C row=11 split",
        12: "say=A row=12 mumble",
        13: "say=A row=13 " + "x" * 2000,
        14: "say=A row=14 " + "x" * 1000,  # fits with one solved example, not with two
    }
    ctx = prepare(tmp_path, run_config, questions)
    result = label.run(ctx)
    result.rows.check("label")
    assert (result.rows.out, result.rows.quarantined) == (3, 2)
    table = storage.read_table(f"{tmp_path}/label/rows")
    assert table.schema.equals(PSEUDO_LABELED)
    rows = {row["row_id"]: row for row in table.to_pylist()}
    assert set(rows) == set(questions)
    assert (rows[10]["answer"], rows[10]["agreement"], rows[10]["justified"]) == ("B", 1.0, False)
    assert rows[10]["answers"] == ["B", "B", "B"]
    assert rows[10]["entropy"] == pytest.approx(0.10)
    assert len(set(rows[11]["answers"])) > 1
    assert (rows[11]["answer"], rows[11]["justified"]) == ("C", True)  # greedy says what the question says
    assert rows[12]["quarantine_reason"] == "no response could be parsed"
    assert "tokens" in rows[13]["quarantine_reason"]
    assert rows[13]["question"] == questions[13]  # the raw text is kept
    assert rows[14]["answer"] == "A"
    counts = Counter(requests(f"{tmp_path}/requests"))
    assert (counts[10], counts[11], counts[12]) == (3, 4, 3)


def test_neighbours_vote_without_the_engine(run_config: RunConfig, tmp_path: Path) -> None:
    run_config.label.justify = False
    label.run(prepare(tmp_path, run_config, {10: "say=A row=10", 11: "say=B row=11"}, with_vote=True))
    rows = {row["row_id"]: row for row in storage.read_table(f"{tmp_path}/label/rows").to_pylist()}
    assert rows[10]["answers"] == ["A", "A", "A", "A"]  # both neighbours answer x, which is A here too
    assert rows[10]["entropies"][3] == 0.0
    assert (rows[11]["answer"], rows[11]["answers"][3], rows[11]["agreement"]) == ("B", "A", 0.75)
    assert Counter(requests(f"{tmp_path}/requests")) == {10: 3, 11: 3}


def test_a_dead_engine_is_replaced_and_no_row_is_lost_or_doubled(run_config: RunConfig, tmp_path: Path) -> None:
    questions = {100 + i: f"say=B row={100 + i} {'die' if i == 37 else ''}" for i in range(60)}
    run_config.label.rows_per_commit = 10
    label.run(prepare(tmp_path, run_config, questions))
    rows = storage.read_table(f"{tmp_path}/label/rows")
    assert sorted(rows["row_id"].to_pylist()) == sorted(questions)
    assert set(rows["answer"].to_pylist()) == {"B"}
    assert (tmp_path / "requests.died").exists()


def test_an_interrupted_stage_asks_only_for_what_was_not_committed(run_config: RunConfig, tmp_path: Path) -> None:
    questions = {100 + i: f"say=B row={100 + i}" for i in range(60)}
    run_config.label.rows_per_commit = 10
    ctx = prepare(tmp_path, run_config, questions)
    whole = tmp_path / "retrieve" / "rows" / "part-3.parquet"
    whole.rename(tmp_path / "later.parquet")  # as if the run had been killed before the last part
    label.run(ctx)
    first = requests(f"{tmp_path}/requests")
    (tmp_path / "later.parquet").rename(whole)
    result = label.run(ctx)
    assert result.rows.out == 60
    again = requests(f"{tmp_path}/requests")[len(first) :]
    assert set(first) & set(again) == set()
    assert set(first) | set(again) == set(questions)
    undisturbed = replace(ctx, out=f"{tmp_path}/label-again")
    label.run(undisturbed)
    by_id = [storage.read_table(f"{uri}/rows").sort_by("row_id") for uri in (ctx.out, undisturbed.out)]
    assert by_id[0].equals(by_id[1])


def test_selection_is_the_exact_quantile_with_floor_and_caps(run_config: RunConfig, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"row_id": int(i), "question": "q", "options": ["x", "y"], "context": None, "answer": "AB"[int(i) % 3 == 0]}
        | {"entropy": float(rng.random()), "agreement": [1.0, 0.5][int(i) % 2], "justified": False}
        for i in rng.permutation(1000)
    ]
    rows[7] |= {"answer": None, "entropy": None, "agreement": None, "quarantine_reason": "none"}
    for part in range(5):
        table = pa.Table.from_pylist(rows[part::5], schema=PSEUDO_LABELED)
        storage.write_table(f"{tmp_path}/label/rows/part-{part}.parquet", table)
    ctx = StageContext("select", run_config, f"{tmp_path}/out", {"label": f"{tmp_path}/label"}, lambda *_: None)
    run_config.select.theta = 0.25
    result = select.run(ctx)
    answered = sorted((row for row in rows if row["answer"]), key=lambda row: row["entropy"])
    assert (result.rows.came_in, result.rows.out, result.metrics["selected"]) == (999, 999, 250)
    table = storage.read_table(f"{tmp_path}/out/rows")
    assert table.schema.equals(SELECTED)
    chosen = {row["row_id"] for row in table.to_pylist() if row["selected"]}
    assert chosen == {row["row_id"] for row in answered[:250]}

    run_config.select.min_agreement, run_config.select.max_per_answer = 0.75, 30
    result = select.run(ctx)
    agreeing = [row for row in answered if row["agreement"] == 1.0]
    passing = agreeing[: -(-len(agreeing) // 4)]  # the quantile is among the rows that pass the floor
    expected = {row["row_id"] for letter in "AB" for row in [r for r in passing if r["answer"] == letter][:30]}
    table = storage.read_table(f"{tmp_path}/out/rows")
    assert {row["row_id"] for row in table.to_pylist() if row["selected"]} == expected
    assert result.metrics["rejected"]["agreement below the floor"] == 999 - len(agreeing)
    assert result.metrics["rejected"]["entropy above the theta-quantile"] == len(agreeing) - len(passing)
    assert sum(result.metrics["rejected"].values()) + result.metrics["selected"] == 999
