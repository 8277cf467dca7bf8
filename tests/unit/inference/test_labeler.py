"""The labeler by itself, on an engine that follows rules; with Ray it runs in tests/ray, with vLLM in tests/e2e."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from semievol.config import Collaborator, EmbeddingConfig, EngineConfig
from semievol.data.tables import LABELED_RETRIEVED, PREDICTED
from semievol.engines.openai import OpenAIEngine
from semievol.errors import UserError
from semievol.inference.labeler import Labeler, Labeling, Panel, Pass
from semievol.method.prompts import Prompts
from semievol.tasks import Task
from semievol.tasks.multiple_choice import MultipleChoice
from semievol.tasks.open_ended import OpenEnded
from tests.support.engines import RuleEngine


def answered(
    tmp_path: Path, task: Task, rows: list[dict[str, Any]], refused: str | None = None, **labeler: Any
) -> list[dict[str, Any]]:
    silent = SimpleNamespace(remote=lambda *_: None)
    labeling = Labeling(
        work=Pass("m", labeler.pop("endpoint", None), (0,), last=True),
        panel=Panel(Prompts(task), (Collaborator(name="greedy", k=0, temperature=0.0),), "", EmbeddingConfig()),
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
