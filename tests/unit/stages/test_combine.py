"""Rows of the label stage get the verdict of weighted voters; the stage as a whole runs in tests/ray."""

from typing import Any

import pyarrow as pa
import pytest

from semievol.data.responses import to_record
from semievol.data.tables import CROSSFITTED, PSEUDO_LABELED
from semievol.method.confidence import Response, from_distribution
from semievol.stages.combine import _cases, _combined
from semievol.tasks import Task
from semievol.tasks.classification import Classification
from semievol.tasks.multiple_choice import MultipleChoice
from semievol.tasks.numeric import Numeric
from semievol.tasks.open_ended import OpenEnded

CHOICE = MultipleChoice()


def row(*responses: Response, **more: Any) -> dict[str, Any]:
    record = {"row_id": 1, "question": "?", "options": ["x", "y", "z"], "answer": "A", "justified": False}
    return record | {"responses": [to_record(response) for response in responses]} | more


def decided(task: Task, given: dict[str, float] | None, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    table = _combined(pa.Table.from_pylist(list(rows), schema=PSEUDO_LABELED), task, given)
    assert table.schema.equals(PSEUDO_LABELED)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def test_the_weighted_mixture_decides_unless_self_justification_has() -> None:
    given = [Response("one", "A", 0.5, 0.5), Response("two", "A", 0.5, 0.5), Response("best", "B", 0.1, 0.2)]
    weights = {"one": 0.1, "two": 0.1, "best": 0.8}
    (found,) = decided(CHOICE, weights, row(*given))
    assert (found["answer"], found["nll"], found["token_entropy"]) == ("B", pytest.approx(0.1), pytest.approx(0.2))
    assert found["agreement"] == pytest.approx(0.8)
    assert {entry["answer"]: entry["share"] for entry in found["shares"]} == pytest.approx({"A": 0.2, "B": 0.8})
    (found,) = decided(CHOICE, weights, row(*given, justified=True, answer="A", nll=0.4, token_entropy=0.3))
    assert (found["answer"], found["justified"], found["nll"]) == ("A", True, pytest.approx(0.4))
    assert found["agreement"] == pytest.approx(0.2)
    (found,) = decided(Numeric(), weights, row(*[r for r in given if r.collaborator != "two"], options=[]))
    assert found["answer"] == "B" and found["shares"] is None  # an open set is not kept


def test_a_row_that_nobody_of_weight_answers_goes_to_quarantine_and_one_that_is_there_stays() -> None:
    silent = row(Response("good", None), Response("bad", "A", 0.1, 0.1))
    lost = row(Response("good", error="HTTP 500"), answer=None, quarantine_reason="good: HTTP 500")
    first, second = decided(CHOICE, {"good": 1.0, "bad": 0.0}, silent, lost)
    assert (first["answer"], first["shares"]) == (None, None)
    assert first["quarantine_reason"] == "no voter that has weight has answered"
    assert (second["answer"], second["quarantine_reason"]) == (None, "good: HTTP 500")


def test_answers_that_embeddings_compare_keep_the_verdict_of_the_label_stage() -> None:
    (found,) = decided(OpenEnded(), None, row(Response("a", "yes"), answer="yes", agreement=0.5))
    assert (found["answer"], found["agreement"]) == ("yes", 0.5)


def test_members_are_one_voter_and_many_labels_come_back_whole() -> None:
    labels = [f"label {i}" for i in range(50)]
    task = Classification(labels=labels)
    sure = dict.fromkeys(labels, 0.2 / 49) | {"label 7": 0.8}
    flat = dict.fromkeys(labels, 0.02)
    members = [from_distribution("committee@warm-0", sure), from_distribution("committee@warm-1", flat)]
    (found,) = decided(
        task, {"committee": 0.5, "probe": 0.5}, row(*members, from_distribution("probe", flat), options=[])
    )
    top = {entry["answer"]: entry["share"] for entry in found["shares"]}
    assert top["label 7"] == pytest.approx(0.25 * 0.8 + 0.75 * 0.02) and found["answer"] == "label 7"
    assert sum(top.values()) == pytest.approx(1)
    rows = [row(members[0], options=[], gold=label, row_id=i) for i, label in enumerate(("label 7", "label 49"))]
    seen = _cases(pa.Table.from_pylist(rows, schema=CROSSFITTED), task, ["committee", "probe"])
    assert seen.shares[:, 0] == pytest.approx([0.8, 0.2 / 49], abs=1e-6)  # also of what is not among the largest 32
    assert seen.chance == pytest.approx([0.02] * 2)
