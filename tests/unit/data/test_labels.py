from collections import Counter

import pyarrow as pa
import pytest

from semievol.data import labels
from semievol.errors import UserError
from semievol.tasks.classification import Classification

FOUND, SETS = Classification(), Classification(multiple=True)
GIVEN = Classification(labels=["sport", "arts", "politics"])


def test_labels_are_counted_one_by_one() -> None:
    block = pa.table({"answer": ["a", "b", "a", "A"]})
    assert labels.count(block, FOUND) == {"a": 2, "b": 1, "A": 1}
    block = pa.table({"answer": ['["a", "b"]', "[]", '["b"]']})
    assert labels.count(block, SETS) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("task", "counts", "rows", "why"),
    [
        (FOUND, {f"The text {i}": 1 for i in range(90)}, 100, "90 different texts in 100 .*free_text.*task.labels"),
        (FOUND, {f"{i}": 9 for i in range(10_001)}, 100_000, "10,001 different texts"),
        (FOUND, {"spam": 50}, 50, "all labeled rows have the label 'spam'"),
        (FOUND, {"spam": 50, "Spam ": 1}, 51, "all labeled rows have the label 'spam'"),
        (SETS, {}, 50, "all labeled rows have the label ''"),
    ],
)
def test_what_does_not_look_like_labels_stops_the_run(
    task: Classification, counts: dict[str, int], rows: int, why: str
) -> None:
    with pytest.raises(UserError, match=why):
        labels.check(task, Counter(counts), rows)


@pytest.mark.parametrize(
    ("task", "counts", "rows"),
    [
        (FOUND, {"spam": 1, "ham": 1}, 2),
        (FOUND, {f"intent {i}": 2 for i in range(77)}, 154),
        (FOUND, {f"a long label {i}": 10 for i in range(9_000)}, 90_000),
        (FOUND, {f"{i}": 1 for i in range(15)}, 15),  # too few rows to tell
        (SETS, {"only": 3}, 5),
    ],
)
def test_label_sets_pass(task: Classification, counts: dict[str, int], rows: int) -> None:
    labels.check(task, Counter(counts), rows)


def test_what_is_odd_about_labels_is_told_with_counts() -> None:
    labeled = Counter({"sport": 9, "Sport": 2, "arts": 4})
    said = labels.notes(FOUND.learned(labeled), labeled, Counter({"arts": 3, "SPORT": 1, "chess": 2}))
    assert said == {
        "labeled: 'Sport' and 'sport' differ in case or white space only, and count as one label": 2,
        "test: 'chess' never labels a labeled row (rows kept; their answers can never be right)": 2,
    }
    assert labels.notes(GIVEN, Counter({"arts": 4, "sport": 1}), Counter({"politics": 2})) == {
        "test: 'politics' never labels a labeled row (rows kept; their answers are seldom right)": 2,
        "labeled: 'politics' of task.labels labels no row": 0,
    }
    many = Counter({f"new {i}": 1 for i in range(30)})
    (told,) = labels.notes(FOUND.learned(Counter("ab")), Counter("ab"), many)
    assert "'new 0', 'new 1', 'new 10'" in told and "(30 labels)" in told and len(told) < 250
