"""A CSV of text and label, from its files to the figures of the test rows, with an engine that follows rules."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.tables import PREDICTED, PSEUDO_LABELED
from semievol.errors import UserError
from semievol.inference.pool import EnginePool, Factory
from semievol.runs.folder import RunFolder
from semievol.stages import evaluate, index, ingest, label, retrieve, select
from semievol.stages.base import StageContext
from semievol.tasks import Row
from semievol.tasks.classification import Classification
from tests.support.engines import LabelEngine

pytestmark = pytest.mark.usefixtures("ray_cluster")
INTENTS = [f"intent_{i}" for i in range(60)]


def write(tmp_path: Path, labeled: list[tuple[str, str]], test: list[tuple[str, str]]) -> None:
    for name, rows in (("labeled", labeled), ("test", test)):
        (tmp_path / f"{name}.csv").write_text("text,label,options\n" + "".join(f"{t},{y},not read\n" for t, y in rows))
    (tmp_path / "unlabeled").mkdir(exist_ok=True)
    rows = [f"unlabeled row {i} [intent_{i}]" for i in range(40)]
    (tmp_path / "unlabeled" / "u.csv").write_text("text\n" + "\n".join(rows) + "\n")


def test_labels_are_found_scored_and_reported(
    run_config: RunConfig, engine_pool: Callable[[Factory], EnginePool], tmp_path: Path
) -> None:
    labeled = [(f"labeled row {i}", INTENTS[i % 60]) for i in range(120)] + [("labeled shout", "INTENT_7")]
    test = [(f"test row {i} [{intent}]", intent) for i, intent in enumerate(INTENTS[:10])]
    test += [("a test row that is misread [intent_0]", "intent_1"), ("unseen", "intent_99")]
    write(tmp_path, labeled, test)
    run_config.data.test = f"{tmp_path}/test.csv"
    run_config.data.columns.question, run_config.data.columns.answer = "text", "label"
    run_config.data.columns.oracle = None
    run_config.task = Classification(show="likeliest", show_tokens=20)
    run_config.engine.extra = {"lists": [""]}  # some label
    run_config.retrieve.by = "bm25"  # tests/e2e has the embedding model
    run_config.limits.max_bad_fraction = 0.0
    folder, engines = RunFolder(str(tmp_path), "run"), engine_pool(LabelEngine)

    def ctx(name: str, *inputs: str) -> StageContext:
        read = {name: folder.stage(name) for name in inputs}
        return StageContext(name, run_config, folder.stage(name), read, lambda *_: None, engines=engines)

    found = ingest.run(ctx("ingest"))
    assert found.rows.out == 121 + 40 + 12 and found.headline.endswith("60 labels")
    assert found.metrics["labels"]["intent_0"] == 2 and found.metrics["labels"]["intent_7"] == 3
    assert sorted(found.metrics["notes"].values()) == [1, 1]
    assert any("'intent_99' never labels a labeled row" in note for note in found.metrics["notes"])
    assert any("'INTENT_7' and 'intent_7' differ in case" in note for note in found.metrics["notes"])
    task = folder.task(run_config.task)
    assert task.choices(Row("", [], None, None)) == sorted(INTENTS)
    (later,) = [
        StageContext("ingest", run_config, f"{tmp_path}/1", {"round-0": folder.stage("ingest")}, lambda *_: None)
    ]
    assert ingest._labels(later, Counter()) == {} and json.loads(Path(f"{tmp_path}/1/labels.json").read_text())

    index.run(ctx("index", "ingest"))
    assert all(row["candidates"] for row in storage.read_table(f"{folder.stage('index')}/rows").to_pylist())
    retrieve.UNLABELED.run(ctx("retrieve", "ingest", "index"))
    retrieve.TEST.run(ctx("evaluate/retrieve", "ingest", "index"))
    answered = label.run(ctx("label", "ingest", "retrieve", "warmup"))
    assert (answered.rows.out, answered.metrics["unanimous"]) == (40, 1.0)
    table = storage.read_table(f"{folder.stage('label')}/rows")
    assert table.schema.equals(PSEUDO_LABELED)
    for row in table.to_pylist():
        assert f"[{row['answer']}]" in row["question"] and 1 <= len(row["candidates"]) < 20
        assert len(row["shares"]) == len(row["responses"][0]["distribution"]) == 33
    chosen = select.run(ctx("select", "label"))
    assert chosen.metrics["selected"] == 20 and len(chosen.metrics["selected_by_answer"]) == 20

    measured = evaluate.run(ctx("evaluate/base", "ingest", "evaluate/retrieve")).metrics
    assert measured["accuracy"] == round(10 / 12, 4) and measured["unparsable"] == 0 and measured["nll"] > 0
    assert measured["labels"]["intent_2"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}
    assert {"true": "intent_1", "answered": "intent_0", "rows": 1} in measured["confusions"]
    assert storage.read_table(f"{folder.stage('evaluate/base')}/rows").schema.equals(PREDICTED)


def test_what_is_no_label_set_stops_ingest(run_config: RunConfig, tmp_path: Path) -> None:
    run_config.data.test = f"{tmp_path}/test.csv"
    run_config.data.columns.question, run_config.data.columns.answer = "text", "label"
    run_config.data.columns.oracle = None
    run_config.task = Classification()
    write(tmp_path, [(f"row {i}", f"an answer in words {i}") for i in range(60)], [("test", "x")])
    ctx = StageContext("ingest", run_config, f"{tmp_path}/out", {}, lambda *_: None)
    with pytest.raises(UserError, match="60 different texts in 60 labeled rows do not look like labels"):
        ingest.run(ctx)
    run_config.task = Classification(labels=["spam", "ham"])
    run_config.limits.max_bad_fraction = 0.0
    write(tmp_path, [("row 1", "spam"), ("row 2", "Ham"), ("row 3", "spamm")], [("test", "ham")])
    with pytest.raises(UserError, match="'spamm'; expected one of the labels 'spam', 'ham'; the nearest is 'spam'"):
        ingest.run(ctx)
