from pathlib import Path

import numpy as np
import pytest

from semievol.retrieval.dense import LabeledIndex

VECTORS = np.eye(4, dtype=np.float32)
IDS = np.array([-5, 7, 2**62, 9], dtype=np.int64)


def test_search_is_exact_excludes_the_row_itself_and_survives_storage(tmp_path: Path) -> None:
    checksum = LabeledIndex.build(VECTORS, IDS).save(f"{tmp_path}/index")
    assert len(checksum) == 64
    index = LabeledIndex.load(f"{tmp_path}/index")
    query = np.array([[0.8, 0.6, 0.0, 0.0]], dtype=np.float32)
    ids, scores = index.search(query, 2, np.array([1], dtype=np.int64))
    assert ids == [[-5, 7]]
    assert scores[0] == pytest.approx([0.8, 0.6])
    ids, _ = index.search(query, 2, np.array([-5], dtype=np.int64))  # it is the first one itself
    assert ids[0][0] == 7 and -5 not in ids[0] and len(ids[0]) == 2


def test_k_larger_than_the_index_and_k_zero() -> None:
    index = LabeledIndex.build(VECTORS, IDS)
    ids, scores = index.search(VECTORS, 10, IDS)
    assert [len(found) for found in ids] == [3] * 4  # everything but itself
    assert index.search(VECTORS, 0, IDS) == ([[]] * 4, [[]] * 4)
    assert len(scores) == 4


def test_many_rows_get_an_inverted_file_that_finds_nearly_all_of_the_nearest(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.arange(3000, dtype=np.int64) * 7
    exact = LabeledIndex.build(vectors, ids)
    built = LabeledIndex.build(vectors, ids, exact_up_to=2999)
    assert exact.recall == 1.0 > built.recall >= 0.95
    built.save(f"{tmp_path}/index")
    index = LabeledIndex.load(f"{tmp_path}/index")
    queries = rng.normal(size=(200, 16)).astype(np.float32)
    nobody = np.full(200, -1, dtype=np.int64)
    nearest, found = (one.search(queries, 3, nobody)[0] for one in (exact, index))
    shared = [len(set(a) & set(b)) / 3 for a, b in zip(nearest, found, strict=True)]
    assert np.mean(shared) > 0.8  # queries from anywhere are harder than those of the sample
    assert index.search(vectors[:1], 3, ids[:1])[0][0] == exact.search(vectors[:1], 3, ids[:1])[0][0]
