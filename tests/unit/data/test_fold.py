"""Which of equal rows is kept; that nothing is lost is in tests/ray/test_ingest.py."""

from pathlib import Path

import pyarrow as pa
import pytest

from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.fold import PARSED, fold
from semievol.tasks import Task
from semievol.tasks.chat import Chat
from semievol.tasks.free_text import FreeText
from semievol.tasks.open_ended import OpenEnded
from tests.support.configs import run_config


def parsed(position: int, answer: str, split: str = "labeled") -> dict:
    same = {"row_id": 7, "question": "Hello?", "options": [], "history": [], "fields": [], "bucket": 0, "known": False}
    return same | {"split": split, "source": "f", "position": position, "answer": answer}


@pytest.mark.parametrize(
    ("task", "kept", "fates"),
    [
        (FreeText(), [], {"quarantined": 3}),  # they contradict each other
        (OpenEnded(similarity=0.9), ["Hi!"], {"kept": 1, "duplicate": 2}),
        (Chat(similarity=0.9), ["Hi!"], {"kept": 1, "duplicate": 2}),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_several_replies_to_the_same_question_are_a_contradiction_where_one_is_right(
    tmp_path: Path, task: Task, kept: list[str], fates: dict[str, int]
) -> None:
    config: RunConfig = run_config(task=task)
    rows = [parsed(3, "Good day."), parsed(1, "Hi!"), parsed(2, "Hi!")]
    counts = fold(pa.Table.from_pylist(rows, schema=PARSED), config, str(tmp_path), "ingest").to_pylist()
    assert {count["fate"]: count["rows"] for count in counts} == fates
    written = storage.read_table(f"{tmp_path}/labeled")["answer"].to_pylist() if kept else []
    assert written == kept
