from collections import Counter
from random import Random

import pytest

from semievol.errors import UserError
from semievol.method.folds import folds

ANSWERS = ["a"] * 11 + ["b"] * 5 + ["c", "d"]
IDS = [7919 * i - 30000 for i in range(len(ANSWERS))]


def test_each_fold_has_its_part_of_every_answer_and_the_order_of_rows_does_not_matter() -> None:
    found = folds(IDS, ANSWERS, 3)
    assert sorted(found) == sorted(IDS) and sorted(Counter(found.values()).values()) == [6, 6, 6]
    for answer in set(ANSWERS):
        sizes = Counter(found[row] for row, given in zip(IDS, ANSWERS, strict=True) if given == answer)
        counts = [sizes[fold] for fold in range(3)]
        assert max(counts) - min(counts) <= 1
    shuffled = Random(1).sample(list(zip(IDS, ANSWERS, strict=True)), len(IDS))
    assert folds(*zip(*shuffled, strict=True), 3) == found  # type: ignore[arg-type]
    ranked = [row for row in sorted(IDS) if found[row] == 0]
    assert ranked != sorted(IDS)[::3]  # no pattern of the ids


def test_rows_that_all_differ_are_dealt_too_and_too_few_are_refused() -> None:
    assert sorted(folds([1, 2, 3, 4], ["w", "x", "y", "z"], 4).values()) == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"warmup\.members: 3 members need a labeled row each, and there are 2"):
        folds([1, 2], ["x", "x"], 3)
