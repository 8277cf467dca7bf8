"""The labeler by itself, on an engine that follows rules; with Ray it runs in tests/ray, with vLLM in tests/e2e."""

import asyncio
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from semievol.config import Collaborator, EmbeddingConfig, EngineConfig
from semievol.data.tables import LABELED_RETRIEVED, PREDICTED
from semievol.engines import Completion
from semievol.engines.openai import OpenAIEngine
from semievol.errors import UserError
from semievol.inference.labeler import Labeler, Labeling, Panel, Pass
from semievol.method.confidence import entropy
from semievol.method.prompts import Messages, Prompts
from semievol.tasks import Task
from semievol.tasks.classification import Classification
from semievol.tasks.multiple_choice import MultipleChoice
from semievol.tasks.open_ended import OpenEnded
from tests.support.engines import LabelEngine, RuleEngine


def answered(
    tmp_path: Path, task: Task, rows: list[dict[str, Any]], refused: str | None = None, **labeler: Any
) -> list[dict[str, Any]]:
    samples = labeler.pop("samples", 1)
    greedy = Collaborator(name="greedy", k=0, samples=samples, temperature=float(samples > 1))
    who = labeler.pop("who", greedy)
    silent = SimpleNamespace(remote=lambda *_: None)
    labeling = Labeling(
        work=Pass("m", labeler.pop("endpoint", None), (0,), last=True),
        panel=Panel(Prompts(task), (who,), "", EmbeddingConfig(), mode=labeler.pop("mode", "sample")),
        schema=PREDICTED,
        key="label.collaborators[0].endpoint",
    )
    engine = labeler.pop("engine", RuleEngine("m", EngineConfig(extra={"log": f"{tmp_path}/log"})))
    progress = SimpleNamespace(add=silent, report=silent, stop=SimpleNamespace(remote=labeler.pop("stop", None)))
    names = {"answer": "gold"}
    batch = pa.Table.from_pylist(rows, schema=LABELED_RETRIEVED)
    batch = batch.rename_columns([names.get(name, name) for name in batch.column_names])
    found: list[dict[str, Any]] = asyncio.run(
        Labeler(engine, labeling, progress, **labeler).answer(batch, refused)
    ).to_pylist()
    return found


def test_open_ended_responses_are_also_scored_by_the_likelihood_of_the_true_one(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"row_id": 1, "question": "say=A row=1", "options": [], "context": None, "answer": "A it is"},
        {"row_id": 2, "question": "say=A row=2", "options": [], "context": None, "answer": "no"},
        {"row_id": 3, "question": "nothing", "options": [], "context": None, "answer": "no"},  # a request refused
    ]
    found = answered(tmp_path, OpenEnded(), rows)
    assert [row["likelihood"] for row in found] == [pytest.approx(-0.5), pytest.approx(-2.0), None]
    assert [row["answer"] for row in found] == ["Answer: A", "Answer: A", None]
    closed = [row | {"options": ["x", "y"], "answer": "A"} for row in rows]
    assert [row["likelihood"] for row in answered(tmp_path, MultipleChoice(), closed)] == [None] * 3


def test_a_missing_key_ends_the_stage_and_not_the_actor(tmp_path: Path) -> None:
    problems: list[str] = []

    async def stop(problem: str) -> None:
        problems.append(problem)

    row = {"row_id": 1, "question": "say=A row=1", "options": ["x", "y"], "context": None, "answer": "A"}
    with pytest.raises(UserError) as missing:
        OpenAIEngine("gpt", EngineConfig(kind="openai", endpoint="http://192.0.2.1/v1", api_key_env="NO_SUCH_KEY"))
    without = {"engine": missing.value, "endpoint": "http://192.0.2.1/v1"}
    assert answered(tmp_path, MultipleChoice(), [row], stop=stop, **without) == []
    assert len(problems) == 1  # and the row is asked again when it is mended
    assert (
        problems[0].startswith("label.collaborators[0].endpoint: ")
        and "NO_SUCH_KEY (engine.api_key_env)" in problems[0]
    )


def test_rows_that_an_engine_must_not_be_asked_say_why(tmp_path: Path) -> None:
    row = {"row_id": 1, "question": "say=A row=1", "options": ["x", "y"], "context": None, "answer": "A"}
    (found,) = answered(tmp_path, MultipleChoice(), [row], refused="it kills")
    assert (found["answer"], found["quarantine_reason"]) == (None, "greedy: it kills")
    assert not (tmp_path / "log").exists()


def test_a_thousand_labels_are_scored_and_the_likeliest_are_kept(tmp_path: Path) -> None:
    names = [f"label {i}" for i in range(1000)]
    task = Classification(labels=names)
    common: dict[str, Any] = {"options": [], "context": None}
    rows = [
        common | {"row_id": 1, "question": "[label 7]", "answer": "label 7"},
        common | {"row_id": 2, "question": "[label 8]", "answer": "Label 9"},
        common | {"row_id": 3, "question": "[label 8]", "answer": "unheard of"},
    ]
    engine = LabelEngine("m", EngineConfig())
    found = answered(tmp_path, task, rows, engine=engine, mode="score")
    rest = 0.1 / 999
    assert [row["answer"] for row in found] == ["label 7", "label 8", "label 8"]
    assert [row["likelihood"] for row in found] == [
        pytest.approx(math.log(0.9)),
        pytest.approx(math.log(rest), rel=1e-5),
        None,
    ]
    for row in found:
        (response,) = row["responses"]
        for kept in (response["distribution"], row["shares"]):
            assert len(kept) == 33 and kept[0] == {"answer": row["answer"], "share": pytest.approx(0.9)}
            assert kept[-1] == {"answer": None, "share": pytest.approx(968 * rest, rel=1e-4)}
        assert row["nll"] == pytest.approx(-math.log(0.9))
        whole = entropy([0.9, *[rest] * 999])  # of all labels, not of those that are kept
        assert row["vote_entropy"] == row["token_entropy"] == pytest.approx(whole, rel=1e-5)
    few = answered(tmp_path, Classification(labels=["label 7", "label 8"]), rows[:1], engine=engine, mode="score")
    assert few[0]["shares"] == few[0]["responses"][0]["distribution"] and len(few[0]["shares"]) == 2


def test_sets_of_labels_are_generated_and_their_shares_stand_in_the_row(tmp_path: Path) -> None:
    class Topics(RuleEngine):
        async def generate(self, messages: Messages, **settings: Any) -> list[Completion]:
            said = ["sport; arts", "Arts.", "arts; politics", "weather"][: settings["n"]]
            return [Completion(text, 0.5, 0.25, 3) for text in said]

    task = Classification(labels=["sport", "politics", "arts"], multiple=True)
    row = {"row_id": 1, "question": "?", "options": [], "context": None, "answer": "[]"}
    engine = Topics("m", EngineConfig(extra={"log": f"{tmp_path}/log"}))
    (found,) = answered(tmp_path, task, [row], engine=engine, samples=4)
    assert [r["answer"] for r in found["responses"]] == [
        '["sport", "arts"]',
        '["arts"]',
        '["politics", "arts"]',
        None,
    ]
    assert found["answer"] == '["arts"]' and found["agreement"] == 0.25
    shares = {each["answer"]: each["share"] for each in found["shares"]}
    assert shares == pytest.approx({"sport": 1 / 3, "arts": 1, "politics": 1 / 3})


def test_a_probe_answers_with_what_retrieval_has_found_and_asks_no_engine(tmp_path: Path) -> None:
    labels = [f"label {i}" for i in range(40)]
    probe = Collaborator(name="probe", kind="probe")
    kept = [{"answer": "label 7", "share": 0.61}, {"answer": None, "share": 0.39}]
    rows: list[dict[str, Any]] = [{"row_id": 1, "question": "?", "options": [], "answer": "label 7", "probe": kept}]
    rows.append(rows[0] | {"row_id": 2, "probe": None})
    task = Classification(labels=labels)
    found, silent = answered(tmp_path, task, rows, who=probe, engine=None, mode="score")
    assert found["answer"] == "label 7" and found["responses"][0]["collaborator"] == "probe"
    assert found["nll"] == pytest.approx(-math.log(0.61))
    assert found["token_entropy"] == pytest.approx(entropy([0.61, *[0.01] * 39]))
    assert (silent["answer"], silent["responses"], silent["quarantine_reason"]) == (
        None,
        [],
        "no response could be parsed",
    )
