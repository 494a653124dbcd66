"""Images with a text each, unlabelled, from a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from generality.benchmarks.image_folders import load_images
from generality.benchmarks.table import read_rows
from generality.errors import unknown


def captioned_images(
    path: str | Path, *, size: int = 224, most: int | None = None
) -> tuple[Float[np.ndarray, "n 3 size size"], list[str]]:
    """The images and the texts of a table with the columns `image` (a path beside it) and `text`.

    Raises UserError for a table without them, or an image that cannot be read.

    Args:
        size: pixels of a side.
        most: only the first so many rows.

    >>> pixels, texts = captioned_images("captions.csv", most=100)  # doctest: +SKIP
    """
    pairs = read_rows(str(path))
    for column in ("image", "text"):
        if column not in pairs.column_names:
            raise unknown("column", column, pairs.column_names)
    folder = Path(path).expanduser().parent
    texts = [str(text) for text in pairs["text"][:most]]
    return load_images([folder / name for name in pairs["image"][: len(texts)]], size), texts
