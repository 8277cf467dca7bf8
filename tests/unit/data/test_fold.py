"""Which of equal rows is kept; that nothing is lost is in tests/ray/test_ingest.py."""

from pathlib import Path

import pyarrow as pa
import pytest

from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.fold import PARSED, fold, kind, known_rows
from semievol.tasks import Task
from semievol.tasks.chat import Chat
from semievol.tasks.free_text import FreeText
from semievol.tasks.open_ended import OpenEnded
from tests.support.configs import run_config


def parsed(position: int, answer: str | None, split: str = "labeled") -> dict:
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


def test_rows_of_earlier_rounds_only_decide_about_new_ones(tmp_path: Path) -> None:
    storage.write_table(f"{tmp_path}/old.parquet", pa.table({"row_id": pa.array([7, -4], pa.int64())}))
    old = known_rows(f"{tmp_path}/old.parquet", "unlabeled", 3)
    assert old.schema == PARSED and old["bucket"].to_pylist() == [1, 2]  # as new rows with these ids have them
    new = pa.Table.from_pylist([parsed(1, None, "unlabeled"), parsed(2, None, "unlabeled") | {"row_id": 8}], PARSED)
    counted = fold(pa.concat_tables([old, new]), run_config(), str(tmp_path), "ingest").to_pylist()
    assert {each["fate"]: each["rows"] for each in counted} == {"duplicate": 1, "kept": 1}
    assert storage.read_table(f"{tmp_path}/unlabeled")["row_id"].to_pylist() == [8]


def test_reasons_are_counted_without_the_value_of_a_row() -> None:
    assert kind("column 'a' is not an answer to the row: 'x'") == "column 'a' is not an answer to the row"
    assert kind("11 options; multiple choice takes 2 to 10") == "11 options; multiple choice takes 2 to 10"
