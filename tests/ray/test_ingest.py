"""Ingest, with every wart that the shapes of real files have shown."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.inputs import inputs
from semievol.data.row_checks import RowChecks
from semievol.data.tables import LABELED, ORACLE, QUARANTINE, UNLABELED, row_id
from semievol.errors import UserError
from semievol.runtime import cluster
from semievol.stages import ingest
from semievol.stages.base import Rows, StageContext
from semievol.tasks import Row
from semievol.tasks.multiple_choice import MultipleChoice
from semievol.tasks.numeric import Numeric
from tests.support.malformed import FILES, UNREADABLE

pytestmark = pytest.mark.usefixtures("ray_cluster")
OPTIONS = ["x", "y", "z"]


def write(tmp_path: Path, labeled: str, unlabeled: list[list[dict]], test: list[dict]) -> None:
    (tmp_path / "labeled.csv").write_text(labeled)
    (tmp_path / "unlabeled").mkdir()
    for i, shard in enumerate(unlabeled):
        (tmp_path / "unlabeled" / f"{i}.jsonl").write_text("\n".join(map(json.dumps, shard)))
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, test)))


def row(question: str, **more: object) -> dict:
    return {"question": question, "options": OPTIONS} | more


def context(config: RunConfig, tmp_path: Path) -> StageContext:
    return StageContext("ingest", config, f"{tmp_path}/out", {}, lambda *_: None)


def test_every_row_has_a_fate(run_config: RunConfig, tmp_path: Path) -> None:
    labeled = 'question,options,answer\nl1,"[""x"", ""y"", ""z""]",A\nl2,"[""x"", ""y"", ""z""]",y\n'
    labeled += 'l1,"[""x"", ""y"", ""z""]",A\n'  # a duplicate
    labeled += 'torn,"[""x"", ""y"", ""z""]",A\ntorn,"[""x"", ""y"", ""z""]",B\n'  # a contradiction
    labeled += 't1,"[""x"", ""y"", ""z""]",A\n'  # also in test
    labeled += 'l3,"[""x"", NaN]",A\nl4,too,many,fields\n'
    unlabeled = [
        [row("u1", truth="A"), row("u2", truth="2"), row(" u1 "), {"options": OPTIONS}],
        [row("u3"), row("u1"), row("l2"), row("t1"), row("u4", truth="C")],
    ]
    test = [row("t1", answer="B"), row("t1", answer="B"), row("t2", answer="W"), row("t3", answer="C")]
    write(tmp_path, labeled, unlabeled, test)
    result = ingest.run(context(run_config, tmp_path))
    result.rows.check("ingest")
    assert result.metrics["splits"] == {
        "test": {"kept": 2, "quarantined": 1, "duplicate": 1, "leak": 0},
        "labeled": {"kept": 2, "quarantined": 4, "duplicate": 1, "leak": 1},
        "unlabeled": {"kept": 4, "quarantined": 1, "duplicate": 3, "leak": 1},
    }
    assert result.metrics["reasons"]["labeled: equal rows with different answers: A, B"] == 2
    assert result.metrics["notes"] == {
        "unlabeled: the oracle is not an answer to the row (row kept, oracle dropped)": 1
    }

    kept = storage.read_table(f"{tmp_path}/out/unlabeled")
    assert kept.schema == UNLABELED  # no oracle, no answer: the method cannot see them
    assert set(kept["question"].to_pylist()) == {"u1", "u2", "u3", "u4"}
    assert set(kept["row_id"].to_pylist()) == {row_id(Row(q, OPTIONS, None, None)) for q in ("u1", "u2", "u3", "u4")}
    labeled_rows = storage.read_table(f"{tmp_path}/out/labeled")
    assert labeled_rows.schema == LABELED
    assert dict(zip(labeled_rows["question"].to_pylist(), labeled_rows["answer"].to_pylist(), strict=True)) == {
        "l1": "A",
        "l2": "B",
    }
    oracle = storage.read_table(f"{tmp_path}/out/oracle")
    assert oracle.schema == ORACLE
    assert sorted(oracle["oracle"].to_pylist()) == ["A", "C"]
    quarantine = storage.read_table(f"{tmp_path}/out/quarantine")
    assert quarantine.schema == QUARANTINE
    assert len(quarantine) == 6
    assert all(quarantine[name].null_count == 0 for name in ("stage", "reason", "source", "raw"))


def test_what_is_wrong_with_the_files_is_said_by_name(run_config: RunConfig, tmp_path: Path) -> None:
    labeled, test = 'question,options,answer\nl,"[""x"", ""y""]",A\n', [row("t", answer="W")]
    write(tmp_path, labeled, [[row("u", truth="A")]], test)
    with pytest.raises(
        UserError,
        match=r"data.test: no usable row .*\n  .*test.jsonl:1: column 'answer' is not an answer to the row: 'W'",
    ):
        ingest.run(context(run_config, tmp_path))
    (tmp_path / "labeled.csv").write_text("query,options,answer\n")
    with pytest.raises(UserError, match=r"labeled.csv has no column 'question'; it has query, options, answer"):
        ingest.run(context(run_config, tmp_path))
    (tmp_path / "labeled.csv").write_text(labeled)
    (tmp_path / "unlabeled" / "0.jsonl").unlink()
    with pytest.raises(UserError, match=r"data.unlabeled: no file at"):
        inputs(run_config)


def test_a_hundred_malformed_shards_are_accounted_for(run_config: RunConfig, tmp_path: Path) -> None:
    labeled, test = 'question,options,answer\nl,"[""x"", ""y""]",A\n', [row("t", answer="A")]
    write(tmp_path, labeled, [[row(f"u{i}", truth="A") for i in range(2000)]], test)
    for name, content in FILES.items():
        (tmp_path / "unlabeled" / name).write_bytes(content())
    with pytest.raises(UserError, match=rf"data.unlabeled: {tmp_path}/unlabeled/.*: cannot be read: "):
        ingest.run(context(run_config, tmp_path))
    run_config.limits.bad_shards = "quarantine"
    result = ingest.run(context(run_config, tmp_path))
    result.rows.check("ingest")
    assert result.metrics["splits"]["unlabeled"]["kept"] > 2000
    assert result.metrics["reasons"]["unlabeled: the shard cannot be read to its end"] >= len(UNREADABLE) - 2
    quarantine = storage.read_table(f"{tmp_path}/out/quarantine")
    assert len(quarantine) == result.rows.quarantined
    assert all(quarantine[name].null_count == 0 for name in ("stage", "reason", "source", "raw"))
    (tmp_path / "unlabeled" / "0.jsonl").write_text(json.dumps(row("u", truth="A")))  # little but wrecks
    with pytest.raises(UserError, match=r"stage ingest: .* rows cannot be used, over limits.max_bad_fraction"):
        run_config.limits.max_bad_fraction = 0.1
        ingest.run(context(run_config, tmp_path))


def test_files_that_arrive_later_bring_only_rows_that_no_round_has(run_config: RunConfig, tmp_path: Path) -> None:
    labeled = 'question,options,answer\nl1,"[""x"", ""y"", ""z""]",A\n'
    write(tmp_path, labeled, [[row("u1", truth="A"), row("u2"), row("u3")]], [row("t1", answer="B")])
    first = context(run_config, tmp_path)
    ingest.run(first)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    arrived = [row("u2"), row("u4", truth="B"), row("u4"), row("l1"), row("t1"), row(""), row(" u1 "), row("u5")]
    (tmp_path / "unlabeled" / "1.jsonl").write_text("\n".join(map(json.dumps, arrived)))
    later = replace(
        first,
        out=f"{tmp_path}/later",
        inputs={"round-0": first.out},
        files=tuple(storage.find(f"{tmp_path}/unlabeled/1.jsonl")),
    )
    result = ingest.run(later)
    result.rows.check("ingest")
    assert result.rows == Rows(came_in=8, out=2, quarantined=1, duplicates=4, leaks=1)
    assert result.metrics["splits"] == {"unlabeled": {"kept": 2, "quarantined": 1, "duplicate": 4, "leak": 1}}
    kept = storage.read_table(f"{tmp_path}/later/unlabeled")
    assert kept.schema == UNLABELED and set(kept["question"].to_pylist()) == {"u4", "u5"}
    assert storage.read_table(f"{tmp_path}/later/oracle")["oracle"].to_pylist() == ["B"]
    assert not storage.exists(f"{tmp_path}/later/labeled") and not storage.exists(f"{tmp_path}/later/test")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")} == before

    (tmp_path / "unlabeled" / "2.jsonl").write_text("\n".join(json.dumps(row(q)) for q in ("u5", "u1", "l1")))
    nothing = replace(
        later,
        out=f"{tmp_path}/nothing",
        inputs={"round-0": first.out, "round-1": later.out},
        files=tuple(storage.find(f"{tmp_path}/unlabeled/2.jsonl")),
    )
    assert ingest.run(nothing).rows == Rows(came_in=3, out=0, duplicates=3)


def test_numeric_rows_need_no_options(run_config: RunConfig, tmp_path: Path) -> None:
    run_config.task = Numeric()
    unlabeled = [[{"question": "u1", "truth": 0}, {"question": "u2", "truth": "12%"}, {"question": "u3", "truth": [1]}]]
    write(tmp_path, 'question,answer\nl1,"(1,234)"\n', unlabeled, [{"question": "t1", "answer": 0.14}])
    result = ingest.run(context(run_config, tmp_path))
    result.rows.check("ingest")
    assert storage.read_table(f"{tmp_path}/out/labeled")["answer"].to_pylist() == ["-1234"]
    assert storage.read_table(f"{tmp_path}/out/test")["answer"].to_pylist() == ["0.14"]
    assert storage.read_table(f"{tmp_path}/out/unlabeled")["options"].to_pylist() == [[], [], []]
    assert sorted(storage.read_table(f"{tmp_path}/out/oracle")["oracle"].to_pylist()) == ["0", "1", "12%"]
    run_config.task = MultipleChoice()
    with pytest.raises(UserError, match=r"test.jsonl has no column 'options'; it has question, answer"):
        ingest.run(context(run_config, tmp_path))


def test_too_many_bad_rows_stop_the_run_with_examples(run_config: RunConfig, tmp_path: Path) -> None:
    run_config.limits.max_bad_fraction = 0.3
    labeled, test = 'question,options,answer\nl,"[""x"", ""y""]",A\n', [row("t", answer="A")]
    write(tmp_path, labeled, [[row("u", truth="A"), {"options": OPTIONS}, row("")]], test)
    with pytest.raises(UserError, match=r"2 of 5 rows .* limits.max_bad_fraction = 0.3(.|\n)*0.jsonl:2"):
        ingest.run(context(run_config, tmp_path))


def test_shares_of_the_labeled_rows_are_held_back(run_config: RunConfig, tmp_path: Path) -> None:
    listed = '"[""x"", ""y"", ""z""]"'
    labeled = [f"l{i},{listed},{'AB'[i % 2]}\n" for i in range(40)] + [f"once,{listed},C\n", f"l0,{listed},A\n"]
    write(
        tmp_path, "question,options,answer\n" + "".join(labeled), [[row(f"l{i}") for i in range(40)] + [row("u")]], []
    )
    run_config.data.test, run_config.data.validation = 0.2, f"{tmp_path}/validation.jsonl"
    run_config.data.columns.oracle = None
    (tmp_path / "validation.jsonl").write_text("\n".join(json.dumps(row(q, answer="A")) for q in ("l1", "v")))

    def ids(split: str) -> set[int]:
        return set(storage.read_table(f"{tmp_path}/out/{split}")["row_id"].to_pylist())

    result = ingest.run(context(run_config, tmp_path))
    result.rows.check("ingest")
    assert result.headline == "32 labeled, 1 unlabeled, 8 test, 2 validation"
    assert {split: n["kept"] for split, n in result.metrics["splits"].items()} == {
        **{"test": 8, "validation": 2, "labeled": 32, "unlabeled": 1}
    }
    assert result.metrics["splits"]["labeled"] == {"kept": 32, "quarantined": 0, "duplicate": 1, "leak": 1}
    assert result.metrics["splits"]["unlabeled"]["duplicate"] == 39  # of labeled rows, those of the test too
    assert result.metrics["notes"] == {"test: labels with no row, as they have too few": 1}
    test = storage.read_table(f"{tmp_path}/out/test")
    assert test.schema == LABELED and sorted(test["answer"].to_pylist()) == ["A"] * 4 + ["B"] * 4
    assert not ids("test") & ids("labeled") and len(ids("test") | ids("labeled")) == 40
    before = {split: ids(split) for split in ("labeled", "test", "validation")}

    resumed = ingest.run(context(run_config, tmp_path))  # over what an earlier attempt has left
    assert resumed.rows == result.rows and {split: ids(split) for split in before} == before
    (tmp_path / "labeled.csv").write_text("question,options,answer\n" + "".join(reversed(labeled)))
    (tmp_path / "unlabeled" / "0.jsonl").rename(tmp_path / "unlabeled" / "again.jsonl")
    tables = {split: storage.read_table(f"{tmp_path}/out/{split}") for split in ("unlabeled", *before)}
    ingest.run(context(run_config, tmp_path))
    # Whatever order rows have, and whatever names files.
    assert {split: storage.read_table(f"{tmp_path}/out/{split}") for split in tables} == tables
    checks = RowChecks(f"{tmp_path}/out", {}, result.rows.came_in, result.rows.out, result.rows.quarantined)
    ingest.STAGE.verify(checks)
    assert checks.problems == [] and checks.rows == 43

    question = test["question"][0].as_py()  # a later file brings a test row
    (tmp_path / "unlabeled" / "1.jsonl").write_text("\n".join(json.dumps(row(q)) for q in (question, "v", "u2")))
    files = tuple(storage.find(f"{tmp_path}/unlabeled/1.jsonl"))
    later = replace(
        context(run_config, tmp_path), out=f"{tmp_path}/later", inputs={"round-0": f"{tmp_path}/out"}, files=files
    )
    assert ingest.run(later).rows == Rows(came_in=3, out=1, leaks=2)
    assert not storage.exists(f"{tmp_path}/later/test")


def test_a_share_that_is_no_row_is_refused(run_config: RunConfig, tmp_path: Path) -> None:
    listed = '"[""x"", ""y"", ""z""]"'
    write(tmp_path, f"question,options,answer\nl1,{listed},A\nl2,{listed},B\n", [[row("u")]], [])
    run_config.data.test, run_config.data.columns.oracle = 0.2, None
    with pytest.raises(RayTaskError) as wrapped:
        ingest.run(context(run_config, tmp_path))
    assert "data.test: 0.2 of 2 labeled rows is no row" in str(cluster.user_error(wrapped.value))
