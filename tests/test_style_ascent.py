"""AdvStyle's second trainer beside the first, and its study's own pieces."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn

from generality.lab import TrainConfig
from generality.lab.fit import fit
from generality.models import TinyConvNet
from generality.modules import FeatureStatPerturb, insert_after
from generality.studies.shift import advstyle
from generality.training.style_ascent import fit_style_ascent

CONFIG = TrainConfig(
    epochs=2, batch_size=8, learning_rate=0.05, optimizer="sgd", momentum=0.9, dropout=True,
    weight_decay=0.01,
)  # fmt: skip


def data() -> dict:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(24, 3, 16, 16)).astype(np.float32)
    return {
        "inputs": images, "targets": rng.integers(0, 3, 24), "config": CONFIG, "seed": 1,
        "predict": {"all": images},
    }  # fmt: skip


def network(seed: int, weight: float = 5.0) -> nn.Module:
    body = TinyConvNet(3, width=4)
    style = functools.partial(FeatureStatPerturb, adv_weight=weight)
    insert_after(body, ["block1"], style, torch.zeros(1, 3, 16, 16))
    return advstyle.Styled(body, nn.Linear(16, 3))


def test_without_ascents_it_is_plain_training_with_fixed_styles() -> None:
    """The first step may leave a style without gradient, and so without momentum."""
    plain = fit(network=functools.partial(network, weight=0.0), **data())
    found = fit_style_ascent(network=network, ascents=0, **data())
    np.testing.assert_allclose(
        found["probabilities"]["all"], plain["probabilities"]["all"], atol=1e-5
    )
    with pytest.raises(ValueError, match="no learnt style"):
        fit_style_ascent(network=lambda seed: nn.Linear(2, 2), **data())


def test_the_styles_move_by_ascents_only() -> None:
    still = fit_style_ascent(network=network, ascents=0, **data())["weights"]
    moved = fit_style_ascent(network=network, ascents=3, **data())["weights"]
    name = "featurizer.inserted.block1."
    torch.testing.assert_close(still[f"{name}style_mean"], still[f"{name}start"][0])
    assert advstyle.growth(still) == pytest.approx(1)
    assert not torch.allclose(moved[f"{name}style_mean"], moved[f"{name}start"][0])


def test_methods_of_a_seed_start_alike_and_unlearnt_styles_stay() -> None:
    config = advstyle.SCALES["smoke"]
    nets = {}
    for method in config.methods:
        torch.manual_seed(3)
        nets[method] = advstyle.network_of(config, method, 10)(3)
    first = nets["erm"].state_dict()
    for net in nets.values():
        for name, tensor in first.items():
            assert torch.equal(net.state_dict()[name], tensor)
    small = dataclasses.replace(config, size=16)  # as the images below
    make = advstyle.network_of(small, "advstyle-unlearnt", 10)
    asked = {**data(), "network": make, "keep_weights": True}
    asked["predict"] = {}
    assert advstyle.growth(fit(**asked)["weights"]) == pytest.approx(1)


def test_jitter_stays_in_range_and_differs_by_image_and_channel() -> None:
    generator = torch.Generator().manual_seed(0)
    found = advstyle.colour_jitter(torch.full((5, 3, 4, 4), 0.5), generator)
    assert found.shape == (5, 3, 4, 4)
    assert found.min() >= 0
    assert found.max() <= 1
    assert len(found[:, :, 0, 0].unique()) == 15
    assert found.std((2, 3)).max() == 0
