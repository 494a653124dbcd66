"""Batches with equally many rows of every domain, for the one training loop of the lab.

The loop knows examples and a loss over their logits. Here an example is a bundle, one text or image
of each domain, and its logits are those of all of them with their features beside them: the loop
stays as it is, and a loss over domains finds what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.models import TextClassifier
from generality.models.image_classifier import ImageClassifier
from generality.objectives.domain_algorithms import DomainAlgorithm


class Bundled(nn.Module):
    """Logits and features of one text or image of each domain, side by side in one row.

    The training loop sees a row for each bundle, so that its batches hold equally many rows of
    every domain, and a loss over domains finds them all.
    """

    def __init__(self, classifier: TextClassifier | ImageClassifier, domains: int) -> None:
        super().__init__()
        self.classifier, self.domains = classifier, domains

    def forward(self, **inputs: Tensor) -> Float[Tensor, "bundles numbers"]:
        """Inputs come bundle by bundle; (classes + features) numbers for each of a bundle."""
        features = self.classifier.features(**inputs)
        both = torch.cat([self.classifier.head(features), features], -1)
        return both.reshape(len(both) // self.domains, -1)


@dataclass(frozen=True)
class BundledLoss:
    """A domain algorithm without memory, as a loss over the rows of `Bundled`."""

    algorithm: DomainAlgorithm
    hyper: Mapping[str, float]
    domains: int
    classes: int

    def __call__(
        self, both: Float[Tensor, "bundles numbers"], targets: Tensor, progress: float
    ) -> Float[Tensor, ""]:
        """The loss of one batch."""
        each = both.unflatten(1, (self.domains, -1)).movedim(1, 0)
        logits, features = each[..., : self.classes], each[..., self.classes :]
        wanted = targets.unflatten(1, (self.domains, -1)).movedim(1, 0)
        hyper = {name: both.new_tensor(value) for name, value in self.hyper.items()}
        at = both.new_tensor(progress)
        return self.algorithm.loss(logits, wanted, features, {}, hyper, at)[0]


def make_bundles(
    inputs: Sequence[Sequence[Any]],
    labels: Sequence[np.ndarray],
    classes: int,
    count: int,
    seed: int,
) -> list[dict[str, Any]]:
    """`count` bundles of one input of each domain; a domain that is through goes round anew."""
    rng = np.random.default_rng(seed)
    streams = [
        np.concatenate([rng.permutation(len(own)) for _ in range(-(-count // len(own)))])[:count]
        for own in inputs
    ]
    truth = [np.eye(classes, dtype=np.float32)[own] for own in labels]
    return [
        {
            "inputs": [own[row] for own, row in zip(inputs, rows, strict=True)],
            "targets": np.concatenate([own[row] for own, row in zip(truth, rows, strict=True)]),
        }
        for rows in zip(*streams, strict=True)
    ]
