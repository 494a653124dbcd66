import numpy as np
import pytest
from scipy.ndimage import rotate

from generality.benchmarks import colored_digits, inverse_colored_digits, rotated_digits

RNG = np.random.default_rng(0)
DIGITS = RNG.integers(0, 10, 30_000)
IMAGES = np.broadcast_to((1 + np.arange(30_000))[:, None, None] / 30_000, (30_000, 2, 1))


def agreement(data, cue: np.ndarray) -> list[float]:
    return [float((cue == data.labels)[data.rows(d)].mean()) for d in data.domain_names]


@pytest.mark.parametrize(
    ("make", "shape_is_right", "colour_is_right"),
    [
        (colored_digits, 0.75, [0.9, 0.8, 0.1]),
        (inverse_colored_digits, 0.9, [0.8, 0.75, 0.1]),
    ],
)
def test_shape_and_colour_are_right_as_often_as_the_papers_say(
    make, shape_is_right: float, colour_is_right: list[float]
) -> None:
    data = make(IMAGES, DIGITS, seed=1)
    originals = np.rint(data.inputs.sum((1, 2, 3)) * 15_000).astype(int) - 1
    shape = (DIGITS[originals] < 5).astype(int)
    colour = data.inputs.sum((2, 3)).argmax(1)
    assert agreement(data, shape) == pytest.approx([shape_is_right] * 3, abs=0.02)
    assert agreement(data, colour) == pytest.approx(colour_is_right, abs=0.02)
    given_shape = [(colour == data.labels)[shape == s].mean() for s in (0, 1)]
    assert given_shape[0] == pytest.approx(given_shape[1], abs=0.02), "independent of the shape"
    assert sorted(originals) == list(range(30_000)), "each image in one domain"
    assert np.ptp(np.bincount(data.domains)) <= 1
    assert (data.inputs.min(axis=1) == 0).all(), "one channel each"


def test_a_seed_repeats_and_probabilities_are_kept() -> None:
    one, same, other = (colored_digits(IMAGES, DIGITS, seed=s) for s in (0, 0, 1))
    assert np.array_equal(one.inputs, same.inputs)
    assert not np.array_equal(one.labels, other.labels)
    sure = colored_digits(IMAGES, DIGITS, label_noise=0, color_flips=(0, 1))
    assert agreement(sure, sure.inputs.sum((2, 3)).argmax(1)) == [1, 0]


def test_what_cannot_be_coloured_is_refused() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        colored_digits(IMAGES, DIGITS, label_noise=1.5)
    with pytest.raises(ValueError, match="0 to 9"):
        colored_digits(IMAGES, DIGITS + 1)
    with pytest.raises(ValueError, match="height, width"):
        colored_digits(IMAGES[:, None], DIGITS)
    with pytest.raises(ValueError, match="share a name"):
        colored_digits(IMAGES, DIGITS, color_flips=(0.1, 0.1))


def test_images_turn_by_their_domains_angle() -> None:
    pictures = RNG.random((12, 3, 9, 9))
    pictures[:, 0, 0, 0] = np.arange(12)  # survives at 0 and 90 degrees as a corner
    labels = np.arange(12) % 4
    data = rotated_digits(pictures, labels, angles=(0, 90, -30), seed=3)
    assert data.domain_names == ("0°", "90°", "-30°")
    assert np.bincount(data.domains).tolist() == [4, 4, 4]
    assert np.array_equal(data.labels, labels)
    for row in data.rows("0°"):
        assert np.array_equal(data.inputs[row], pictures[row].astype(np.float32))
    for row in data.rows("90°"):
        assert np.allclose(data.inputs[row], np.rot90(pictures[row], axes=(1, 2)), atol=1e-6)
    for row in data.rows("-30°"):
        for plane, turned in zip(pictures[row], data.inputs[row], strict=True):
            assert np.allclose(turned, rotate(plane, -30, reshape=False, order=1), atol=1e-5)
    assert rotated_digits(pictures[:, 0], labels).inputs.shape == (12, 1, 9, 9)
    with pytest.raises(ValueError, match="n labels"):
        rotated_digits(pictures, labels[:5])
