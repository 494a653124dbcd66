"""Printed digits in made-up domains: a typeface, colours, a background, wear and perspective."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from generality.benchmarks.digits import TYPEFACES, draw_digit, font_faces
from generality.errors import import_extra
from generality.selection.domain_proposer import DomainSpec

BACKGROUNDS = ("plain", "gradient", "stripes", "checks", "noise")
PLAIN = {
    "typeface": "DejaVu Sans", "widened": 1, "blur": 0.0, "perspective": 0.0, "slant": 0.26,
    "background": "plain", "ink": (1.0, 1.0, 1.0), "paper": (0.0, 0.0, 0.0),
}  # fmt: skip
"""The parameters of an undistorted digit, white on black: what a template would give."""


class DigitRenderer:
    """Draws one digit with a domain's parameters; what they leave open is drawn anew each time.

    Parameters (missing ones are `PLAIN`'s): `typeface`, a name of `TYPEFACES`; `widened`, the
    outline in quarters of a pixel; `blur`, pixels of a Gaussian at 28; `perspective`, how far
    corners move, as a share of the side; `slant`, the largest turn in radians; `background`, one
    of `BACKGROUNDS`; `ink` and `paper`, colours in [0, 1]. Face, height (13 to 20 pixels at 28),
    turn and place vary from image to image. Needs the extra "vision".

    Args:
        size: side of the images in pixels.

    >>> DigitRenderer(size=16)("7", {}, np.random.default_rng(0)).shape
    (3, 16, 16)
    """

    def __init__(self, size: int = 28) -> None:
        self.size = size

    @cached_property
    def _faces(self) -> dict[str, list[Path]]:
        return font_faces()

    def __call__(
        self, label: str, parameters: Mapping[str, Any], rng: np.random.Generator
    ) -> Float[np.ndarray, "3 size size"]:
        """An image of the digit."""
        from scipy import ndimage

        own = {**PLAIN, **parameters}
        faces = self._faces[own["typeface"]]
        ink = draw_digit(
            faces[int(rng.integers(len(faces)))], int(label), size=self.size,
            widened=int(own["widened"]), height=rng.uniform(13, 20),
            turn=rng.uniform(-1, 1) * own["slant"], off=tuple(rng.uniform(-2, 2, size=2)),
        )  # fmt: skip
        if own["perspective"]:
            ink = _tilted(ink, own["perspective"], rng)
        if own["blur"]:
            ink = ndimage.gaussian_filter(ink, own["blur"] * self.size / 28)
        colour, paper = (
            np.array(own[name], np.float32)[:, None, None] for name in ("ink", "paper")
        )
        ground = paper + 0.35 * _texture(own["background"], self.size, rng) * (colour - paper)
        return np.clip(ground + ink * (colour - ground), 0, 1).astype(np.float32)


def digit_specs(count: int, *, seed: int = 0) -> list[DomainSpec]:
    """Domains of printed digits, each one combination of parameters drawn at random.

    >>> [spec.name for spec in digit_specs(2)] == [spec.name for spec in digit_specs(3)[:2]]
    True
    """
    found = []
    for k in range(count):
        rng = np.random.default_rng((seed, k))
        light = rng.random() < 0.5
        ink, paper = rng.uniform(0.6, 1, 3), rng.uniform(0, 0.4, 3)
        parameters = {
            "typeface": str(rng.choice(list(TYPEFACES))),
            "widened": int(rng.integers(4)),
            "blur": float(rng.choice([0.0, 0.5, 1.0])),
            "perspective": float(rng.choice([0.0, 0.1, 0.2])),
            "slant": float(rng.choice([0.1, 0.26, 0.5])),
            "background": str(rng.choice(BACKGROUNDS)),
            "ink": tuple(map(float, ink if light else paper)),
            "paper": tuple(map(float, paper if light else ink)),
        }
        shades = "light on dark" if light else "dark on light"
        about = f"{parameters['typeface']}, {shades}, {parameters['background']}"
        found.append(DomainSpec(f"{k}: {about}", parameters=parameters))
    return found


def _tilted(
    ink: Float[np.ndarray, "size size"], share: float, rng: np.random.Generator
) -> Float[np.ndarray, "size size"]:
    """Seen from aside: corners moved by up to this share of the side."""
    picture = import_extra("PIL.Image", "vision")
    side = len(ink)
    corners = np.array([[0, 0], [0, side], [side, side], [side, 0]], float)
    corners += rng.uniform(-share, share, (4, 2)) * side
    image = picture.fromarray(np.rint(ink * 255).astype(np.uint8))
    quad, bilinear = 3, 2  # Pillow's Transform.QUAD and Resampling.BILINEAR
    tilted = image.transform((side, side), quad, corners.ravel().tolist(), resample=bilinear)
    return np.asarray(tilted, np.float32) / 255


def _texture(
    name: str, side: int, rng: np.random.Generator
) -> Float[np.ndarray, "size size"] | float:
    """A pattern in [0, 1], placed at random."""
    if name == "plain":
        return 0.0
    if name == "noise":
        return rng.random((side, side))
    y, x = np.mgrid[:side, :side] / side + rng.random(2)[:, None, None]
    if name == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.cos(angle) * x + np.sin(angle) * y
        return (ramp - ramp.min()) / np.ptp(ramp)
    if name == "stripes":
        return ((4 * (x + y)) % 1 < 0.5).astype(float)
    return (((4 * x) % 1 < 0.5) ^ ((4 * y) % 1 < 0.5)).astype(float)
