import numpy as np
import pytest

from generality.benchmarks import CORRUPTIONS, corrupt_inputs
from generality.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = (
    np.stack([np.outer(np.sin(np.arange(28) / s), np.cos(np.arange(28) / 3)) for s in range(1, 25)])
    .reshape(8, 3, 28, 28)
    .astype(np.float32)
    * 0.3
    + 0.4
)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_damage_grows_with_strength_and_repeats(kind: str) -> None:
    before = IMAGES.copy()
    damage = []
    for strength in range(1, 6):
        out = corrupt_inputs(IMAGES, kind, strength, seed=3)
        assert (out.shape, out.dtype) == (IMAGES.shape, np.float32)
        assert out.min() >= 0
        assert out.max() <= 1
        assert np.array_equal(out, corrupt_inputs(IMAGES, kind, strength, seed=3))
        damage.append(float(((out - IMAGES) ** 2).mean()))
    assert damage[0] > 1e-7
    assert damage[4] > damage[2] > damage[0]
    assert np.array_equal(IMAGES, before)
    assert corrupt_inputs(IMAGES[:, :2], kind, 1).shape == (8, 2, 28, 28)


def test_amounts_are_those_that_are_stated() -> None:
    grey = np.full((50, 1, 40, 40), 0.5, dtype=np.float32)
    assert corrupt_inputs(grey, "noise", 2).std() == pytest.approx(0.12, abs=0.002)
    # a Poisson count of mean c/2, divided by c, has the variance 1/(2c)
    assert corrupt_inputs(grey, "shot_noise", 1).var() == pytest.approx(1 / 120, rel=0.03)
    damaged = corrupt_inputs(grey, "salt_and_pepper", 5)
    assert (damaged != 0.5).mean() == pytest.approx(0.27, abs=0.01)
    assert (damaged == 1).mean() == pytest.approx(0.135, abs=0.01)
    halves = np.repeat(np.array([0.2, 0.6], dtype=np.float32), 20).reshape(1, 1, 1, 40)
    assert np.ptp(corrupt_inputs(halves.repeat(40, 2), "contrast", 3)) == pytest.approx(0.08)
    noisy = RNG.random((20, 3, 40, 40)).astype(np.float32)
    covered = (corrupt_inputs(noisy, "occlusion", 5) != noisy).any(1).mean()
    assert covered == pytest.approx(0.5, abs=0.03)
    dot = np.zeros((1, 1, 57, 57), dtype=np.float32)
    dot[0, 0, 28, 28] = 1
    # a Gaussian of two pixels a side of 56 has its peak at 1/(2π·2²)
    peak = corrupt_inputs(dot, "blur", 2).max()
    assert peak == pytest.approx(1 / (2 * np.pi * (2 * 57 / 56) ** 2), rel=0.01)


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'contrast'"):
        corrupt_inputs(IMAGES, "contrst")
    for strength in (0, 6, 2.5):
        with pytest.raises(ValueError, match="strength is 1, 2, 3, 4 or 5"):
            corrupt_inputs(IMAGES, "blur", strength)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="channels, height, width"):
        corrupt_inputs(IMAGES[0], "blur")
