import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from generality.measures import student_supervisor_agreement

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
