"""Images of several domains in folders, decoded into memory."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np

from generality.benchmarks.digits import STYLES, digit_domains
from generality.benchmarks.image_folders import load_images, read_images
from generality.benchmarks.multi_domain import MultiDomain


def image_domains(path: str | Path, *, layout: str | None = None, size: int = 224) -> MultiDomain:
    """A folder of images by domain and class as one `MultiDomain` of size × size pixels.

    Inputs are (n, 3, size, size) in [0, 1] in half precision: 0.3 MB an image of 224 pixels, 3 GB
    for PACS. Raises UserError as `read_images` does.

    Args:
        layout: of a public set ("PACS", "OfficeHome", …), see `read_images`; None: your own.
    """
    listed = listed_images(path, layout=layout)
    pixels = load_images(listed.inputs, size).astype(np.float16)
    return replace(listed, inputs=pixels)


def listed_images(path: str | Path, *, layout: str | None = None) -> MultiDomain:
    """As `image_domains`, but with the images' paths for inputs: nothing is decoded yet.

    >>> listed_images("PACS", layout="PACS").inputs[0]  # doctest: +SKIP
    'PACS/photo/dog/056_0001.jpg'
    """
    listed = read_images(path, layout=layout)
    names = tuple(dict.fromkeys(listed["domain"]))
    return MultiDomain(
        inputs=list(listed["path"]),
        labels=np.asarray(listed["label"]),
        domains=np.array([names.index(name) for name in listed["domain"]]),
        label_names=tuple(listed.features["label"].names),
        domain_names=names,
    )


@functools.lru_cache(maxsize=1)
def folder_or_digits(
    path: str | None,
    *,
    layout: str | None = None,
    size: int = 28,
    styles: tuple[str, ...] = STYLES,
    per_domain: int | None = None,
) -> MultiDomain:
    """The images of a folder, or without one digits in several styles; the last is kept in memory.

    For studies that run on generated digits here and on the user's folder (PACS, OfficeHome, …).
    `layout` is of the folder, `styles` and `per_domain` (images of each) are of the digits.
    """
    if path is not None:
        return image_domains(path, layout=layout, size=size)
    return digit_domains(styles, size=size, per_domain=per_domain)
