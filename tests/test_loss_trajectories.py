"""S2L: equal shares of clusters, and losses of a model looked at while it learns."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from generality.lab import Lab, TrainConfig
from generality.models import lora_network
from generality.selection import ProxyTraining, SmallToLarge
from generality.selection.loss_trajectories import equal_shares


def test_shares_as_the_algorithm_gives_them() -> None:
    # budget 12 of clusters of 1, 2, 10, 10: 12 // 4 = 3, 11 // 3 = 3, 9 // 2 = 4, 5
    assert equal_shares([1, 2, 10, 10], 12) == [1, 2, 4, 5]
    with pytest.raises(ValueError, match="ascending"):
        equal_shares([2, 1], 2)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20).map(sorted), st.integers(1, 600))
def test_shares_are_n_in_all_and_never_more_than_there_is(sizes: list[int], n: int) -> None:
    shares = equal_shares(sizes, n)
    assert sum(shares) == min(n, sum(sizes))
    assert all(share <= size for share, size in zip(shares, sizes, strict=True))
    cut = [share for share, size in zip(shares, sizes, strict=True) if share < size]
    assert max(cut, default=0) - min(cut, default=0) <= 1  # equal but for what is left over


def test_rare_kinds_are_kept_whole_and_common_ones_drawn() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat([[3, 3, 3], [3, 1, 0], [1, 1, 1]], [90, 6, 4], axis=0)
    rows = kinds + rng.normal(0, 0.01, kinds.shape)
    chosen = SmallToLarge(20, k=3).select(rows)
    assert set(range(90, 100)) <= set(chosen.tolist())
    assert len(chosen) == len(set(chosen.tolist())) == 20
    assert SmallToLarge(20, k=3).select(rows).tolist() == chosen.tolist()
    assert SmallToLarge(20, k=3, seed=1).select(rows).tolist() != chosen.tolist()
    assert SmallToLarge(500, k=3).select(rows).tolist() == list(range(100))
    assert len(SmallToLarge(5, k=50).select(np.ones((9, 2)))) == 5  # one kind of example
    with pytest.raises(ValueError, match="finite"):
        SmallToLarge(2).select(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="examples, checkpoints"):
        SmallToLarge(2).select(np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="at least 1"):
        SmallToLarge(0)


def test_losses_fall_on_what_is_learned_and_are_kept(tmp_path: Path) -> None:
    tiny_models.llama().save_pretrained(tmp_path / "model")
    lab = Lab(home=tmp_path / "home", device="cpu", progress=False)
    network = lora_network(str(tmp_path / "model"), rank=4)
    learned = ["a film is"] * 8, ["very good"] * 8
    proxy = ProxyTraining.of(
        lab, network, tiny_models.tokenizer(), *learned, looks=4,
        tuning=TrainConfig(epochs=20, batch_size=4, learning_rate=0.02),
    )  # fmt: skip
    asked = ["a film is", "the book was"], ["very good", "bad but short"]
    losses = proxy.losses(lab, *asked)
    assert losses.shape == (2, 4)
    assert losses[0, -1] < losses[0, 0]
    assert losses[0, -1] < losses[1, -1]
    computed = lab.environment()["steps"]["computed"]
    np.testing.assert_array_equal(proxy.losses(lab, *asked), losses)
    assert lab.environment()["steps"]["computed"] == computed
    few = ProxyTraining.of(lab, network, tiny_models.tokenizer(), ["a"], ["film"], looks=9)
    assert len(few.looks) == 3  # as many as there are steps
