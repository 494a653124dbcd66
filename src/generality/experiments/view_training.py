"""Networks trained on images, their crafted copies and their edge maps, in every combination."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from generality.benchmarks import image_bank
from generality.lab import Lab, TrainConfig
from generality.models.named_networks import image_network
from generality.modules import DualViewClassifier, EdgeView, dual_view_loss, view_outputs


def craft_views(
    pool: Float[np.ndarray, "n 3 height width"], tests: Float[np.ndarray, "m 3 height width"]
) -> dict[str, np.ndarray]:
    """Every image and its copy in each category of `image_bank`, and the edge maps of all.

    Returns:
        `copies` (n, 11, 3, h, w) half precision, the original first; `edges_drawn` and `edges`
        (n, 11, h, w) bytes, with random thresholds for training and fixed ones; `test_edges`
        (m, h, w).
    """
    copies = np.stack([pool, *image_bank().craft_all(pool).values()], 1)
    flat = torch.from_numpy(copies.reshape(-1, *pool.shape[1:]))
    view = EdgeView()
    drawn = view.train()(flat, np.random.default_rng(0))[:, 0]
    fixed, of_tests = view.eval()(flat)[:, 0], view(torch.from_numpy(tests.astype(np.float32)))
    sides = (*copies.shape[:2], *copies.shape[3:])
    return {
        "copies": copies.astype(np.float16),
        "edges_drawn": drawn.numpy().astype(np.uint8).reshape(sides),
        "edges": fixed.numpy().astype(np.uint8).reshape(sides),
        "test_edges": of_tests[:, 0].numpy().astype(np.uint8),
    }


def one_copy(
    batch: Shaped[Tensor, "batch copies ..."], generator: torch.Generator
) -> Shaped[Tensor, "batch ..."]:
    """Of each image's copies one at random, the original as likely as others: for `lab.fit`.

    >>> one_copy(torch.arange(6).view(2, 3), torch.Generator()).shape
    torch.Size([2])
    """
    drawn = torch.randint(batch.shape[1], (len(batch),), generator=generator)
    return batch[torch.arange(len(batch)), drawn]


def view_network(seed: int, *, backbone: str, width: int, classes: int, dual: bool) -> nn.Module:
    """An `image_network` of one view, or one that also reads an edge map."""
    plain = image_network(seed, backbone=backbone, width=width, classes=classes)
    return DualViewClassifier(plain) if dual else plain


@dataclass(frozen=True, eq=False)
class ViewTraining:
    """Training on images of one domain, and predictions for held-out copies and for test images.

    Attributes:
        lab: keeps every training.
        made: as `craft_views` returns it.
        tests: test images (m, 3, h, w).
        labels: of the n images.
        classes: how many.
        trained: rows trained on.
        held: rows held out.
        config: of the training.
        backbone: as in `image_network`, as `width`.
        lam: weight of the edge map's loss.
    """

    lab: Lab
    made: dict[str, np.ndarray]
    tests: np.ndarray
    labels: Int[np.ndarray, " n"]
    classes: int
    trained: Int[np.ndarray, " trained"]
    held: Int[np.ndarray, " held"]
    config: TrainConfig
    backbone: str = "tiny"
    width: int = 8
    lam: float = 1.0
    seed: int = 0

    def predict(self, categories: Sequence[str], *, dual: bool) -> dict[str, np.ndarray]:
        """Probabilities of a network trained on the originals and copies of these categories.

        Named "output/plain" (held-out originals), "output/<category>" (their copies) and
        "output/test"; `dual` networks have the outputs of `view_outputs`, others "image".
        """
        made, held = self.made, self.held
        places = {name: 1 + k for k, name in enumerate(image_bank().names)}  # among the copies
        copies = [0, *(places[name] for name in categories)]
        validation = _views(made["copies"][held], made["edges"][held], dual)
        own = made["copies"][self.trained], made["edges_drawn"][self.trained]
        fitted = self.lab.fit(
            functools.partial(
                view_network, backbone=self.backbone, width=self.width, classes=self.classes,
                dual=dual,
            ),
            _views(*own, dual)[:, copies],
            np.eye(self.classes, dtype=np.float32)[self.labels[self.trained]],
            config=self.config, seed=self.seed, augment=one_copy,
            predict={
                "held": validation.reshape(-1, *validation.shape[2:]),
                "test": _views(self.tests, made["test_edges"], dual),
            },
            **({"objective": functools.partial(dual_view_loss, lam=self.lam)} if dual else {}),
        ).probabilities  # fmt: skip
        of_held = fitted["held"].reshape(len(held), -1, *fitted["held"].shape[1:])
        named: dict[str, Any] = {
            name: of_held[:, place] for name, place in {"plain": 0, **places}.items()
        }
        named["test"] = fitted["test"]
        return {
            f"{output}/{name}": said
            for name, both in named.items()
            for output, said in (view_outputs(both) if dual else {"image": both}).items()
        }


def _views(images: np.ndarray, edges: np.ndarray, dual: bool) -> np.ndarray:
    """Images (…, 3, h, w), or beside their edge maps: (…, 2, 3, h, w); half precision."""
    if not dual:
        return images.astype(np.float16)
    lines = np.broadcast_to(edges[..., None, :, :], images.shape)
    return np.stack([images, lines], axis=-4).astype(np.float16)
