import pytest

from semievol.data.responses import from_record, listed, of_verdict, to_record, unlisted
from semievol.method.confidence import from_distribution, verdict
from semievol.tasks.classification import Classification
from semievol.tasks.numeric import Numeric

LABELS = [f"label {i}" for i in range(40)]
SHARES = {label: 0.4 if i == 7 else 0.6 / 39 for i, label in enumerate(LABELS)}
TASK = Classification(labels=LABELS)


def test_of_many_shares_the_largest_are_kept_and_the_rest_comes_back_as_equal_parts() -> None:
    kept = listed(SHARES)
    assert len(kept) == 33 and kept[0] == {"answer": "label 7", "share": 0.4}
    assert kept[-1]["answer"] is None and kept[-1]["share"] == pytest.approx(8 * 0.6 / 39)
    assert unlisted(kept, LABELS) == pytest.approx(SHARES)
    assert set(unlisted(kept)) == {entry["answer"] for entry in kept[:-1]}  # nobody knows the others


def test_a_response_survives_its_record() -> None:
    scored = from_distribution("a", SHARES)
    assert from_record(to_record(scored), LABELS).distribution == pytest.approx(SHARES)


def test_a_verdict_keeps_the_shares_of_known_answers_only() -> None:
    for task, kept in ((TASK, True), (Numeric(), False)):
        found = verdict(task.same, [from_distribution("a", {"3": 0.9, "4": 0.1})], task=task)
        assert found is not None
        columns = of_verdict(found, task)
        assert columns["answer"] == "3" and (columns["shares"] is not None) == kept
