"""The probe by itself, on vectors that are drawn; with the real embeddings it runs in tests/ray/test_retrieve.py."""

from pathlib import Path

import numpy as np
import pytest

from semievol.retrieval.probe import Probe, cross_fitted

CENTERS = {"cats": [1.0, 0, 0, 0], "dogs": [0, 1.0, 0, 0], "birds": [0, 0, 1.0, 0]}


def drawn(names: list[str], noise: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    vectors = np.array([CENTERS[name] for name in names]) + noise * rng.normal(size=(len(names), 4))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_it_predicts_what_it_has_seen_and_survives_storage(tmp_path: Path) -> None:
    names = ["cats", "dogs", "birds"] * 20
    vectors = drawn(names, 0.1)
    probe = Probe.fit(vectors, names, 100.0)
    probe.save(f"{tmp_path}/index")
    shares = Probe.load(f"{tmp_path}/index").predict(vectors)
    assert [max(of, key=lambda name: of[name]) for of in shares] == names
    assert all(sum(of.values()) == pytest.approx(1) for of in shares)
    assert shares == probe.predict(vectors)
    assert probe.records(vectors[:1])[0][0].keys() == {"answer", "share"}


@pytest.mark.parametrize("names", [["cats"] * 5, ["cats", "dogs"] * 5])
def test_one_label_and_two(names: list[str]) -> None:
    shares = Probe.fit(drawn(names, 0.1), names, 10.0).predict(drawn(names, 0.1))
    assert [max(of, key=lambda name: of[name]) for of in shares] == names
    assert all(sum(of.values()) == pytest.approx(1) for of in shares)


def test_a_row_takes_no_part_in_its_own_prediction_and_noise_is_regularised() -> None:
    names = ["cats", "dogs", "birds"] * 20
    folds = np.arange(60, dtype=np.int32) // 3 % 4
    clean, noisy = drawn(names, 0.1), drawn(names, 0.8)
    strength, shares = cross_fitted(clean, names, folds)
    assert [max(of, key=lambda name: of[name]) for of in shares] == names
    weaker, unsure = cross_fitted(noisy, names, folds)
    assert weaker < strength
    assert np.mean([max(of.values()) for of in unsure]) < np.mean([max(of.values()) for of in shares])
    rng = np.random.default_rng(1)
    shuffled = [str(name) for name in rng.permutation(names)]
    _, shares = cross_fitted(clean, shuffled, folds)  # who had seen its row would be right
    right = [max(of, key=lambda name: of[name]) == name for of, name in zip(shares, shuffled, strict=True)]
    assert np.mean(right) < 0.55


def test_of_many_rows_some_from_everywhere_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semievol.retrieval.probe._MOST_TRIED", 15)
    monkeypatch.setattr("semievol.retrieval.probe._MOST_ROWS", 20)
    names = ["cats"] * 40 + ["dogs"] * 40 + ["birds"] * 40  # as a sorted file has them
    strength, shares = cross_fitted(drawn(names, 0.1), names, np.arange(120, dtype=np.int32) // 3 % 4)
    assert strength > 1
    assert [max(of, key=lambda name: of[name]) for of in shares] == names


def test_a_label_of_one_fold_alone_and_a_single_row() -> None:
    names = ["cats", "dogs"] * 6 + ["birds"]
    _, shares = cross_fitted(drawn(names, 0.1), names, np.arange(13, dtype=np.int32) % 4)
    assert "birds" not in shares[12] and "birds" in shares[11]
    strength, shares = cross_fitted(drawn(["cats"], 0.1), ["cats"], np.zeros(1, np.int32))
    assert shares == [{}] and strength > 0
