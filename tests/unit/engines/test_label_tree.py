"""The walk over a prefix tree against brute force, with models that are tables of random probabilities."""

import asyncio
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semievol.engines.base import RequestRefused
from semievol.engines.label_tree import Answer, Branch, LabelTree

END, VOCABULARY = 9, 10


class Model:
    """Gives each token after each prefix a probability, in one of the ways that models do.

    Args:
        sure: how much likelier a token is than others; 0 makes all alike, 30 leaves the others next to nothing.
    """

    def __init__(self, seed: int, sure: float) -> None:
        self._seed, self._sure = seed, sure
        self.asked: list[Branch] = []

    def logprobs(self, prefix: Sequence[int]) -> np.ndarray:
        logits = np.random.default_rng([self._seed, *prefix]).random(VOCABULARY) * self._sure
        return logits - np.logaddexp.reduce(logits)

    def of(self, tokens: Sequence[int], start: int = 0) -> float:
        return float(sum(self.logprobs(tokens[:place])[tokens[place]] for place in range(start, len(tokens))))

    async def ask(self, branch: Branch) -> Answer:
        self.asked.append(branch)
        await asyncio.sleep(0)
        return self.of(branch.path, branch.known), self.logprobs(branch.path)[branch.tokens].tolist()

    def shares(self, labels: Sequence[Sequence[int]]) -> np.ndarray:
        """The normalised likelihoods, with the end of the turn if the set needs it."""
        spelled = [tuple(ids) for ids in labels]
        prefixed = any(a != b and b[: len(a)] == a for a in spelled for b in spelled)
        logs = np.array([self.of((*ids, END) if prefixed else ids) for ids in spelled])
        shares = np.exp(logs - logs.max())
        return np.asarray(shares / shares.sum())


def tree_of(labels: Sequence[Sequence[int]], end: int | None = END) -> LabelTree:
    return LabelTree([str(ids) for ids in labels], labels, end)


labels = st.lists(st.lists(st.integers(0, 8), max_size=6).map(tuple), min_size=1, max_size=40, unique=True)


@settings(max_examples=150, deadline=None)
@given(labels=labels, seed=st.integers(0, 1000), sure=st.sampled_from([0, 3, 8, 30, 2000]))
def test_shares_are_the_normalised_likelihoods(labels: list[tuple[int, ...]], seed: int, sure: float) -> None:
    model, exact = Model(seed, sure), Model(seed, sure)
    tree = tree_of(labels)
    assert sorted(tree.root.responses if tree.root else [0]) == list(range(len(labels)))
    shares = asyncio.run(tree.shares(model.ask))
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0
    assert shares == pytest.approx(exact.shares(labels), abs=9.1e-4)
    assert len(set(model.asked)) == len(model.asked) <= 2 * len(labels)
    # With nothing left out it is exact, and a tree may be walked again.
    assert asyncio.run(tree.shares(model.ask, tolerance=0)) == pytest.approx(exact.shares(labels), abs=1e-9)


def test_a_thousand_labels_with_shared_beginnings() -> None:
    draw = random.Random(0)
    labels = list({tuple(draw.choices(range(4), k=draw.randint(3, 9))) for _ in range(2000)})[:1000]
    labels += [labels[0][:2], labels[1][:1]]  # prefixes of others
    tree = tree_of(labels)
    for sure in (0, 10, 40):
        model = Model(1, sure)
        shares = asyncio.run(tree.shares(model.ask))
        assert shares == pytest.approx(model.shares(labels), abs=9.1e-4)
        if sure == 40:  # one that knows what to say is asked little
            assert len(model.asked) < 60


def test_a_question_for_letters_and_few_for_a_sure_model() -> None:
    letters = [(5, 6, 0), (5, 6, 1), (5, 6, 2)]
    model = Model(0, 3)
    assert asyncio.run(tree_of(letters).shares(model.ask)) == pytest.approx(model.shares(letters), abs=1e-9)
    [question] = model.asked
    assert (question.path, question.known, question.tokens) == ((5, 6), 2, [0, 1, 2])  # what all share tells nothing
    # A prefix of another label costs a question for each end, unless it cannot matter.
    ends = Model(0, 0)
    assert asyncio.run(tree_of([*letters, (5, 6)]).shares(ends.ask)) == pytest.approx(
        ends.shares([*letters, (5, 6)]), abs=1e-9
    )
    assert len(ends.asked) == 4


def test_one_label_and_none_need_no_question() -> None:
    model = Model(0, 1)
    assert asyncio.run(tree_of([(1, 2)]).shares(model.ask)) == [1.0]
    assert asyncio.run(tree_of([]).shares(model.ask)) == []
    assert not model.asked


def test_labels_longer_than_the_stack() -> None:
    nested = [(1,) * length for length in range(1, 1200)]
    tree = tree_of(nested)
    assert tree.longest == 1200 and tree.root and len(tree.root.responses) == 1199


def test_labels_that_cannot_be_told_apart_are_named() -> None:
    with pytest.raises(
        RequestRefused, match=r"'caf\u00e9' and 'cafe' cannot be told apart.*same tokens.*Rename or remove"
    ):
        LabelTree(["other", "caf\u00e9", "cafe"], [[1], [2, 3], [2, 3]], END)
    with pytest.raises(RequestRefused, match=r"'ja' and 'ja ja'.*second begins with all tokens of the first"):
        LabelTree(["ja ja", "ja"], [[4, 4], [4]], None)  # a model without an end of turn
    with pytest.raises(RequestRefused, match="'x' and 'x'"):
        LabelTree(["x", "y", "x"], [[4], [5], [4]], END)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_model_that_gives_no_probability_is_told(value: float) -> None:
    async def ask(branch: Branch) -> Answer:
        return 0.0, [value] * len(branch.tokens)

    with pytest.raises(RequestRefused, match="gives none of the 3 responses a probability"):
        asyncio.run(tree_of([(1, 2), (1, 3), (2, 2)]).shares(ask))


def test_a_label_that_the_model_rules_out_gets_nothing() -> None:
    async def ask(branch: Branch) -> Answer:
        return 0.0, [0.0 if token == 1 else float("-inf") for token in branch.tokens]

    assert asyncio.run(tree_of([(1, 1), (1, 2), (2, 2)]).shares(ask)) == [1.0, 0.0, 0.0]


def test_an_engine_that_dies_ends_the_walk() -> None:
    async def ask(branch: Branch) -> Answer:
        raise RuntimeError("dead")

    with pytest.raises(RuntimeError, match="dead"):
        asyncio.run(tree_of([(1,), (2,)]).shares(ask))
