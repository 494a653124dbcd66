"""Networks by name for inputs of a given shape: perceptrons, small convolutions, pretrained."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from generality.models.conv_nets import TinyConvNet
from generality.models.featurized import Featurized, mlp
from generality.models.multi_head import MultiHead


def hidden_network(inputs: int, widths: Sequence[int], outputs: int) -> Featurized:
    """A perceptron whose last hidden layer are the features, and a linear head on them.

    Without widths the inputs are the features.

    >>> hidden_network(8, (16, 4), 6).head
    Linear(in_features=4, out_features=6, bias=True)
    """
    body = nn.Sequential(mlp(inputs, *widths), nn.ReLU()) if widths else nn.Identity()
    return Featurized(body, nn.Linear((inputs, *widths)[-1], outputs))


def image_body(name: str, *, width: int = 16, side: int | None = None) -> tuple[nn.Module, int]:
    """What turns RGB images into features, and how many these are.

    Args:
        name: "tiny", a `TinyConvNet` from scratch; else a pretrained network as `VisionBackbone`
            takes it: "hf:microsoft/resnet-50", "scratch:hf:…", a folder.
        width: channels after the first block of "tiny".
        side: of "tiny", see there; None: the mean over places.

    >>> image_body("tiny", width=8)[1]
    32
    """
    if name == "tiny":
        tiny = TinyConvNet(3, width=width, side=side)
        return tiny, tiny.features
    from generality.models.vision_backbone import VisionBackbone  # transformers is slow to import

    body = VisionBackbone(name)
    return body, body.width


def image_network(seed: int, *, backbone: str, classes: int, width: int = 16) -> Featurized:
    """A linear head on `image_body`, as `lab.fit` wants a network: a function of the seed.

    >>> import torch
    >>> image_network(0, backbone="tiny", classes=10)(torch.zeros(2, 3, 28, 28)).shape
    torch.Size([2, 10])
    """
    body, features = image_body(backbone, width=width)
    return Featurized(body, nn.Linear(features, classes))


def named_network(
    seed: int,
    *,
    name: str,
    shape: Sequence[int],
    classes: int = 2,
    width: int | None = None,
    heads: int = 0,
) -> Featurized | MultiHead:
    """A classifier of inputs of this shape, as `lab.replicate` wants a network.

    Args:
        name: "linear"; "mlp", two hidden layers; "conv", a `TinyConvNet` of width 4 with group
            normalisation (no batch statistics, so replicas can share a pass); else as `image_body`.
        shape: of one input.
        width: of "mlp"; None: 40 for columns, 64 for images.
        heads: 0: logits (batch, classes); else so many heads, and logits (heads, batch, classes).

    >>> import torch
    >>> two = named_network(0, name="mlp", shape=(2,), heads=2)
    >>> two(torch.zeros(5, 2)).shape
    torch.Size([2, 5, 2])
    """
    body: nn.Module
    inputs = math.prod(shape)
    if name == "linear":
        body, features = nn.Flatten(), inputs
    elif name == "mlp":
        features = width or (40 if len(shape) == 1 else 64)
        body = nn.Sequential(mlp(inputs, features, features), nn.ReLU())
    elif name == "conv":
        body, features = TinyConvNet(shape[0], width=4, norm="group"), 16
    else:
        body, features = image_body(name)
    if heads:
        return MultiHead(body, [nn.Linear(features, classes) for _ in range(heads)])
    return Featurized(body, nn.Linear(features, classes))
