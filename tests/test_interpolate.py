import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from generality.weights import interpolate, wise_ft


@given(st.floats(-1, 2), st.integers(0, 100))
def test_a_linear_model_between_two_gives_what_lies_between(alpha: float, seed: int) -> None:
    torch.manual_seed(seed)
    first, second, between = (nn.Linear(3, 2) for _ in range(3))
    between.load_state_dict(interpolate(first.state_dict(), second.state_dict(), alpha))
    x = torch.randn(4, 3)
    torch.testing.assert_close(
        between(x), (1 - alpha) * first(x) + alpha * second(x), atol=1e-5, rtol=1e-5
    )


def test_the_ends_are_the_models_and_a_half_is_the_mean() -> None:
    first = {"w": torch.tensor([0.1, 0.7]), "ids": torch.arange(3)}
    second = {"w": torch.tensor([0.3, -0.5]), "ids": torch.arange(3)}
    assert wise_ft(first, second, 0)["w"].equal(first["w"])
    assert wise_ft(first, second, 1)["w"].equal(second["w"])
    torch.testing.assert_close(wise_ft(first, second)["w"], torch.tensor([0.2, 0.1]))
    assert wise_ft(first, second)["ids"].tolist() == [0, 1, 2]


def test_half_precision_is_averaged_in_single_and_kept_half() -> None:
    big = {"w": torch.tensor([60000.0, 1.0], dtype=torch.float16)}
    found = interpolate(big, big, 0.5)["w"]
    assert found.dtype == torch.float16
    assert found.equal(big["w"])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"v": torch.ones(2)}, "one of the two"),
        ({"w": torch.ones(3)}, "shape"),
        ({"w": torch.ones(2, dtype=torch.float64)}, "dtype"),
    ],
)
def test_models_that_do_not_match_are_refused(second, message) -> None:
    with pytest.raises(ValueError, match=message):
        interpolate({"w": torch.zeros(2)}, second, 0.5)


def test_integers_that_differ_and_alphas_outside_are_refused() -> None:
    with pytest.raises(ValueError, match="integers"):
        interpolate({"n": torch.tensor(1)}, {"n": torch.tensor(2)}, 0.5)
    with pytest.raises(ValueError, match="alpha"):
        wise_ft({}, {}, 1.5)
