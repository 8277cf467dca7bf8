"""Weights of voters, on simulated voters: 64 rows to learn from, thousands to be measured on."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from semievol.method.confidence import Response, from_distribution
from semievol.method.weights import Cases, Worth, cases, learn, of_responses, voter
from semievol.tasks import Row, Task
from semievol.tasks.classification import Classification
from semievol.tasks.free_text import FreeText
from semievol.tasks.multiple_choice import MultipleChoice
from semievol.tasks.numeric import Numeric

ANSWERS, ROWS, MORE, DRAWS = 4, 64, 2_000, 12
Floats = npt.NDArray[np.float64]
GOOD, BETTER, CORRELATED = 2.0, 4.0, 0.5  # strength of a voter: how far the truth stands out of noise of size 1


def said(kind: str | float, truth: npt.NDArray[np.int64], shared: Floats, rng: np.random.Generator) -> Floats:
    """Return the distributions of a voter, shape (rows, answers)."""
    rows, eye = len(truth), np.eye(ANSWERS)
    if kind == "random":
        return eye[rng.integers(ANSWERS, size=rows)]
    if kind == "surely random":
        logits = rng.normal(size=(rows, ANSWERS))
    elif kind == "same":
        return np.tile([0.97, 0.01, 0.01, 0.01], (rows, 1))
    elif kind == "wrong":
        return eye[(truth + rng.integers(1, ANSWERS, size=rows)) % ANSWERS]
    else:
        noise = rng.normal(size=(rows, ANSWERS))
        logits = float(kind) * eye[truth] + CORRELATED**0.5 * shared + (1 - CORRELATED) ** 0.5 * noise
    shares = np.exp(2 * logits)  # surer than they should be, as models are that saw few rows
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def drawn(kinds: list[str | float], rows: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return true answers, and what voters say, shape (rows, voters, answers). Their errors are correlated."""
    truth, shared = rng.integers(ANSWERS, size=rows), rng.normal(size=(rows, ANSWERS))
    return truth, np.stack([said(kind, truth, shared, rng) for kind in kinds], axis=1)


def learned(truth: npt.NDArray[np.int64], shares: Floats) -> list[Worth]:
    of_truth = shares[np.arange(len(truth)), :, truth]
    right = (shares.argmax(axis=2) == truth[:, None]).astype(float)
    names = [f"v{i}" for i in range(shares.shape[1])]
    worth = learn(Cases(of_truth, np.full(len(truth), 1 / ANSWERS), right), names)
    assert list(worth) == names and sum(each.weight for each in worth.values()) == pytest.approx(1)
    return list(worth.values())


def accuracies(truth: npt.NDArray[np.int64], shares: Floats, weights: list[float]) -> Floats:
    """Return the accuracy of the pool, and that of its surest 60 %."""
    pool = np.einsum("rva,v->ra", shares, weights)
    right = pool.argmax(axis=1) == truth
    surest = np.argsort(-(pool * np.log(pool + 1e-12)).sum(axis=1), kind="stable")[: int(0.6 * len(truth))]
    return np.array([right.mean(), right[surest].mean()])


def over_draws(kinds: list[str | float], known: int) -> tuple[Floats, Floats, Floats]:
    """Return mean accuracies of the first `known` voters and of all, both with learned weights, and the weights of all."""
    few, many, weights = [], [], []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        labeled, new = drawn(kinds, ROWS, rng), drawn(kinds, MORE, rng)
        for found, count in ((few, known), (many, len(kinds))):
            of_voters = [each.weight for each in learned(labeled[0], labeled[1][:, :count])]
            found.append(accuracies(new[0], new[1][:, :count], of_voters))
        weights.append(of_voters)
    return np.mean(few, axis=0), np.mean(many, axis=0), np.array(weights)


@pytest.mark.parametrize("bad", ["random", "surely random", "same", "wrong"])
def test_a_voter_that_helps_nothing_takes_nothing_away(bad: str) -> None:
    for committee in ([GOOD], [GOOD] * 3):
        before, after, weights = over_draws([*committee, bad], len(committee))
        assert 0.75 < before[0] < 0.92
        assert (after > before - 0.005).all()
        assert (weights[:, -1] == 0).mean() >= 0.75
    assert (weights[:, -1] < 0.2).all()


def test_all_of_them_at_once_too() -> None:
    before, after, weights = over_draws([GOOD, GOOD, "random", "same", "wrong"], 2)
    assert (after > before - 0.01).all()
    assert weights[:, 2:].sum(axis=1).mean() < 0.05


def test_a_much_better_voter_gets_most_of_the_weight_and_equal_ones_share_it() -> None:
    _, _, weights = over_draws([GOOD, BETTER], 1)
    assert (weights[:, 1] > 0.5).all() and weights[:, 1].mean() > 0.9
    alone, together, weights = over_draws([GOOD] * 3, 1)
    assert together[0] > alone[0] + 0.02  # half of their errors are shared
    assert np.abs(weights.mean(axis=0) - 1 / 3).max() < 0.15
    assert (weights > 0).mean() > 0.85


def test_a_copy_changes_nothing_and_many_rows_are_as_good() -> None:
    rng = np.random.default_rng(0)
    truth, shares = drawn([GOOD, 1.0], 20_000, rng)
    pair = [each.weight for each in learned(truth, shares)]
    copied = np.concatenate([shares, shares[:, :1]], axis=1)
    triple = [each.weight for each in learned(truth, copied)]
    assert triple[0] + triple[2] == pytest.approx(pair[0], abs=0.02)


def test_without_rows_all_weigh_the_same_and_a_voter_that_was_never_heard_weighs_nothing() -> None:
    none = Cases.joined([], 3)
    assert [each.weight for each in learn(none, ["a", "b", "c"]).values()] == pytest.approx([1 / 3] * 3)
    silent = Cases(np.full((5, 2), np.nan), np.full(5, 0.25), np.full((5, 2), np.nan))
    assert [(each.weight, each.accuracy, each.nll, each.rows) for each in learn(silent, ["a", "b"]).values()] == [
        (0.5, None, None, 0)
    ] * 2
    truth, shares = drawn([GOOD, GOOD], ROWS, np.random.default_rng(1))
    of_truth, right = shares[np.arange(ROWS), :, truth], (shares.argmax(axis=2) == truth[:, None]).astype(float)
    of_truth[:, 1] = right[:, 1] = np.nan
    worth = learn(Cases(of_truth, np.full(ROWS, 0.25), right), ["a", "b"])
    assert (worth["a"].weight, worth["b"].weight, worth["b"].rows) == (1, 0, 0)
    all_wrong = learned(*drawn(["wrong", "wrong"], ROWS, np.random.default_rng(2)))
    assert sum(each.weight for each in all_wrong) == pytest.approx(1)


def test_a_voter_that_abstains_leaves_its_weight_to_the_others() -> None:
    rng = np.random.default_rng(3)
    truth, shares = drawn([GOOD, GOOD], 500, rng)
    of_truth, right = shares[np.arange(500), :, truth], (shares.argmax(axis=2) == truth[:, None]).astype(float)
    away = rng.random(500) < 0.5
    of_truth[away, 1] = right[away, 1] = np.nan
    worth = learn(Cases(of_truth, np.full(500, 0.25), right), ["a", "b"])
    assert 0.25 < worth["b"].weight < 0.75  # it is as good where it speaks
    assert worth["b"].rows == 500 - away.sum()
    assert worth["b"].nll == pytest.approx(worth["a"].nll, rel=0.3)


OPTIONS = Row("?", ["x", "y", "z", "w"], None, None)
OPEN = Row("?", [], None, None)


def one(task: Task, row: Row, truth: str, *responses: Response) -> Cases:
    return cases(task, row, truth, responses, ["a", "b"])


def test_what_is_seen_of_a_row() -> None:
    scored = from_distribution("a@warm-0", {"A": 0.7, "B": 0.3})
    found = one(MultipleChoice(), OPTIONS, "B", scored, Response("a@warm-1", "B"), Response("b", None))
    np.testing.assert_allclose(found.shares, [[0.65, np.nan]])
    np.testing.assert_allclose(found.right, [[1, np.nan]])
    assert found.chance == [0.25]
    found = one(Numeric(tolerance=0.01), OPEN, "12", Response("a", "12.05"), Response("b", "13"))
    np.testing.assert_allclose(found.shares, [[1, 0]])
    np.testing.assert_allclose(found.chance, [1 / 3])  # two answers, and all that nobody gave
    found = one(FreeText(), OPEN, "The Hague", Response("a", "the hague"), Response("b", error="HTTP 500"))
    np.testing.assert_allclose(found.shares, [[1, np.nan]])
    spelled = Classification(labels=["Cats", "dogs"])
    found = one(spelled, OPEN, "cats", from_distribution("a", {"Cats": 0.9, "dogs": 0.1}), Response("b", "dogs"))
    np.testing.assert_allclose(found.shares, [[0.9, 0]])


def test_of_sets_each_label_is_a_case() -> None:
    topics = Classification(labels=["sport", "politics", "arts"], multiple=True)
    given: list[Any] = [Response("a", '["sport", "arts"]'), Response("a", '["sport"]'), Response("b", '["politics"]')]
    found = one(topics, OPEN, '["sport"]', *given)
    np.testing.assert_allclose(found.shares, [[0.5, 1], [1, 0], [1, 0]])  # arts, politics, sport
    np.testing.assert_allclose(found.chance, [0.5] * 3)
    np.testing.assert_allclose(found.right, [[1, 0]])
    many = Cases.joined([found] * 30, 2)
    worth = learn(many, ["a", "b"])
    assert (worth["a"].weight, worth["b"].weight) == (1, 0) and worth["a"].rows == 30


@pytest.mark.parametrize("task", [Numeric(), FreeText()], ids=lambda task: task.kind)
def test_answers_from_an_open_set(task: Task) -> None:
    rng = np.random.default_rng(0)
    seen = []
    for i in range(ROWS):
        truth = str(i + 100)
        good, bad = (truth if rng.random() < 0.8 else str(i + 300)), str(i + 500 if rng.random() < 0.8 else truth)
        seen.append(one(task, OPEN, truth, Response("a", good), Response("b", bad)))
    worth = learn(Cases.joined(seen, 2), ["a", "b"])
    assert worth["a"].weight > 0.7 > 0.3 > worth["b"].weight
    assert worth["a"].accuracy == pytest.approx(0.8, abs=0.15)


def test_the_weight_of_a_voter_is_spread_over_its_responses() -> None:
    given = [Response("a@warm-0", "A"), Response("a@warm-1", "B"), Response("b", "B"), Response("c", error="HTTP 500")]
    assert of_responses({"a": 0.6, "b": 0.1, "c": 0.3}, given) == pytest.approx([0.3, 0.3, 0.1, 0.3])
    assert of_responses({"a": 0.6, "b": 0.4}, [Response("new", "A")]) == [0.5]
    assert [voter("committee@warm-3"), voter("probe")] == ["committee", "probe"]
