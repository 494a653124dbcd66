"""Some classes of an image set on the hub, as arrays."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, Int

from generality.errors import UserError


@functools.cache
def hub_classes(
    name: str, column: str, classes: tuple[int, ...], *, side: int = 32, split: str = "train"
) -> tuple[Float[np.ndarray, "n 3 side side"], Int[np.ndarray, " n"]]:
    """Images in [0, 1] of these classes, numbered by their place in `classes`; kept in memory.

    Smaller images are padded with black on all sides, as MNIST's 28 pixels to 32.

    Args:
        name: of the set on the hub, or a folder that `datasets.load_dataset` reads; it has a
            column "label".
        column: that holds the images.
        classes: labels wanted.
        side: of the images returned, in pixels.
        split: of the set.

    Raises:
        UserError: no image of one of the classes, or images larger than `side` or not square.

        cars_and_trucks = hub_classes("uoft-cs/cifar10", "img", (1, 9))
    """
    import datasets

    found = datasets.load_dataset(name, split=split)
    label = np.asarray(found["label"])
    rows = np.flatnonzero(np.isin(label, classes))
    if lacking := [k for k in classes if k not in label]:
        raise UserError(f"'{name}' has no images of the classes {lacking}.")
    images = [np.asarray(found[int(i)][column].convert("RGB"), np.float32) / 255 for i in rows]
    padded = [_padded(image, side, name) for image in images]
    return np.stack(padded).transpose(0, 3, 1, 2), np.array([classes.index(k) for k in label[rows]])


def _padded(image: np.ndarray, side: int, name: str) -> np.ndarray:
    height, width = image.shape[:2]
    if height != width or height > side:
        raise UserError(f"'{name}' has images of {width}×{height}, not squares of at most {side}.")
    before = (side - height) // 2
    around = (before, side - height - before)
    return np.pad(image, (around, around, (0, 0)))
