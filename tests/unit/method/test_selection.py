from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.method.selection import (
    LEVELS,
    Bounds,
    Candidates,
    descend,
    entropy_of,
    histogram,
    order_keys,
    quantile_rank,
    rejections,
)

FLOATS = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=200)


def search(keys: np.ndarray, rank: int, parts: int = 1) -> int:
    prefix = 0
    for level in range(LEVELS):
        pieces = np.array_split(keys, parts)
        prefix, rank = descend(prefix, rank, sum(histogram(piece, prefix=prefix, level=level) for piece in pieces))
    return prefix


@given(FLOATS, st.data())
def test_the_radix_search_is_exact(values: list[float], data: st.DataObject) -> None:
    entropy = np.array(values, dtype=np.float32)
    ids = np.arange(len(values), dtype=np.int64)
    rank = data.draw(st.integers(1, len(values)))
    keys = order_keys(entropy, ids)
    key = search(keys, rank, parts=data.draw(st.integers(1, 4)))
    assert key == np.sort(keys)[rank - 1]
    assert (keys <= np.uint64(key)).sum() == rank  # ids break ties, so exactly `rank` rows are kept
    assert entropy_of(key) == np.sort(entropy)[rank - 1]


def test_keys_sort_by_entropy_then_id_and_nan_last() -> None:
    entropy = np.array([0.5, 0.5, -1.0, 0.0, np.inf, np.nan], dtype=np.float32)
    keys = order_keys(entropy, np.array([2, 1, 9, 9, 9, 9], dtype=np.int64))
    assert list(np.argsort(keys)) == [2, 3, 1, 0, 4, 5]


@pytest.mark.parametrize(
    ("rows", "theta", "rank"), [(10, 0.3, 3), (10, 0.31, 4), (10, 1.0, 10), (1, 0.01, 1), (0, 0.5, 0), (3, 0.5, 2)]
)
def test_quantile_rank(rows: int, theta: float, rank: int) -> None:
    assert quantile_rank(rows, theta) == rank


def candidates(entropy: list[float], answers: str, agreement: list[float], strata: list[str | None]) -> Candidates:
    ids = (np.arange(len(entropy), dtype=np.int64) << 62) + np.arange(len(entropy))  # two bits tell a sample apart
    keys = order_keys(np.array(entropy, dtype=np.float32), ids)
    texts = [np.array(values, dtype=object) for values in (list(answers), strata)]
    return Candidates(keys, ~np.isnan(entropy), ids, np.array(agreement, dtype=np.float32), *texts)


def test_rejections_name_the_first_reason() -> None:
    rows = candidates([0.1, 0.2, 0.3, 0.9], "AAAB", [1.0, 0.25, 1.0, 1.0], [None, "s", "s", None])
    bounds = Bounds(min_agreement=0.5, upto={"": int(rows.keys[2])})
    got = rejections(rows, bounds, caps={"A": int(rows.keys[0])})
    assert got == [None, "agreement below the floor", "over the cap of its answer", "entropy above the theta-quantile"]
    assert list(bounds.mask(rows)) == [True, False, True, False]
    by_answer = Bounds(per="answer", upto={"A": int(rows.keys[0]), "B": int(rows.keys[3])})
    assert list(by_answer.mask(rows)) == [True, False, False, True]
    by_stratum = Bounds(per="stratum", upto={"": int(rows.keys[0]), "s": int(rows.keys[2])})
    assert list(by_stratum.mask(rows)) == [True, True, True, False]
    half = Bounds(sample=0.5, upto={})
    assert rejections(rows, half, {}) == [None, None, "not in the sample", "not in the sample"]
    consistent = Bounds(keep_unanimous=True)
    assert list(consistent.mask(rows)) == [False, True, False, False]  # the quantile is of the others
    unknown = candidates([float("nan"), 0.2], "AA", [1.0, 1.0], [None, None])
    assert list(Bounds().mask(unknown)) == [False, True]  # it takes no part in the quantile
    assert rejections(unknown, Bounds(upto={}), {}) == ["without the measure that selects", None]
    known = replace(consistent, upto={"": int(rows.keys[0])})
    assert rejections(rows, known, {}) == [None, "entropy above the theta-quantile", None, None]
