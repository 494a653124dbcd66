import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.measures import ArithmeticSteps, outcome_error_rate, step_error_rate

FLAGS = [[0, 1, 0, 0], [0, 0], [1, 1, 1], [0, 0, 0, 1, 0]]


def test_the_rates_of_the_sheet() -> None:
    assert step_error_rate(FLAGS, list) == pytest.approx(0.3625)
    assert step_error_rate(FLAGS, list, aggregate="micro") == pytest.approx(0.357143, abs=1e-6)
    assert outcome_error_rate(FLAGS, lambda flags: not any(flags)) == 0.75


def test_what_rests_on_an_error_counts_when_asked() -> None:
    assert step_error_rate([[0, 1, 0, 0]], list, propagate=True) == 0.75
    assert step_error_rate([[0, 0]], list, propagate=True) == 0


def test_what_cannot_be_read_is_one_wrong_step() -> None:
    assert step_error_rate([np.array([0, 1]), np.array([])], lambda flags: flags) == 0.75
    assert step_error_rate([None, [0, 0, 0]], lambda flags: flags) == 0.5
    assert step_error_rate([None, [0, 0, 0]], lambda flags: flags, aggregate="micro") == 0.25
    with pytest.raises(ValueError, match="no solutions"):
        step_error_rate([], list)
    with pytest.raises(ValueError, match="no solutions"):
        outcome_error_rate([], bool)
    with pytest.raises(ValueError, match="'macro' or 'micro', not 'mean'"):
        step_error_rate(FLAGS, list, aggregate="mean")  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=8))
def test_propagating_never_lowers_a_rate_and_rates_are_shares(flags: list[list[bool]]) -> None:
    for aggregate in ("macro", "micro"):
        plain = step_error_rate(flags, list, aggregate=aggregate)
        carried = step_error_rate(flags, list, aggregate=aggregate, propagate=True)
        assert 0 <= plain <= carried <= 1


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("<<48/2=24>>24 then <<48+24=73>>73", [False, True]),
        ("1,200 + 1 = 1201 and 3 × 4 = 12", [False, False]),
        ("10 - 4 = 6, 4 − 10 = -6", [False, False]),
        ("2.5 + 2.5 = 5.0", [False]),
        ("4 / 0 = 4", [True]),
        ("3 + 4 + 5 = 12 but 2 * 3 + 4 = 14", [False, True]),
        ("7 + 4 - 3 = 8, 20 - 2 × 3 = 14, 5 - -3 = 8", [False] * 3),
        ("$3 * 4 = $12", [False]),
        ("1/3 = 0.33, 2/3 = 0.66, 10/4 = 2", [False, True, True]),
        ("(1 + 2) * 3 * 2 = 18 and 2^3 + 1 = 9", None),
        ("- 3 + 4 = 7\n* 1 + 1 = 3", [False, True]),
        ("= 7,7 + 5 = 12", [False]),
        ("no equation", None),
    ],
)
def test_equations_are_recomputed(text: str, flags: list[bool] | None) -> None:
    assert ArithmeticSteps()(text) == flags


def test_equations_modulo() -> None:
    judge = ArithmeticSteps(modulus=5)
    assert judge("b = 3 + 4 = 2 ; c = 2 - 3 = 4 ; d = 4 + 4 = 4") == [False, False, True]
