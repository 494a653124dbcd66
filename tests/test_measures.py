import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from generality.measures import ece, flip_report, student_supervisor_agreement

IDS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40
)


def test_agreement_by_hand() -> None:
    truth = [0, 0, 0, 1, 1, 2, 2, 2]
    supervisor = [0, 0, 1, 1, 0, 2, 0, 1]  # right on 4, wrong on 4
    student = [0, 1, 1, 1, 0, 2, 1, 1]  # agrees on 3 of the right ones; repeats errors 2, 4, 7
    found = student_supervisor_agreement(student, supervisor, truth)
    assert found.overall == 6 / 8
    assert found.where_right == 3 / 4
    assert found.where_wrong == 3 / 4  # on example 6 it makes another error: no repetition


def test_agreement_takes_probabilities_and_tensors() -> None:
    student = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    supervisor = np.array([[0.6, 0.4], [0.7, 0.3]])
    found = student_supervisor_agreement(student, supervisor, [0, 1])
    assert (found.overall, found.where_right, found.where_wrong) == (0.5, 1.0, 0.0)


def test_agreement_of_an_empty_group_is_nan() -> None:
    perfect = student_supervisor_agreement([0, 1], [0, 1], [0, 1])
    assert perfect.where_right == 1
    assert math.isnan(perfect.where_wrong)
    unknown = student_supervisor_agreement([0, 1], [0, 0])
    assert unknown.overall == 0.5
    assert math.isnan(unknown.where_right)
    assert math.isnan(unknown.where_wrong)


@given(IDS)
def test_overall_agreement_is_the_mean_of_its_parts(rows: list[tuple[int, int, int]]) -> None:
    student, supervisor, truth = np.array(rows).T
    found = student_supervisor_agreement(student, supervisor, truth)
    right = (supervisor == truth).mean()
    parts = [
        share * weight
        for share, weight in ((found.where_right, right), (found.where_wrong, 1 - right))
        if weight
    ]
    assert found.overall == pytest.approx(sum(parts))


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ([0, 1, 1], "3 student, 2 supervisor"),
        ([0.2, 0.7], "class ids"),
        ([0.0, math.nan], "not finite"),
        (["a", "b"], "numbers"),
        (np.zeros((2, 2, 2)), "not (2, 2, 2)"),
    ],
)
def test_agreement_refuses_what_it_cannot_read(student: object, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        student_supervisor_agreement(student, [0, 1])


def test_flips_by_hand() -> None:
    truth = np.zeros(20, dtype=int)
    old = np.array([0] * 12 + [1] * 8)
    new = np.array([1] * 2 + [0] * 10 + [0] * 7 + [1])  # breaks 2, mends 7
    found = flip_report(old, new, truth)
    assert (found.negative, found.positive) == (0.1, 0.35)
    # two-sided binomial of 2 in 9 at 1/2: 2 · (1 + 9 + 36) / 512
    assert found.mcnemar_p == pytest.approx(92 / 512)
    assert found.floor == 0


def test_an_update_that_loses_accuracy_has_to_break_something() -> None:
    found = flip_report(old=[0, 0, 0, 1], new=[1, 1, 0, 0], truth=[0, 0, 0, 0])
    assert found.floor == 0.25  # from 3/4 to 2/4
    assert found.negative == 0.5


def test_no_change_is_no_flip() -> None:
    found = flip_report([0, 1], [0, 1], [1, 1])
    assert (found.negative, found.positive, found.mcnemar_p, found.floor) == (0, 0, 1, 0)
    with pytest.raises(ValueError, match="no examples"):
        flip_report([], [], [])


@given(IDS)
def test_flips_account_for_the_change_in_accuracy(rows: list[tuple[int, int, int]]) -> None:
    old, new, truth = np.array(rows).T
    found = flip_report(old, new, truth)
    gained = (new == truth).mean() - (old == truth).mean()
    assert found.positive - found.negative == pytest.approx(gained)
    assert found.negative >= found.floor
    back = flip_report(new, old, truth)
    assert (back.negative, back.mcnemar_p) == (found.positive, found.mcnemar_p)


def test_calibration_error_by_hand() -> None:
    probabilities = [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.45, 0.55]]
    truth = [0, 1, 1, 0]
    # equal width, 2 bins: all in the upper one: |(.9 + .8 + .6 + .55) / 4 - 1/2|
    assert ece(probabilities, truth, bins=2, binning="width") == pytest.approx(0.2125)
    # equal mass: {.55 wrong, .6 right} and {.8 wrong, .9 right}
    assert ece(probabilities, truth, bins=2) == pytest.approx((0.15 + 0.7) / 4)
    assert ece([[1.0, 0.0]], [0]) == 0
    with pytest.raises(ValueError, match="do not fit"):
        ece(probabilities, [0, 1])
