"""Which labels a prompt lists where there are too many for all; with the real index in tests/ray/test_retrieve.py."""

import numpy as np
import pyarrow as pa

from semievol.retrieval.search import Candidates
from semievol.tasks.classification import Classification

LABELED = pa.table({"row_id": [1, 2, 3], "answer": ["Cats", "dogs", "cats"]})
TASK = Classification(labels=["cats", "dogs", "birds", "fish"], show="likeliest")
VECTORS = {"cats": [1.0, 0.0], "dogs": [0.8, 0.6], "birds": [0.0, 1.0], "fish": [-1.0, 0.0]}


def encode(texts: list[str]) -> np.ndarray:
    return np.array([VECTORS[text] for text in texts], dtype=np.float32)


def test_labels_of_the_nearest_rows_come_first_then_the_nearest_names() -> None:
    found = Candidates(TASK, LABELED, encode).of([[2, 1, 3], []], np.array([[0.0, 1.0], [1.0, 0.1]]))
    assert found == [["dogs", "cats", "birds", "fish"], ["cats", "dogs", "birds", "fish"]]


def test_as_many_as_fit() -> None:
    short = TASK.model_copy(update={"show_tokens": 4})  # about 16 bytes
    found = Candidates(short, LABELED, encode).of([[2], []], np.array([[0.0, 1.0], [-1.0, 0.1]]))
    assert found == [["dogs", "birds"], ["fish", "birds"]]


def test_words_compare_no_names() -> None:
    assert Candidates(TASK, LABELED, list).of([[2], []], ["a", "b"]) == [
        ["dogs", "cats", "birds", "fish"],
        ["cats", "dogs", "birds", "fish"],
    ]


def test_sets_give_each_of_their_labels() -> None:
    sets = pa.table({"row_id": [1, 2], "answer": ['["dogs", "fish"]', "[]"]})
    several = TASK.model_copy(update={"multiple": True})
    assert Candidates(several, sets, list).of([[2, 1]], ["a"]) == [["dogs", "fish", "cats", "birds"]]
