"""The labeler by itself, on an engine that follows rules; with Ray it runs in tests/ray, with vLLM in tests/e2e."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from semievol.config import Collaborator, EmbeddingConfig, EngineConfig, LabelConfig, TaskConfig
from semievol.engines.openai import OpenAIEngine
from semievol.schema import LABELED_RETRIEVED, PREDICTED
from semievol.stages.labeler import Labeler, Pass
from tests.ray.fakes import RuleEngine

LOCAL = Pass("m", None, (0,), last=True)


def answered(
    tmp_path: Path,
    task: TaskConfig,
    rows: list[dict[str, Any]],
    *,
    work: Pass = LOCAL,
    engine: Any = RuleEngine,
    config: EngineConfig | None = None,
    stop: Any = None,
) -> list[dict[str, Any]]:
    silent = SimpleNamespace(remote=lambda *_: None)
    labeler = Labeler(
        work=work,
        engine=engine,
        engine_config=config or EngineConfig(extra={"log": f"{tmp_path}/log"}),
        task=task,
        embedding=EmbeddingConfig(),
        labeled=None,
        settings=LabelConfig([Collaborator("greedy", k=0, temperature=0.0)], justify=False),
        seed=0,
        schema=PREDICTED,
        progress=SimpleNamespace(add=silent, report=silent, stop=SimpleNamespace(remote=stop)),
    )
    names = {"answer": "gold"}
    batch = pa.Table.from_pylist(rows, schema=LABELED_RETRIEVED)
    batch = batch.rename_columns([names.get(name, name) for name in batch.column_names])

    async def collect() -> list[dict[str, Any]]:
        return [row async for table in labeler(batch) for row in table.to_pylist()]

    return asyncio.run(collect())


def test_open_ended_responses_are_also_scored_by_the_likelihood_of_the_true_one(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"row_id": 1, "question": "say=A row=1", "options": [], "context": None, "answer": "A it is"},
        {"row_id": 2, "question": "say=A row=2", "options": [], "context": None, "answer": "no"},
        {"row_id": 3, "question": "nothing", "options": [], "context": None, "answer": "no"},  # a request refused
    ]
    found = answered(tmp_path, TaskConfig(kind="open_ended"), rows)
    assert [row["likelihood"] for row in found] == [pytest.approx(-0.5), pytest.approx(-2.0), None]
    assert [row["answer"] for row in found] == ["Answer: A", "Answer: A", None]
    closed = [row | {"options": ["x", "y"], "answer": "A"} for row in rows]
    assert [row["likelihood"] for row in answered(tmp_path, TaskConfig(), closed)] == [None] * 3


def test_a_missing_key_ends_the_stage_and_not_the_actor(tmp_path: Path) -> None:
    problems: list[str] = []

    async def stop(problem: str) -> None:
        problems.append(problem)

    row = {"row_id": 1, "question": "say=A row=1", "options": ["x", "y"], "context": None, "answer": "A"}
    engine = EngineConfig(kind="openai", endpoint="http://192.0.2.1/v1", api_key_env="NO_SUCH_KEY")
    work = Pass("gpt", "http://192.0.2.1/v1", (0,), last=True)
    assert answered(tmp_path, TaskConfig(), [row], work=work, engine=OpenAIEngine, config=engine, stop=stop) == []
    assert len(problems) == 1  # and the row is asked again when it is mended
    assert (
        problems[0].startswith("label.collaborators[0].endpoint: ")
        and "NO_SUCH_KEY (engine.api_key_env)" in problems[0]
    )
