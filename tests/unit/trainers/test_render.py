"""Rows of chats as training rows; the stage around it is in tests/ray."""

from pathlib import Path

import pytest

pytest.importorskip("transformers")

import pyarrow as pa

from semievol.data import storage
from semievol.data.tables import FOLDS, LABELED, LABELED_RETRIEVED, SELECTED
from semievol.engines.chat_template import ChatTemplate
from semievol.engines.templates import OWN_TEMPLATE
from semievol.method.prompts import Prompts
from semievol.tasks import KINDS
from semievol.tasks.chat import Chat
from semievol.tasks.multiple_choice import MultipleChoice
from semievol.trainers import render
from semievol.trainers.render import Source
from tests.support.tokenizer import numbers

NO = -100
# As tokens: 1 2 0 3 4 0 5 6 0 7, in which 0 begins each turn of the assistant.
HISTORY = [
    {"role": "system", "content": "1"},
    {"role": "user", "content": "2"},
    {"role": "assistant", "content": "3"},
    {"role": "user", "content": "4"},
    {"role": "assistant", "content": "5"},
]


def rendered(monkeypatch: pytest.MonkeyPatch, task: Chat, max_length: int) -> dict:
    monkeypatch.setattr(render, "_template", lambda *_: ChatTemplate(numbers()))
    record = {"row_id": 1, "question": "6", "options": [], "history": HISTORY, "fields": [], "answer": "7"}
    batch = pa.Table.from_pylist([record], schema=LABELED)
    [row] = render._messages(batch, Source("nowhere"), Prompts(task), "m", OWN_TEMPLATE, max_length).to_pylist()
    assert row["completion"] == [{"role": "assistant", "content": "7"}]
    return row


def test_the_history_is_in_the_prompt_and_only_the_answer_is_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    row = rendered(monkeypatch, Chat(similarity=0.9), 100)
    assert row["prompt"] == [*HISTORY, {"role": "user", "content": "6"}] and not row["cut"]
    assert row["input_ids"] == [1, 2, 0, 3, 4, 0, 5, 6, 0, 7]
    assert [label for label in row["labels"] if label != NO] == [7] and row["labels"][-1] == 7


def test_every_turn_of_the_assistant_is_taught_if_the_task_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    row = rendered(monkeypatch, Chat(similarity=0.9, loss="all"), 100)
    assert row["labels"] == [NO, NO, NO, 3, NO, NO, 5, NO, NO, 7]


@pytest.mark.parametrize(
    ("max_length", "kept"),
    [(10, HISTORY), (9, [HISTORY[0], *HISTORY[3:]]), (7, [HISTORY[0], *HISTORY[3:]]), (6, HISTORY[:1])],
)
def test_a_chat_over_the_limit_loses_its_oldest_turns(
    monkeypatch: pytest.MonkeyPatch, max_length: int, kept: list
) -> None:
    row = rendered(monkeypatch, Chat(similarity=0.9), max_length)
    assert row["prompt"][:-1] == kept and row["cut"] == (kept is not HISTORY) and row["quarantine_reason"] is None


def test_a_chat_that_cannot_be_made_to_fit_is_quarantined(monkeypatch: pytest.MonkeyPatch) -> None:
    row = rendered(monkeypatch, Chat(similarity=0.9), 2)
    assert row["input_ids"] is None and "over max_length = 2 tokens" in row["quarantine_reason"]


def test_a_member_learns_the_rows_outside_of_its_fold_and_is_shown_none_of_it(tmp_path: Path) -> None:
    ids = list(range(6))
    rows = [
        {"row_id": i, "question": f"row {i}.", "options": ["x", "y"], "answer": "A"}
        | {"neighbor_ids": [n for n in ids if n != i], "neighbor_scores": [0.5] * 5}
        for i in ids
    ]
    table = pa.Table.from_pylist(rows, LABELED_RETRIEVED)
    storage.write_table(f"{tmp_path}/rows/p.parquet", table)
    dealt = pa.table({"row_id": ids, "fold": [i % 3 for i in ids]}, schema=FOLDS)
    storage.write_table(f"{tmp_path}/folds/p.parquet", dealt)
    about = {"context": "knn", "k": 3, "style": "careful", "folds": f"{tmp_path}/folds", "fold": 1}
    prompts = Prompts(MultipleChoice())
    for held_out, expected in ((False, [0, 2, 3, 5]), (True, [1, 4])):
        source = Source(f"{tmp_path}/rows", **about, held_out=held_out)  # type: ignore[arg-type]
        found = render._messages(table, source, prompts, None, OWN_TEMPLATE, 100).to_pylist()
        assert [row["row_id"] for row in found] == expected and render._source_rows(source) == len(expected)
        for row in found:
            system = row["prompt"][0]["content"]
            assert system.startswith(prompts.config.styles["careful"])
            assert system.count("row ") == 3 and "row 1." not in system and "row 4." not in system
            assert f"row {row['row_id']}." not in system


@pytest.mark.parametrize(("justified", "soft"), [(False, True), (True, False)])
def test_shares_are_taught_where_they_decided(monkeypatch: pytest.MonkeyPatch, justified: bool, soft: bool) -> None:
    monkeypatch.setattr(render, "_template", lambda *_: ChatTemplate(numbers()))
    task = KINDS["classification"](labels=["1", "2", "3"])
    shares = [{"answer": "1", "share": 0.5}, {"answer": "3", "share": 0.25}, {"answer": None, "share": 0.25}]
    row = {"row_id": 1, "question": "6", "options": [], "history": [], "fields": [], "selected": True}
    rows = [row | {"answer": "1", "shares": shares, "justified": justified}, row | {"answer": "2", "selected": False}]
    batch = pa.Table.from_pylist(rows, schema=SELECTED)
    source = Source("nowhere", selected_only=True, soft=True)
    [found] = render._messages(batch, source, Prompts(task), "m", OWN_TEMPLATE, 100).to_pylist()
    place = len(found["input_ids"]) - 1
    assert found["labels"][place] == found["input_ids"][place] == 1
    expected = [{"place": place, "tokens": [1, 3], "shares": pytest.approx([2 / 3, 1 / 3])}] if soft else None
    assert found["soft"] == expected
