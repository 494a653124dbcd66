"""Banks of augmentations: what stays the same, what is apart, what the operations do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks import AugmentationBank, image_bank, table_bank, text_bank
from generality.benchmarks.image_bank import (
    _OPERATIONS,
    _laplace,
    _painted,
    _rotate,
    _scale,
    _translate,
    _warped,
)
from generality.compare.crafted_shifts import CraftedImage, craft_columns, craft_texts
from generality.errors import UserError

F1 = ("arithmetic", "artistic", "blur", "color", "contrast")
F2 = ("convolutional", "edges", "geometric", "segmentation", "weather")


def pictures(n: int = 4, channels: int = 3, side: int = 28) -> np.ndarray:
    y, x = np.mgrid[:side, :side] / side
    ramps = np.stack([x, y, (x + y) / 2])[:channels]
    disc = ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.06)[None]
    shades = np.linspace(0.4, 0.9, n)[:, None, None, None]
    return np.where(disc, 1.0, shades * ramps).astype(np.float32)


def test_the_papers_two_folds() -> None:
    assert [fold.names for fold in image_bank().folds(2)] == [F1, F2]
    assert [len(fold.names) for fold in image_bank().folds(3)] == [3, 3, 4]
    with pytest.raises(ValueError, match="cannot make 11 folds"):
        image_bank().folds(11)


@pytest.mark.parametrize("name", F1 + F2)
def test_every_category_changes_images_and_keeps_their_shape(name: str) -> None:
    for channels, side in ((1, 16), (3, 28), (3, 48)):
        images = pictures(6, channels, side)
        before = images.copy()
        crafted = image_bank().craft(images, name)
        assert crafted.shape == images.shape
        assert crafted.dtype == np.float32
        assert np.isfinite(crafted).all()
        assert 0 <= crafted.min() <= crafted.max() <= 1
        np.testing.assert_array_equal(images, before)
        assert np.abs(crafted - images).mean() > 0.005


def test_every_operation_works_on_grey_images_that_are_not_square() -> None:
    image = pictures(1, 1)[0][:, :20]
    for name, operations in _OPERATIONS.items():
        for operation in operations:
            changed = operation(image, np.random.default_rng(0))
            assert np.isfinite(changed).all(), (name, operation)


def test_a_copy_depends_on_id_category_and_seed_only() -> None:
    images, bank = pictures(5), image_bank()
    whole = bank.craft_all(images)
    np.testing.assert_array_equal(bank.only(["weather"]).craft(images, "weather"), whole["weather"])
    back = bank.craft(images[::-1], "geometric", ids=range(4, -1, -1))
    np.testing.assert_array_equal(back[::-1], whole["geometric"])
    assert not np.array_equal(image_bank(1).craft(images, "geometric"), whole["geometric"])


def test_one_operation_of_the_category_for_each_input() -> None:
    bank = AugmentationBank({"all": [lambda x, rng: x + 1, lambda x, rng: x * 0 - 1]}, seed=0)
    changed = bank.craft(np.zeros((400, 1)), "all")[:, 0]
    assert set(changed) == {1, -1}
    assert 150 < (changed == 1).sum() < 250


def test_linear_maps_and_painting_by_hand() -> None:
    image = pictures(1)[0]
    np.testing.assert_allclose(_warped(image, np.eye(2)), image, atol=1e-6)
    half_turn = _warped(image, -np.eye(2))
    np.testing.assert_allclose(half_turn, image[:, ::-1, ::-1], atol=1e-5)
    centre = image[:, 13:15, 13:15].mean()
    turned = _rotate(image, np.random.default_rng(0))
    assert abs(turned[:, 13:15, 13:15].mean() - centre) < 1e-5
    painted = _painted(np.array([[[0.0, 1.0], [0.5, 0.7]]]), np.array([[0, 0], [1, 2]]))
    np.testing.assert_allclose(painted, [[[0.5, 0.5], [0.5, 0.7]]])


def test_strengths_are_the_released_ones() -> None:
    spot = np.zeros((1, 41, 41), np.float32)
    spot[0, 20, 20] = 1
    moves, sides = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        moved = _translate(spot, rng)[0]
        moves.append((np.argwhere(moved == moved.max())[0] - 20) / 41)
        square = np.pad(np.ones((1, 20, 20), np.float32), ((0, 0), (20, 20), (20, 20)))
        scaled = _scale(square, rng)[0] > 0.5
        sides.append((scaled.any(1).sum() / 20, scaled.any(0).sum() / 20))
    assert 0.35 < np.abs(moves).max() <= 0.4 + 0.5 / 41
    assert np.abs(np.mean(moves)) < 0.1
    shrunk, grown = np.array(sides) < 0.8, np.array(sides) > 1.2
    assert (shrunk | grown).all()
    assert (shrunk[:, 0] & grown[:, 1]).any(), "each side has a factor of its own"
    np.testing.assert_allclose(_laplace(spot, rng)[0, 19:22, 19:22].diagonal(), [0, 4, 0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=4))
def test_any_text_can_be_changed(texts: list[str]) -> None:
    crafted = text_bank(synonyms={"a": ["one", "some"]}).craft_all(texts)
    assert set(crafted) == {"typos", "dropped words", "first half", "case", "synonyms"}
    assert all(len(changed) == len(texts) for changed in crafted.values())


def test_columns_move_alike_in_all_rows_and_lost_ones_are_means() -> None:
    table = np.random.default_rng(1).normal(3, 2, size=(300, 5))
    crafted = table_bank(table).craft_all(table)
    moved = crafted["moved columns"] - table
    np.testing.assert_allclose(moved, np.tile(moved[:1], (300, 1)))
    lost = crafted["lost columns"] != table
    assert 0.15 < lost.mean() < 0.25
    np.testing.assert_allclose(
        crafted["lost columns"][lost], np.tile(table.mean(0), 300)[lost.ravel()]
    )
    assert 0.4 < (crafted["noise"] - table).std() / 2 < 0.6


def test_the_tournament_takes_its_shifts_from_the_banks() -> None:
    images = pictures(3)
    changed = [CraftedImage(None, "blur", row).change(image) for row, image in enumerate(images)]
    np.testing.assert_array_equal(np.stack(changed), image_bank().craft(images, "blur"))
    assert list(craft_texts(["a b"])) == ["typos", "dropped words", "first half"]
    assert craft_columns(np.eye(3)).keys() == table_bank(np.eye(3)).craft_all(np.eye(3)).keys()


def test_mistakes() -> None:
    with pytest.raises(UserError, match="no category of augmentations 'wether'.*'weather'"):
        image_bank().craft(pictures(1), "wether")
    with pytest.raises(ValueError, match="divide these uint8 by 255"):
        image_bank().craft(np.zeros((1, 3, 20, 20), np.uint8), "blur")
    with pytest.raises(ValueError, match="at least one operation"):
        AugmentationBank({"nothing": []})
    with pytest.raises(ValueError, match="argument 2"):
        text_bank().craft(["a", "b"], "typos", ids=[0])
