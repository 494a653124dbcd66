"""Images damaged in a named way, at a strength from 1 to 5."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from generality.errors import import_extra, unknown

Images = Float[np.ndarray, "n channels height width"]


def corrupt_inputs(images: Images, kind: str, strength: int = 3, seed: int = 0) -> Images:
    """Copies of images with one kind of damage, graded as in ImageNet-C where that has the kind.

    - "noise": Gaussian, of standard deviation .08, .12, .18, .26, .38 (strength 1 to 5).
    - "shot_noise": Poisson counts of 60, 25, 12, 5, 3 photons for a white pixel.
    - "salt_and_pepper": .03, .06, .09, .17, .27 of the pixels black or white.
    - "blur": Gaussian, of 1, 2, 3, 4, 6 pixels on an image of 56, in proportion on others. (That
      is four times ImageNet-C's, which cannot be seen on images of 28 pixels.)
    - "contrast": distance to the image's mean times .4, .3, .2, .1, .05.
    - "brightness": .1, .2, .3, .4, .5 added.
    - "pixelate": sides shrunk to .6, .5, .4, .3, .25 by averaging, blown up again.
    - "jpeg": quality 25, 18, 15, 10, 7 (needs Pillow, from the extra "vision").
    - "occlusion": a square at random that covers .1, .2, .3, .4, .5 of the image, in its mean
      colour. ImageNet-C has none.

    Args:
        images: in [0, 1].
        kind: a key of `CORRUPTIONS`.
        strength: 1 to 5.
        seed: of what is random; the same images, kind, strength and seed give the same result.

    Returns:
        float32 in [0, 1], of the same shape; the given ones are left alone.

    Raises:
        UserError: an unknown kind, or Pillow is missing for "jpeg".
        ValueError: a strength that is not 1 to 5, or another shape.

    Source: Hendrycks and Dietterich 2019 (arXiv 1903.12261), its released `make_imagenet_c.py`.

    >>> images = np.full((1, 3, 8, 8), 0.5, dtype=np.float32)
    >>> corrupt_inputs(images, "brightness", 5)[0, 0, 0, 0]
    np.float32(1.0)
    """
    if kind not in CORRUPTIONS:
        raise unknown("kind of corruption", kind, CORRUPTIONS)
    if strength not in (1, 2, 3, 4, 5):
        raise ValueError(f"strength is 1, 2, 3, 4 or 5, not {strength}")
    if images.ndim != 4:
        raise ValueError(f"images have the shape (n, channels, height, width), not {images.shape}")
    corrupt, amounts = CORRUPTIONS[kind]
    given = images.astype(np.float32)
    damaged = corrupt(given, amounts[strength - 1], np.random.default_rng(seed))
    return np.clip(damaged, 0, 1).astype(np.float32)


def _noise(images: Images, deviation: float, rng: np.random.Generator) -> Images:
    return images + deviation * rng.standard_normal(images.shape, dtype=np.float32)


def _shot_noise(images: Images, photons: float, rng: np.random.Generator) -> Images:
    return rng.poisson(np.clip(images, 0, 1) * photons) / photons


def _salt_and_pepper(images: Images, share: float, rng: np.random.Generator) -> Images:
    draw = rng.random((len(images), 1, *images.shape[2:]))
    return np.where(draw < share / 2, 0, np.where(draw < share, 1, images))


def _blur(images: Images, deviation: float, rng: np.random.Generator) -> Images:
    from scipy.ndimage import gaussian_filter1d  # slow to import

    for axis in (2, 3):
        images = gaussian_filter1d(images, deviation * images.shape[axis] / 56, axis=axis)
    return images


def _contrast(images: Images, factor: float, rng: np.random.Generator) -> Images:
    mean = images.mean(axis=(2, 3), keepdims=True)
    return mean + factor * (images - mean)


def _brightness(images: Images, added: float, rng: np.random.Generator) -> Images:
    return images + added


def _pixelate(images: Images, factor: float, rng: np.random.Generator) -> Images:
    import torch  # slow to import
    from torch.nn.functional import interpolate

    height, width = images.shape[2:]
    small = (max(1, int(height * factor)), max(1, int(width * factor)))
    shrunk = interpolate(torch.from_numpy(images), size=small, mode="area")
    return interpolate(shrunk, size=(height, width), mode="nearest-exact").numpy()


def _jpeg(images: Images, quality: float, rng: np.random.Generator) -> Images:
    picture = import_extra("PIL.Image", "vision")
    pixels = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    if images.shape[1] == 3:
        planes = pixels.transpose(0, 2, 3, 1)
        coded = np.stack([_recoded(picture, plane, int(quality)) for plane in planes])
        return coded.transpose(0, 3, 1, 2) / np.float32(255)
    planes = pixels.reshape(-1, *images.shape[2:])
    coded = np.stack([_recoded(picture, plane, int(quality)) for plane in planes])
    return coded.reshape(images.shape) / np.float32(255)


def _recoded(picture: Any, pixels: np.ndarray, quality: int) -> np.ndarray:
    """An image (height, width[, 3]) of bytes, written as JPEG and read again."""
    file = io.BytesIO()
    picture.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(picture.open(file))


def _occlusion(images: Images, share: float, rng: np.random.Generator) -> Images:
    height, width = images.shape[2:]
    sides = [max(1, round(length * math.sqrt(share))) for length in (height, width)]
    covered = images.copy()
    tops = rng.integers(height - sides[0] + 1, size=len(images))
    lefts = rng.integers(width - sides[1] + 1, size=len(images))
    for image, top, left in zip(covered, tops, lefts, strict=True):
        mean = image.mean(axis=(1, 2), keepdims=True)
        image[:, top : top + sides[0], left : left + sides[1]] = mean
    return covered


Corrupt = Callable[[Images, float, np.random.Generator], Images]
CORRUPTIONS: dict[str, tuple[Corrupt, tuple[float, ...]]] = {
    "noise": (_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (_shot_noise, (60, 25, 12, 5, 3)),
    "salt_and_pepper": (_salt_and_pepper, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "blur": (_blur, (1, 2, 3, 4, 6)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),
    "occlusion": (_occlusion, (0.1, 0.2, 0.3, 0.4, 0.5)),
}
"""What each kind does, and its amount at strength 1 to 5."""
