import tracemalloc

import pytest
from sklearn.metrics import f1_score

from semievol.method.labels import by_label
from semievol.tasks.classification import Classification

MOODS = Classification(labels=["positive", "negative", "neutral"])
TOPICS = Classification(labels=["sport", "politics", "arts"], multiple=True)


def test_each_label_and_what_it_is_taken_for() -> None:
    truths = ["positive", "Positive", "negative", "negative", "neutral", "unheard of"]
    answers = ["positive", "negative", "negative", "negative", None, "positive"]
    found = by_label(MOODS, truths, answers)
    assert found["labels"]["positive"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert found["labels"]["negative"] == {"precision": 0.6667, "recall": 1.0, "f1": 0.8, "support": 2}
    assert found["labels"]["neutral"]["f1"] == found["labels"]["unheard of"]["f1"] == 0
    assert found["macro_f1"] == pytest.approx((0.5 + 0.8) / 4) and "micro_f1" not in found
    wrong = {(each["true"], each["answered"]): each["rows"] for each in found["confusions"]}
    assert wrong == {("positive", "negative"): 1, ("neutral", None): 1, ("unheard of", "positive"): 1}
    # As scikit-learn counts single labels, a missing answer being one more label that is left out of the mean.
    true = [answer.lower() for answer in truths]
    said = [answer or "" for answer in answers]
    names = sorted(set(true))
    assert found["macro_f1"] == round(f1_score(true, said, labels=names, average="macro", zero_division=0), 4)


def test_the_most_frequent_confusions_come_first() -> None:
    found = by_label(MOODS, ["neutral"] * 5 + ["positive"] * 3, ["negative"] * 4 + ["neutral"] * 4)
    assert [(c["true"], c["answered"], c["rows"]) for c in found["confusions"]] == [
        ("neutral", "negative", 4),
        ("positive", "neutral", 3),
    ]
    assert by_label(MOODS, [], []) == by_label(MOODS, [None], ["positive"]) == {}


def test_sets_count_label_by_label() -> None:
    found = by_label(TOPICS, ['["sport", "arts"]', "[]", '["arts"]'], ['["arts"]', '["sport"]', None])
    assert found["labels"]["arts"] == {"precision": 1.0, "recall": 0.5, "f1": 0.6667, "support": 2}
    assert found["labels"]["sport"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert found["micro_f1"] == pytest.approx(2 * 1 / (2 + 3)) and found["macro_f1"] == pytest.approx(0.3333, abs=1e-4)
    assert {"true": "none", "answered": "sport", "rows": 1} in found["confusions"]
    assert {"true": "sport, arts", "answered": "arts", "rows": 1} in found["confusions"]


def test_many_labels_and_rows_fit_in_memory() -> None:
    task = Classification(labels=[f"label {n}" for n in range(1_000)])
    names = list(task.labels or ())
    truths = [names[n % 1_000] for n in range(20_000)]
    tracemalloc.start()
    found = by_label(task, truths, truths[1:] + truths[:1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["macro_f1"] == 0 and len(found["labels"]) == 1_000
    assert peak < 50e6  # a table of rows x labels has 160 MB
