"""Labeling with an engine that follows rules, and selection over what comes out."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from semievol.config import Collaborator, RunConfig, SelectConfig
from semievol.data import storage
from semievol.data.tables import ANSWERED_IN_PART, LABELED, PSEUDO_LABELED, RETRIEVED, SELECTED
from semievol.errors import UserError
from semievol.inference.pool import EnginePool, Factory
from semievol.stages import label, select
from semievol.stages.base import StageContext
from tests.support.engines import RuleEngine, requests

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def engines(engine_pool: Callable[[Factory], EnginePool]) -> EnginePool:
    return engine_pool(RuleEngine)


def prepare(
    tmp_path: Path, config: RunConfig, engines: EnginePool, questions: dict[int, str], with_vote: bool = False
) -> StageContext:
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
    models = [Collaborator(name="a", k=0), Collaborator(name="b", k=0), Collaborator(name="c", k=2)]
    config.label.collaborators = [*models, *([Collaborator(name="d", kind="neighbors", k=2)] if with_vote else [])]
    inputs = {name: f"{tmp_path}/{name}" for name in ("ingest", "retrieve", "warmup")}
    return StageContext("label", config, f"{tmp_path}/label", inputs, lambda *_: None, engines=engines)


def said(row: dict) -> list[str]:
    return [response["answer"] for response in row["responses"]]


def test_agreement_justification_and_quarantine(run_config: RunConfig, engines: EnginePool, tmp_path: Path) -> None:
    questions = {
        10: "say=B row=10 plain",
        11: "say=C row=11 split",
        12: "say=A row=12 mumble",
        13: "x" * 2000 + " say=A row=13",  # too long: the question loses its beginning
        15: "say=A row=15 " + "x" * 2000,
        14: "say=A row=14 " + "x" * 1000,  # fits with one solved example, not with two
    }
    ctx = prepare(tmp_path, run_config, engines, questions)
    result = label.run(ctx)
    result.rows.check("label")
    assert (result.rows.out, result.rows.quarantined) == (4, 2)
    assert (result.metrics["cut_to_fit"], result.metrics["answered_in_part"]) == (1, 0)
    table = storage.read_table(f"{tmp_path}/label/rows")
    assert table.schema.equals(PSEUDO_LABELED)
    rows = {row["row_id"]: row for row in table.to_pylist()}
    assert set(rows) == set(questions)
    assert (rows[10]["answer"], rows[10]["agreement"], rows[10]["justified"]) == ("B", 1.0, False)
    assert said(rows[10]) == ["B", "B", "B"]
    assert [response["collaborator"] for response in rows[10]["responses"]] == ["a", "b", "c"]
    assert rows[10]["nll"] == pytest.approx(0.10)
    assert (rows[10]["token_entropy"], rows[10]["vote_entropy"]) == (0.5, 0.0)
    assert len(set(said(rows[11]))) > 1 and rows[11]["vote_entropy"] > 0
    assert (rows[11]["answer"], rows[11]["justified"]) == ("C", True)  # greedy says what the question says
    assert rows[12]["quarantine_reason"] == "no response could be parsed"
    assert (rows[13]["answer"], rows[13]["responses"][0]["cut"]) == ("A", True)
    assert rows[13]["question"] == questions[13]  # the raw text is kept
    assert rows[15]["quarantine_reason"] == "a: nothing to say"
    assert rows[14]["answer"] == "A"
    counts = Counter(requests(f"{tmp_path}/requests"))
    assert (counts[10], counts[11], counts[12]) == (3, 4, 3)


def test_neighbours_vote_without_the_engine(run_config: RunConfig, engines: EnginePool, tmp_path: Path) -> None:
    run_config.label.justify = False
    label.run(prepare(tmp_path, run_config, engines, {10: "say=A row=10", 11: "say=B row=11"}, with_vote=True))
    rows = {row["row_id"]: row for row in storage.read_table(f"{tmp_path}/label/rows").to_pylist()}
    assert said(rows[10]) == ["A", "A", "A", "A"]  # both neighbours answer x, which is A here too
    assert rows[10]["responses"][3]["distribution"] == [{"answer": "A", "share": 1.0}]
    assert (rows[11]["answer"], said(rows[11])[3], rows[11]["agreement"]) == ("B", "A", 0.75)
    assert rows[11]["vote_entropy"] == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    assert Counter(requests(f"{tmp_path}/requests")) == {10: 3, 11: 3}


def test_dead_engines_are_replaced_and_a_poisoned_row_costs_nothing_but_itself(
    run_config: RunConfig, engines: EnginePool, tmp_path: Path
) -> None:
    """One row kills an engine once, another one each that is asked it."""
    killers = {7: "die", 37: "poison"}
    questions = {100 + i: f"say=B row={100 + i} {killers.get(i, '')}" for i in range(60)}
    run_config.label.rows_per_commit = 20
    run_config.resources.label.num_gpus = 2  # all there are: the next engine waits until the dead one has let go
    result = label.run(prepare(tmp_path, run_config, engines, questions))
    assert (result.rows.out, result.rows.quarantined) == (59, 1)
    rows = {row["row_id"]: row for row in storage.read_table(f"{tmp_path}/label/rows").to_pylist()}
    assert sorted(rows) == sorted(questions)
    assert [row["row_id"] for row in rows.values() if row["answer"] != "B"] == [137]
    reason = rows[137]["quarantine_reason"]
    assert reason.startswith("a: the engine failed each time it was asked this row: it died")
    starts = (tmp_path / "requests.starts").read_text().split()
    assert (tmp_path / "requests.died").exists()
    assert len(starts) <= 1 + 1 + 2 + 5 + 2  # once, then by chance twice, then bisection, then by itself twice


def test_an_engine_that_hangs_is_replaced(run_config: RunConfig, engines: EnginePool, tmp_path: Path) -> None:
    questions = {100 + i: f"say=B row={100 + i} {'hang' if i == 1 else ''}" for i in range(2)}
    run_config.label.rows_per_commit = 2
    run_config.limits.no_progress_s = 2.0
    result = label.run(prepare(tmp_path, run_config, engines, questions))
    assert (result.rows.out, result.rows.quarantined) == (1, 1)
    rows = {row["row_id"]: row for row in storage.read_table(f"{tmp_path}/label/rows").to_pylist()}
    assert "no row was finished in 2 s (limits.no_progress_s)" in rows[101]["quarantine_reason"]


def test_an_engine_that_always_dies_ends_the_stage_and_quarantines_nothing(
    run_config: RunConfig, engines: EnginePool, tmp_path: Path
) -> None:
    questions = {100 + i: f"say=B row={100 + i}" for i in range(20)}
    ctx = prepare(tmp_path, run_config, engines, questions)
    run_config.engine.extra["broken"] = True
    with pytest.raises(
        UserError, match=r"0 of 20 rows are answered.*Its engine fails whatever it is asked: it died"
    ) as failed:
        label.run(ctx)
    assert "The oldest row that waits for it: 1" in str(failed.value)
    engines.release()
    run_config.engine.extra["broken"] = False
    assert label.run(ctx).rows.out == 20


def test_an_engine_that_never_starts_ends_the_stage(run_config: RunConfig, engines: EnginePool, tmp_path: Path) -> None:
    ctx = prepare(tmp_path, run_config, engines, {10: "say=B row=10"})
    run_config.engine.extra["stuck"], run_config.engine.start_timeout_s = 0, 1.0
    with pytest.raises(UserError, match=r"0 of 1 rows are answered.*lost 3 times before it was ready.*start_timeout_s"):
        label.run(ctx)
    assert len((tmp_path / "requests.starts").read_text().split()) == 3


def test_an_engine_that_dies_and_never_starts_again_ends_the_stage(
    run_config: RunConfig, engines: EnginePool, tmp_path: Path
) -> None:
    questions = {100 + i: f"say=B row={100 + i} {'die' if i == 17 else ''}" for i in range(40)}
    run_config.label.rows_per_commit = 4  # several are asked when it dies
    ctx = prepare(tmp_path, run_config, engines, questions)
    run_config.engine.extra["stuck"], run_config.engine.start_timeout_s = 1, 1.0
    with pytest.raises(UserError, match=r"of 40 rows are answered.*lost 3 times before it was ready"):
        label.run(ctx)
    assert len((tmp_path / "requests.starts").read_text().split()) == 1 + 3


def test_an_interrupted_stage_asks_only_for_what_was_not_committed(
    run_config: RunConfig, engines: EnginePool, tmp_path: Path
) -> None:
    questions = {100 + i: f"say=B row={100 + i}" for i in range(60)}
    run_config.label.rows_per_commit = 10
    ctx = prepare(tmp_path, run_config, engines, questions)
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

    # A crash between the data of a block and its commit leaves ids that are pending, and data that may be half written.
    commit, *_ = (Path(ctx.out) / "_commits" / "rows").glob("*.parquet")
    (data,) = (Path(ctx.out) / "rows").glob(f"{commit.stem}*")
    lost = storage.count_rows(str(commit))
    commit.rename(commit.with_suffix(".pending.parquet"))
    data.write_bytes(b"half")
    before = len(requests(f"{tmp_path}/requests"))
    assert label.run(ctx).rows.out == 60
    assert len(requests(f"{tmp_path}/requests")) == before + 3 * lost  # by three collaborators
    assert storage.read_table(f"{ctx.out}/rows").sort_by("row_id").equals(by_id[1])

    starts = tmp_path / "requests.starts"
    assert len(starts.read_text().split()) == 1  # stages with the same weights have the same engine
    label.run(replace(ctx, out=f"{tmp_path}/label-other", inputs=ctx.inputs | {"warmup": f"{tmp_path}/other"}))
    assert len(set(starts.read_text().split())) == 2  # other weights


def test_selection_is_the_exact_quantile_with_floor_and_caps(run_config: RunConfig, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"row_id": int(i), "question": "q", "options": ["x", "y"], "context": None, "answer": "AB"[int(i) % 3 == 0]}
        | {"nll": float(rng.random()), "agreement": [1.0, 0.5][int(i) % 2], "justified": False}
        | {"vote_entropy": 0.0, "stratum": "stu"[int(i) % 3]}
        for i in rng.permutation(1000)
    ]
    rows[7] |= {"answer": None, "nll": None, "agreement": None, "quarantine_reason": "none"}
    for part in range(5):
        table = pa.Table.from_pylist(rows[part::5], schema=PSEUDO_LABELED)
        storage.write_table(f"{tmp_path}/label/rows/part-{part}.parquet", table)
    ctx = StageContext("select", run_config, f"{tmp_path}/out", {"label": f"{tmp_path}/label"}, lambda *_: None)
    run_config.select.confidence, run_config.select.theta = "nll", 0.25
    result = select.run(ctx)
    answered = sorted((row for row in rows if row["answer"]), key=lambda row: row["nll"])
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

    run_config.select = SelectConfig(confidence="nll", theta=0.25, per="stratum", sample=0.5)
    result = select.run(ctx)
    table = storage.read_table(f"{tmp_path}/out/rows")
    # Ids as small as these are no hashes, and all of them are in any sample.
    strata = [[row for row in answered if row["stratum"] == name] for name in "stu"]
    expected = {row["row_id"] for rows in strata for row in rows[: -(-len(rows) // 4)]}
    assert {row["row_id"] for row in table.to_pylist() if row["selected"]} == expected

    run_config.select = SelectConfig(confidence="token_entropy")
    with pytest.raises(UserError, match="999 of 999 pseudo-labels have no token_entropy"):
        select.run(ctx)


def test_scores_mix_with_votes_and_each_set_of_weights_has_a_pass(
    run_config: RunConfig, engines: EnginePool, tmp_path: Path
) -> None:
    ctx = prepare(tmp_path, run_config, engines, {10: "say=A row=10", 11: "say=B row=11 split"}, with_vote=True)
    run_config.label.mode = "score"
    run_config.label.collaborators[0].model = "base"
    assert [(work.members, work.last) for work in label.passes(ctx)] == [((0,), False), ((1, 2, 3), True)]
    result = label.run(ctx)
    assert result.rows.out == 2
    rows = {row["row_id"]: row for row in storage.read_table(f"{tmp_path}/label/rows").to_pylist()}
    assert [response["collaborator"] for response in rows[11]["responses"]] == ["a", "b", "c", "d"]
    assert said(rows[11]) == ["B", "B", "B", "A"]
    shares = {entry["answer"]: entry["share"] for entry in rows[11]["responses"][0]["distribution"]}
    assert shares == pytest.approx({"A": 0.0275, "B": 0.945, "C": 0.0275})
    assert (rows[11]["answer"], rows[11]["justified"]) == ("B", True)
    in_part = storage.read_table(f"{tmp_path}/label/pass-0/rows")
    assert in_part.schema.equals(ANSWERED_IN_PART) and len(in_part) == 2
