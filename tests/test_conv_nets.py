"""The small reference networks have the sizes their sources state."""

import pytest
import torch
from torch import nn

from generality.models import Featurized, MnistCNN, TinyConvNet, mlp


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_mnist_network_is_domainbeds():
    net = MnistCNN(1)
    convolutions = 9 * 64 + 64 + 9 * 64 * 128 + 128 + 2 * (9 * 128 * 128 + 128)
    assert count(net) == convolutions + 2 * (64 + 3 * 128)
    order = [type(layer) for layer in net.block1]
    assert order == [nn.Conv2d, nn.ReLU, nn.GroupNorm]
    assert net.block2(net.block1(torch.zeros(2, 1, 28, 28))).shape == (2, 128, 14, 14)


@pytest.mark.parametrize("norm", ["batch", "group", None])
def test_the_tiny_network_makes_four_widths_of_features(norm):
    net = TinyConvNet(3, width=8, norm=norm).eval()
    images = torch.rand(4, 3, 28, 28)
    assert net(images).shape == (4, net.features) == (4, 32)
    torch.testing.assert_close(net(images)[:1], net(images[:1]))


@pytest.mark.parametrize("size", [14, 28, 33])
def test_the_tiny_network_can_keep_its_places(size):
    torch.manual_seed(0)
    net, mean = TinyConvNet(3, width=4, side=size).eval(), TinyConvNet(3, width=4).eval()
    mean.load_state_dict(net.state_dict())
    images = torch.rand(2, 3, size, size)
    kept = net(images)
    assert kept.shape == (2, net.features)
    torch.testing.assert_close(kept.unflatten(1, (16, -1)).mean(-1), mean(images))
    assert not torch.allclose(net(images.flip(-1)), kept, atol=1e-3)


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm is"):
        TinyConvNet(3, norm="layer")


def test_the_parts_of_a_featurized_network_make_the_whole():
    model = Featurized(mlp(12, 6, 5), nn.Linear(5, 2))
    inputs = torch.rand(3, 3, 4)
    torch.testing.assert_close(model(inputs), model.head(model.featurizer(inputs)))
    assert count(mlp(12, 2)) == 26
    with pytest.raises(ValueError, match="width"):
        mlp(12)
