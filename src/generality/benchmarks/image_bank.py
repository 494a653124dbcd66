"""The ten categories of strong image changes, for images of any size from 16 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from generality.benchmarks.augmentation_bank import AugmentationBank, Operation
from generality.benchmarks.corruptions import corrupt_inputs
from generality.errors import import_extra

Image = Float[np.ndarray, "channels height width"]
Rng = np.random.Generator


def image_bank(seed: int = 0) -> AugmentationBank:
    """Arithmetic, artistic, blur, color, contrast; convolutional, edges, geometric, segmentation,
    weather: in this order, so that `folds(2)` are the paper's two.

    Takes images (channels, height, width) in [0, 1] with 1 or 3 channels and gives others of the
    same shape; ValueError for images of bytes. Needs the extra "vision".

    Lengths are the paper's, which resizes every image to 227 pixels and back: here they shrink
    with the image instead, to a quarter at the smallest (a blur of 5 to 7 pixels becomes 1.25 to
    1.75 on an image of 28), since less would not be seen. The operations are written anew with
    numpy, SciPy and scikit-image, after imgaug, which is no longer kept; bilateral filter and mean
    shift are left out as too slow, and channels are changed together where imgaug has both ways.
    Strengths are the released ones, but for brightness: "multiply" may darken too and goes to 3
    times instead of 4, what is added to a channel stays below 0.6. Of its 21 arithmetic
    operations, which differ mostly in the size of their spots, 9 are here.

    Source: Efthymiadis et al. 2024 (arXiv 2409.19774), its released configuration.

    >>> images = np.random.default_rng(0).random((2, 3, 28, 28), dtype=np.float32)
    >>> crafted = image_bank().craft_all(images)
    >>> len(crafted), crafted["weather"].shape, crafted["blur"].std() < images.std()
    (10, (2, 3, 28, 28), np.True_)
    """
    return AugmentationBank(
        {name: [_Kept(each) for each in each_of] for name, each_of in _OPERATIONS.items()}, seed
    )


class _Kept:
    """The operation, its result within [0, 1] and in the image's own type."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation

    def __call__(self, image: Image, rng: Rng) -> Image:
        if not np.issubdtype(image.dtype, np.floating):
            raise ValueError(f"images are floats in [0, 1]; divide these {image.dtype} by 255")
        changed = np.clip(self.operation(image.astype(np.float32), rng), 0, 1)
        return np.broadcast_to(changed, image.shape).astype(image.dtype)


def _length(image: Image) -> float:
    """What a length of one pixel at 227 is here."""
    return max(min(image.shape[1:]) / 227, 0.25)


def _odd(image: Image, rng: Rng, low: int = 9, high: int = 15) -> int:
    """A kernel's side of 9 to 15 pixels at 227, odd and at least 3."""
    return max(3, 2 * round(rng.uniform(low, high) * _length(image) / 2) + 1)


def _grey(image: Image) -> Float[np.ndarray, "height width"]:
    if len(image) != 3:
        return image.mean(0)
    return np.tensordot(np.array([0.2125, 0.7154, 0.0721], np.float32), image, 1)


def _corrupted(kind: str, strength: int) -> Operation:
    def operation(image: Image, rng: Rng) -> Image:
        return corrupt_inputs(image[None], kind, strength, seed=int(rng.integers(2**31)))[0]

    return operation


# Arithmetic ---------------------------------------------------------------------------------------


def _add(image: Image, rng: Rng) -> Image:
    return image + rng.choice([-1, 1]) * rng.uniform(50, 200) / 255


def _multiply(image: Image, rng: Rng) -> Image:
    return image * rng.choice([rng.uniform(0.2, 0.5), rng.uniform(1.8, 3)])


def _noise(image: Image, rng: Rng) -> Image:
    return image + rng.uniform(50, 150) / 255 * rng.standard_normal(image.shape)


def _dropout(image: Image, rng: Rng) -> Image:
    return image * (rng.random(image.shape[1:]) >= rng.uniform(0.3, 0.5))


def _salt_and_pepper(image: Image, rng: Rng) -> Image:
    spots = rng.random(image.shape[1:])
    return np.where(spots < 0.25, 0, np.where(spots < 0.5, 1, image))


def _invert(image: Image, rng: Rng) -> Image:
    return 1 - image


def _solarise(image: Image, rng: Rng) -> Image:
    return np.where(image >= rng.uniform(0.25, 0.75), 1 - image, image)


# Artistic -----------------------------------------------------------------------------------------


def _cartoon(image: Image, rng: Rng) -> Image:
    """Flat colours and dark outlines."""
    from scipy import ndimage

    side = max(3, 2 * round(4 * _length(image)) + 1)
    flat = np.stack([ndimage.median_filter(channel, side) for channel in image])
    levels = int(rng.integers(3, 7))
    flat = np.rint(flat * (levels - 1)) / (levels - 1)
    slope = np.hypot(ndimage.sobel(grey := _grey(image), 0), ndimage.sobel(grey, 1))
    return np.where(slope > rng.uniform(0.6, 1.2) * max(slope.mean() + slope.std(), 1e-6), 0, flat)


# Blur ---------------------------------------------------------------------------------------------


def _gaussian_blur(image: Image, rng: Rng) -> Image:
    from scipy import ndimage

    sigma = rng.uniform(5, 7) * _length(image)
    return ndimage.gaussian_filter(image, (0, sigma, sigma))


def _mean_blur(image: Image, rng: Rng) -> Image:
    from scipy import ndimage

    side = _odd(image, rng)
    return ndimage.uniform_filter(image, (0, side, side))


def _median_blur(image: Image, rng: Rng) -> Image:
    from scipy import ndimage

    side = _odd(image, rng)
    return np.stack([ndimage.median_filter(channel, side) for channel in image])


def _motion_blur(image: Image, rng: Rng) -> Image:
    from scipy import ndimage

    side = _odd(image, rng, 15, 25)
    line = np.zeros((side, side), np.float32)
    line[side // 2] = 1
    turned = ndimage.rotate(line, rng.uniform(0, 180), reshape=False, order=1)
    return ndimage.convolve(image, (turned / turned.sum())[None], mode="nearest")


# Colour -------------------------------------------------------------------------------------------


def _in_hsv(image: Image, change: Any) -> Image:
    if len(image) != 3:
        return change(np.stack([0 * image[0], 0 * image[0], image[0]]))[2:]
    color = import_extra("skimage.color", "vision")
    hsv = color.rgb2hsv(np.clip(image, 0, 1), channel_axis=0)
    return color.hsv2rgb(np.clip(change(hsv), 0, 1), channel_axis=0)


def _hue(image: Image, rng: Rng) -> Image:
    moved = rng.uniform(0.15, 0.85)
    return _in_hsv(image, lambda hsv: np.stack([(hsv[0] + moved) % 1, hsv[1], hsv[2]]))


def _saturation(image: Image, rng: Rng) -> Image:
    moved = rng.choice([-1, 1]) * rng.uniform(0.3, 0.8)
    return _in_hsv(image, lambda hsv: np.stack([hsv[0], hsv[1] + moved, hsv[2]]))


def _brightness(image: Image, rng: Rng) -> Image:
    moved = rng.choice([-1, 1]) * rng.uniform(0.3, 0.6)
    return _in_hsv(image, lambda hsv: np.stack([hsv[0], hsv[1], hsv[2] + moved]))


def _to_grey(image: Image, rng: Rng) -> Image:
    return np.broadcast_to(_grey(image), image.shape)


def _quantise(image: Image, rng: Rng) -> Image:
    levels = 2 ** int(rng.integers(2, 5)) - 1
    return np.rint(image * levels) / levels


def _four_colours(image: Image, rng: Rng) -> Image:
    """Four colours: those of the pixels at quartiles of brightness."""
    flat, grey = image.reshape(len(image), -1), _grey(image).ravel()
    bins = np.searchsorted(np.quantile(grey, [0.25, 0.5, 0.75]), grey)
    chosen = [flat[:, bins == b].mean(1) if (bins == b).any() else flat[:, 0] for b in range(4)]
    return np.stack(chosen, 1)[:, bins].reshape(image.shape)


# Contrast -----------------------------------------------------------------------------------------


def _factor(rng: Rng) -> float:
    return float(rng.choice([rng.uniform(0.1, 0.3), rng.uniform(1.8, 2)]))


def _gamma(image: Image, rng: Rng) -> Image:
    return np.clip(image, 0, 1) ** _factor(rng)


def _log(image: Image, rng: Rng) -> Image:
    return _factor(rng) * np.log2(1 + np.clip(image, 0, 1))


def _linear(image: Image, rng: Rng) -> Image:
    return 0.5 + _factor(rng) * (image - 0.5)


def _clahe(image: Image, rng: Rng) -> Image:
    exposure = import_extra("skimage.exposure", "vision")
    side = max(4, round(min(image.shape[1:]) * rng.uniform(0.1, 0.3)))
    limit = rng.uniform(0.02, 0.1)
    channels = image[:1] if (image == image[:1]).all() else image  # grey ones need it once
    return np.stack(
        [exposure.equalize_adapthist(np.clip(c, 0, 1), side, clip_limit=limit) for c in channels]
    )


# Convolutional ------------------------------------------------------------------------------------

_SHARPEN = np.array([[-1, -1, -1], [-1, 9, -1], [-1, -1, -1]], np.float32)
_LAPLACE = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], np.float32)


def _filtered(image: Image, kernel: np.ndarray) -> Image:
    from scipy import ndimage

    return ndimage.correlate(image, kernel[None], mode="nearest")


def _laplace(image: Image, rng: Rng) -> Image:
    return _filtered(image, _LAPLACE)


def _sharpen(image: Image, rng: Rng) -> Image:
    share = rng.uniform(0.8, 1)
    return (1 - share) * image + share * _filtered(image, _SHARPEN)


def _emboss(image: Image, rng: Rng) -> Image:
    strong = rng.uniform(0.5, 1.5)
    kernel = np.array([[-1 - strong, -strong, 0], [-strong, 1, strong], [0, strong, 1 + strong]])
    return _filtered(image, kernel.astype(np.float32))


def _directed_edges(image: Image, rng: Rng) -> Image:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1:2, -1:2]
    kernel = np.cos(angle) * x + np.sin(angle) * y
    return _filtered(image, kernel.astype(np.float32))


# Edges --------------------------------------------------------------------------------------------


def _canny(image: Image, rng: Rng) -> Image:
    feature = import_extra("skimage.feature", "vision")
    found = feature.canny(_grey(image), sigma=max(2 * _length(image), 0.7))
    return np.broadcast_to(
        (found if rng.random() < 0.5 else ~found).astype(np.float32), image.shape
    )


# Geometric ----------------------------------------------------------------------------------------


def _warped(image: Image, matrix: np.ndarray, move: np.ndarray | float = 0.0) -> Image:
    """The image under a linear map of places (row, column) about its centre; the rim repeats."""
    from scipy import ndimage

    centre = (np.array(image.shape[1:]) - 1) / 2
    offset = centre - matrix @ centre + move
    return np.stack(
        [ndimage.affine_transform(c, matrix, offset, order=1, mode="nearest") for c in image]
    )


def _scale(image: Image, rng: Rng) -> Image:
    ranges = np.stack([rng.uniform(0.5, 0.75, size=2), rng.uniform(1.25, 1.75, size=2)])
    return _warped(image, np.diag(1 / ranges[rng.integers(2, size=2), [0, 1]]))


def _translate(image: Image, rng: Rng) -> Image:
    return _warped(image, np.eye(2), rng.uniform(-0.4, 0.4, size=2) * image.shape[1:])


def _rotate(image: Image, rng: Rng) -> Image:
    angle = np.deg2rad(rng.choice([-1, 1]) * rng.uniform(15, 45))
    cos, sin = np.cos(angle), np.sin(angle)
    return _warped(image, np.array([[cos, -sin], [sin, cos]]))


def _shear(image: Image, rng: Rng) -> Image:
    slope = np.tan(np.deg2rad(rng.choice([-1, 1]) * rng.uniform(15, 25)))
    return _warped(image, np.array([[1, 0], [slope, 1]]))


def _elastic(image: Image, rng: Rng) -> Image:
    from scipy import ndimage

    sides, sigma = image.shape[1:], max(6 * _length(image), 1)
    moves = ndimage.gaussian_filter(rng.uniform(-1, 1, (2, *sides)), (0, sigma, sigma))
    moves *= rng.uniform(5, 9) * _length(image) / max(float(np.abs(moves).max()), 1e-6)
    places = np.mgrid[: sides[0], : sides[1]] + moves
    return np.stack([ndimage.map_coordinates(c, places, order=1, mode="nearest") for c in image])


def _jigsaw(image: Image, rng: Rng) -> Image:
    """Cells of a grid of up to 10 × 10 (no cell under 5 pixels), a fifth of them changing places
    with a neighbour."""
    count = min(10, min(image.shape[1:]) // 5)
    if count < 2:
        return image
    height, width = (side // count for side in image.shape[1:])
    changed = image.copy()
    for _ in range(max(1, count * count // 5)):
        top, left = int(rng.integers(count)), int(rng.integers(count - 1))
        rows = slice(top * height, (top + 1) * height)
        first, second = (slice(x * width, (x + 1) * width) for x in (left, left + 1))
        kept = changed[:, rows, first].copy()
        changed[:, rows, first] = changed[:, rows, second]
        changed[:, rows, second] = kept
    return changed


# Segmentation -------------------------------------------------------------------------------------


def _painted(image: Image, segments: np.ndarray) -> Image:
    """Every segment in its mean colour."""
    flat = segments.ravel()
    count = np.maximum(np.bincount(flat), 1)
    means = [np.bincount(flat, weights=channel.ravel()) / count for channel in image]
    return np.stack([mean[flat] for mean in means]).reshape(image.shape)


def _pieces(image: Image, rng: Rng) -> int:
    area = image.shape[1] * image.shape[2]
    return int(np.clip(area / 8, 16, rng.integers(60, 150)))


def _superpixels(image: Image, rng: Rng) -> Image:
    slic = import_extra("skimage.segmentation", "vision").slic
    found = slic(
        np.clip(image, 0, 1), _pieces(image, rng), compactness=0.1, start_label=0, channel_axis=0,
        convert2lab=False, max_num_iter=3,
    )  # fmt: skip
    return _painted(image, found)


def _voronoi(image: Image, rng: Rng) -> Image:
    from scipy.spatial import cKDTree

    sides = image.shape[1:]
    seeds = rng.random((_pieces(image, rng), 2)) * sides
    places = np.indices(sides).reshape(2, -1).T
    return _painted(image, np.reshape(cKDTree(seeds).query(places)[1], sides))


# Weather ------------------------------------------------------------------------------------------


def _clouds_of(image: Image, rng: Rng, wide: float) -> Float[np.ndarray, "height width"]:
    """Smooth noise in [0, 1] whose patches are `wide` of the image."""
    from scipy import ndimage

    sides = image.shape[1:]
    rough = ndimage.gaussian_filter(rng.random(sides), wide * min(sides), mode="wrap")
    return (rough - rough.min()) / max(float(np.ptp(rough)), 1e-6)


def _fog(image: Image, rng: Rng) -> Image:
    thick = rng.uniform(0.5, 0.8) * (0.6 + 0.4 * _clouds_of(image, rng, 0.25))
    return (1 - thick) * image + thick * 0.85


def _clouds(image: Image, rng: Rng) -> Image:
    thick = np.clip(2 * _clouds_of(image, rng, 0.12) - rng.uniform(0.5, 0.9), 0, 0.9)
    return (1 - thick) * image + thick


def _drops(image: Image, rng: Rng, long: float, share: float) -> Image:
    """White drops that fall slantwise; `long` is a streak's length in sides of the image."""
    from scipy import ndimage

    drops = (rng.random(image.shape[1:]) < share).astype(np.float32)
    side = max(3, 2 * round(long * min(image.shape[1:]) / 2) + 1)
    line = np.zeros((side, side), np.float32)
    line[:, side // 2] = 1
    turned = ndimage.rotate(line, rng.uniform(-30, 30), reshape=False, order=1)
    return np.maximum(image, np.clip(ndimage.convolve(drops, turned, mode="wrap"), 0, 1))


def _rain(image: Image, rng: Rng) -> Image:
    return 0.8 * _drops(image, rng, rng.uniform(0.15, 0.3), 0.02)


def _snow(image: Image, rng: Rng) -> Image:
    return _drops(0.8 * image + 0.1, rng, 0.02, rng.uniform(0.02, 0.06))


_OPERATIONS: dict[str, tuple[Operation, ...]] = {
    "arithmetic": (
        _add, _multiply, _noise, _dropout, _salt_and_pepper, _invert, _solarise,
        _corrupted("jpeg", 5), _corrupted("occlusion", 2),
    ),
    "artistic": (_cartoon,),
    "blur": (_gaussian_blur, _mean_blur, _median_blur, _motion_blur),
    "color": (_hue, _saturation, _brightness, _to_grey, _quantise, _four_colours),
    "contrast": (_gamma, _log, _linear, _clahe),
    "convolutional": (_laplace, _sharpen, _emboss, _directed_edges),
    "edges": (_canny,),
    "geometric": (_scale, _translate, _rotate, _shear, _elastic, _jigsaw),
    "segmentation": (_superpixels, _voronoi),
    "weather": (_fog, _clouds, _rain, _snow),
}  # fmt: skip
