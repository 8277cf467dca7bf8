import math

import pytest

from semievol.confidence import Response, agree, distinct, sampling_seed, verdict, vote
from semievol.config import TaskConfig
from semievol.tasks import Row, make

TASK = make(TaskConfig())


def responses(*pairs: tuple[str | None, float]) -> list[Response]:
    return [Response(answer, entropy, 3) for answer, entropy in pairs]


def test_unanimous_answers_stand_with_their_mean_entropy() -> None:
    same = responses(("B", 0.1), ("B", 0.3))
    assert agree(TASK, same)
    found = verdict(TASK, same)
    assert found is not None
    assert (found.answer, found.agreement) == ("B", 1.0)
    assert math.isclose(found.entropy, 0.2)


def test_an_unparsable_response_is_no_agreement() -> None:
    mixed = responses(("B", 0.1), (None, 0.0))
    assert not agree(TASK, mixed)
    assert distinct(TASK, mixed) == ["B"]
    found = verdict(TASK, mixed)
    assert found is not None
    assert (found.answer, found.agreement, found.entropy) == ("B", 0.5, 0.1)


def test_majority_then_lower_entropy() -> None:
    found = verdict(TASK, responses(("A", 0.9), ("B", 0.1), ("A", 0.9)))
    assert found is not None and found.answer == "A"
    found = verdict(TASK, responses(("A", 0.9), ("B", 0.1)))
    assert found is not None and found.answer == "B"


def test_the_justified_answer_wins_with_its_own_entropy() -> None:
    asked = responses(("A", 0.1), ("A", 0.1), ("B", 0.9), ("C", 0.9))
    found = verdict(TASK, asked, decided=Response("B", 0.4, 3))
    assert found is not None
    assert (found.answer, found.entropy, found.agreement) == ("B", 0.4, 0.25)
    # It may also name what nobody said; then nobody agrees with it.
    found = verdict(TASK, asked, decided=Response("D", 0.4, 3))
    assert found is not None and found.agreement == 0.0
    # An unparsable judgement leaves the majority.
    found = verdict(TASK, asked, decided=Response(None, 0.0, 3))
    assert found is not None and found.answer == "A"


def test_no_answer_at_all_is_no_verdict() -> None:
    assert verdict(TASK, responses((None, 0.1), (None, 0.2))) is None


def test_seeds_depend_on_all_three_and_fit_31_bits() -> None:
    seeds = {sampling_seed(s, r, c) for s in (0, 1) for r in (-(2**63), 5, 2**63 - 1) for c in range(4)}
    assert len(seeds) == 2 * 3 * 4
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert sampling_seed(1, 2, 3) == sampling_seed(1, 2, 3)


def test_neighbours_vote_by_similarity_and_in_the_terms_of_the_row() -> None:
    row = Row("?", ["yes", "no", "maybe"], None, None)
    yes, no = Row("?", ["no", "yes"], None, "B"), Row("?", ["no", "yes"], None, "A")  # the options in another order
    foreign = Row("?", ["red", "blue"], None, "A")
    found = vote(TASK, row, [(yes, 0.9), (no, 0.8), (no, 0.2), (foreign, 1.0)])
    assert found is not None and found.answer == "A"
    near, far, farthest = math.exp(9), math.exp(8), math.exp(2)
    assert found.entropy == pytest.approx(-math.log(near / (near + far + farthest)))
    assert vote(TASK, row, [(foreign, 1.0)]) is None
    assert vote(TASK, row, []) is None
    assert vote(TASK, row, [(no, 0.1)]) == Response("B", 0.0, 0)
