"""Soft targets along the path of a row's answer, by hand."""

import pytest

from semievol.trainers.targets import soft_targets

END = 9
# The root tells no (2), yes (3) and what begins with 1; then 1 4 and 1 5 part, and 1 4 ends where 1 4 6 goes on.
SPELLED = {"no": [2, END], "yes": [3, END], "a": [1, 4, END], "ab": [1, 4, 6, END], "c": [1, 5, END]}


def places(answer: str, shares: dict[str | None, float]) -> dict[int, dict[int, float]]:
    found = soft_targets(answer, shares, SPELLED)
    assert all(sum(at["shares"]) <= 1 + 1e-9 for at in found)
    return {
        at["place"]: {token: pytest.approx(share) for token, share in zip(at["tokens"], at["shares"], strict=True)}
        for at in found
    }


def test_a_place_counts_by_the_share_of_what_leads_to_it() -> None:
    shares: dict[str | None, float] = {"no": 0.1, "yes": 0.0, "a": 0.5, "ab": 0.2, "c": 0.2}
    assert places("a", shares) == {0: {2: 0.1, 1: 0.9}, 1: {4: 0.7, 5: 0.2}, 2: {END: 0.5, 6: 0.2}}
    assert places("ab", shares) == {0: {2: 0.1, 1: 0.9}, 1: {4: 0.7, 5: 0.2}, 2: {END: 0.5, 6: 0.2}, 3: {END: 0.2}}
    assert places("no", shares) == {0: {2: 0.1, 1: 0.9}, 1: {END: 0.1}}


def test_what_is_certain_is_hard_and_what_has_no_name_is_left_out() -> None:
    assert places("a", {"a": 1.0, "no": 0.0}) == {} == places("a", {"a": 0.25, None: 0.75})
    assert places("c", {"c": 0.3, "a": 0.1, None: 0.6}) == {1: {5: 0.75, 4: 0.25}, 2: {END: 0.75}}
    assert places("a", {}) == {} == places("a", {None: 1.0})
    assert places("yes", {"no": 1.0}) == {
        0: {2: 1.0},
        1: {},
    }  # the chosen answer has no share: nothing is learned behind it
    assert [at["place"] for at in soft_targets("x", {"x": 0.5, "y": 0.5}, {"x": [7, END], "y": [7, END]})] == []
