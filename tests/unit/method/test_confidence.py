import math

import pytest

from semievol.method.confidence import (
    Response,
    agree,
    distinct,
    entropy,
    from_distribution,
    mixture,
    sampling_seed,
    token_entropy,
    verdict,
    vote,
)
from semievol.tasks import Row
from semievol.tasks.classification import Classification
from semievol.tasks.multiple_choice import MultipleChoice

TASK = MultipleChoice()
same = TASK.same


def responses(*pairs: tuple[str | None, float]) -> list[Response]:
    return [Response(f"c{i}", answer, nll, nll / 2, 3) for i, (answer, nll) in enumerate(pairs)]


def test_unanimous_answers_stand_with_their_means() -> None:
    given = responses(("B", 0.1), ("B", 0.3))
    assert agree(same, given)
    found = verdict(same, given)
    assert found is not None
    assert (found.answer, found.agreement, found.vote_entropy) == ("B", 1.0, 0.0)
    assert math.isclose(found.nll or 0, 0.2) and math.isclose(found.token_entropy or 0, 0.1)


def test_an_unparsable_response_is_no_agreement_and_a_failed_one_is_not_asked() -> None:
    mixed = responses(("B", 0.1), (None, 0.0))
    assert not agree(same, mixed)
    assert distinct(same, mixed) == ["B"]
    found = verdict(same, mixed)
    assert found is not None
    assert (found.answer, found.agreement, found.nll) == ("B", 0.5, 0.1)
    in_part = [*responses(("B", 0.1)), Response("far", error="HTTP 500")]
    assert agree(same, in_part)
    found = verdict(same, in_part)
    assert found is not None and found.agreement == 1.0
    assert not agree(same, in_part[1:]) and verdict(same, in_part[1:]) is None


def test_majority_then_the_surer_answer() -> None:
    found = verdict(same, responses(("A", 0.9), ("B", 0.1), ("A", 0.9)))
    assert found is not None and found.answer == "A"
    assert found.vote_entropy == pytest.approx(entropy([2 / 3, 1 / 3]))
    found = verdict(same, responses(("A", 0.9), ("B", 0.1)))
    assert found is not None and found.answer == "B"


def test_distributions_and_samples_mix() -> None:
    scored = from_distribution("score", {"A": 0.6, "B": 0.4})
    assert (scored.answer, scored.nll) == ("A", pytest.approx(-math.log(0.6)))
    assert scored.token_entropy == pytest.approx(entropy([0.6, 0.4]))
    assert mixture(same, [scored, *responses(("B", 0.1))]) == pytest.approx({"A": 0.3, "B": 0.7})
    # An answer may stand that is nobody's first choice; then nobody agrees with it.
    split = [from_distribution("x", {"A": 0.52, "B": 0.48}), from_distribution("y", {"C": 0.52, "B": 0.48})]
    found = verdict(same, split)
    assert found is not None and (found.answer, found.agreement) == ("B", 0.0)
    assert found.nll == pytest.approx(-math.log(0.48))


def test_silence_is_no_certainty_and_no_measure_is_not_the_best_one() -> None:
    found = verdict(same, responses(("A", 0.1), (None, 0.1), (None, 0.1), (None, 0.1)))
    assert found is not None and found.vote_entropy == pytest.approx(entropy([0.25, 0.75]))
    failed = [*responses(("A", 0.1)), Response("far", error="HTTP 500")]
    found = verdict(same, failed)
    assert found is not None and found.vote_entropy == 0.0  # it was not heard, so it has not hesitated
    tie = [Response("api", "B"), Response("warm", "A", 0.01)]
    found = verdict(same, tie)
    assert found is not None and found.answer == "A"


def test_the_justified_answer_wins_with_its_own_entropies() -> None:
    asked = responses(("A", 0.1), ("A", 0.1), ("B", 0.9), ("C", 0.9))
    found = verdict(same, asked, decided=Response("judge", "B", 0.4, 0.3, 3))
    assert found is not None
    assert (found.answer, found.nll, found.token_entropy, found.agreement) == ("B", 0.4, 0.3, 0.25)
    assert found.vote_entropy == pytest.approx(entropy([0.5, 0.25, 0.25]))
    # It may also name what nobody said; then nobody agrees with it.
    found = verdict(same, asked, decided=Response("judge", "D", 0.4))
    assert found is not None and found.agreement == 0.0
    # An unparsable judgement leaves the majority.
    found = verdict(same, asked, decided=Response("judge", None, 0.0))
    assert found is not None and found.answer == "A"


def test_no_answer_at_all_is_no_verdict() -> None:
    assert verdict(same, responses((None, 0.1), (None, 0.2))) is None


def test_token_entropy_counts_what_the_top_k_leave_out() -> None:
    half = math.log(0.5)
    assert token_entropy([[half, half]]) == pytest.approx(math.log(2))
    assert token_entropy([[half]]) == pytest.approx(math.log(2))  # the other half is one more token
    assert token_entropy([[0.0, -math.inf], [half, half]]) == pytest.approx(math.log(2) / 2)
    assert token_entropy([]) == 0.0


def test_seeds_depend_on_all_three_and_fit_31_bits() -> None:
    seeds = {sampling_seed(s, r, c) for s in (0, 1) for r in (-(2**63), 5, 2**63 - 1) for c in range(4)}
    assert len(seeds) == 2 * 3 * 4
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert sampling_seed(1, 2, 3) == sampling_seed(1, 2, 3)


def test_neighbours_vote_by_similarity_and_in_the_terms_of_the_row() -> None:
    row = Row("?", ["yes", "no", "maybe"], None, None)
    yes, no = Row("?", ["no", "yes"], None, "B"), Row("?", ["no", "yes"], None, "A")  # the options in another order
    foreign = Row("?", ["red", "blue"], None, "A")
    shares = vote(TASK, row, [(yes, 0.9), (no, 0.8), (no, 0.2), (foreign, 1.0)])
    near, far, farthest = math.exp(9), math.exp(8), math.exp(2)
    total = near + far + farthest
    assert shares == pytest.approx({"A": near / total, "B": (far + farthest) / total})
    assert vote(TASK, row, [(foreign, 1.0)]) is None
    assert vote(TASK, row, []) is None
    assert vote(TASK, row, [(no, 0.1)]) == {"B": 1.0}


def test_shares_over_a_thousand_labels_mix_and_the_surer_of_two_equal_answers_wins() -> None:
    labels = [f"label {i}" for i in range(1000)]
    sure = dict.fromkeys(labels, 0.1 / 999) | {"label 7": 0.9}
    flat = dict.fromkeys(labels, 0.001)
    compared = []

    def counting(a: str, b: str) -> bool:
        compared.append((a, b))
        return a == b

    given = [from_distribution("a", sure), from_distribution("b", flat), from_distribution("c", sure)]
    shares = mixture(counting, given)
    assert not compared  # equal names need no comparison, and one distribution's names differ
    assert len(shares) == 1000 and sum(shares.values()) == pytest.approx(1)
    found = verdict(counting, given)
    assert found is not None and found.answer == "label 7" and found.shares["label 7"] == pytest.approx(1.801 / 3)
    assert found.vote_entropy == pytest.approx(entropy(shares.values()))
    assert found.agreement == pytest.approx(2 / 3)
    tied = verdict(same, [Response("a", "A", 0.5), Response("b", "B", 0.4)])
    assert tied is not None and tied.answer == "B"


def test_of_sets_each_label_is_believed_by_its_own_share() -> None:
    topics = Classification(labels=["sport", "politics", "arts"], multiple=True)

    def sets(*answers: str | None) -> list[Response]:
        return [Response(f"c{i}", answer, 0.1 * (i + 1), 0.2) for i, answer in enumerate(answers)]

    given = sets('["sport", "arts"]', '["sport"]', '["arts", "sport"]', '["sport", "politics"]')
    found = verdict(topics.same, given, task=topics)
    assert found is not None
    assert found.answer == '["sport"]'  # arts has half of the responses, and not more
    assert found.shares == pytest.approx({"sport": 1.0, "arts": 0.5, "politics": 0.25})
    assert found.agreement == 0.25 and found.nll == pytest.approx(0.2)
    assert found.vote_entropy == pytest.approx(entropy([0.5, 0.5]) + entropy([0.25, 0.75]))
    # No response need give just the labels that most have.
    split = verdict(
        topics.same, sets('["sport", "arts"]', '["arts", "politics"]', '["sport", "politics"]'), task=topics
    )
    assert split is not None and split.answer == '["sport", "politics", "arts"]'
    assert split.agreement == 0 and split.nll == pytest.approx(0.2)
    empty = verdict(topics.same, sets("[]", "[]", '["arts"]', None), task=topics)
    assert empty is not None and empty.answer == "[]" and empty.agreement == 0.5
    decided = verdict(topics.same, given, decided=Response("j", '["arts"]', 0.3), task=topics)
    assert decided is not None and (decided.answer, decided.nll) == ('["arts"]', 0.3)
    assert decided.shares["sport"] == 1.0  # the votes stay what they were
    assert agree(topics.same, sets('["arts", "sport"]', '["sport", "arts"]'))
