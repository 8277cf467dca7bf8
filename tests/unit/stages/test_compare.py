"""What decides on further rounds."""

from typing import Any

from semievol.stages import compare


def test_a_gain_is_a_gain_beyond_noise() -> None:
    def gained(evolved: float, previous: float, p_value: float) -> bool:
        tests = {"evolved_vs_warm": {"p_value": 1.0}, "evolved_vs_previous": {"p_value": p_value}}
        return compare.gained({"accuracy": {"evolved": evolved, "previous": previous}, "paired": tests})

    assert gained(0.8, 0.7, 0.01)
    assert not gained(0.8, 0.7, 0.2) and not gained(0.7, 0.8, 0.01) and not gained(0.7, 0.7, 1.0)
    assert compare.gained({"accuracy": {"evolved": 0.1}, "paired": {"evolved_vs_warm": {"p_value": 1.0}}})


def test_validation_rows_decide_where_there_are_some() -> None:
    def figures(evolved: float) -> dict[str, Any]:
        return {
            "accuracy": {"evolved": evolved, "previous": 0.5},
            "paired": {"evolved_vs_previous": {"p_value": 0.01}},
        }

    assert compare.gained(figures(0.1) | {"validation": figures(0.9)})
    assert not compare.gained(figures(0.9) | {"validation": figures(0.1)})
