"""Waterbirds with birds and backgrounds completely correlated in training."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Int, UInt8

from generality.benchmarks.image_folders import load_images
from generality.errors import UserError

_SPLITS = {"training": 0, "unlabelled": 1, "test": 2}  # the second is the validation set


def waterbirds_cc(
    folder: str | Path,
    split: Literal["training", "unlabelled", "test"],
    *,
    ratio: float | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Images of one split of a WILDS Waterbirds folder, with the bird and the place of each.

    Training keeps only birds on their own background, so both cues explain every label. The
    unlabelled data is the validation set, as in the authors' code: never select a model on it.

    Args:
        folder: of `metadata.csv` (columns img_filename, y, split, place) and the images.
        split: "training", "unlabelled" or "test".
        ratio: for "unlabelled", the share of birds on their own background, in [0, 1]: rows of the
            larger side are dropped at random; 0 drops all on their own background. None: as it is.
        seed: of what is dropped.

    Returns:
        Columns path (Path), label (0 land-, 1 waterbird), spurious (0 land, 1 water).

    Raises:
        UserError: the folder does not look like Waterbirds.

    Source: Benoit et al. 2023 (arXiv 2312.16313), appendix; data of Sagawa et al. 2019.
    """
    table = Path(folder) / "metadata.csv"
    if not table.is_file():
        raise UserError(f"There is no {table}: name the folder of WILDS' waterbirds_v1.0.")
    rows = pd.read_csv(table)
    lacking = {"img_filename", "y", "split", "place"} - set(rows.columns)
    if lacking:
        raise UserError(f"{table} lacks the column {', '.join(sorted(lacking))}.")
    rows = rows[rows["split"] == _SPLITS[split]]
    own = (rows["y"] == rows["place"]).to_numpy()
    if split == "training":
        rows = rows[own]
    elif split == "unlabelled" and ratio is not None:
        if not 0 <= ratio <= 1:
            raise ValueError(f"a ratio in [0, 1], not {ratio}")
        rng = np.random.default_rng(seed)
        here, there = rng.permutation(np.flatnonzero(own)), rng.permutation(np.flatnonzero(~own))
        total = min(
            len(here) / ratio if ratio else np.inf,
            len(there) / (1 - ratio) if ratio < 1 else np.inf,
        )
        kept = [here[: round(ratio * total)], there[: round((1 - ratio) * total)]]
        rows = rows.iloc[np.sort(np.concatenate(kept))]
    return pd.DataFrame(
        {
            "path": [Path(folder) / name for name in rows["img_filename"]],
            "label": rows["y"].to_numpy(),
            "spurious": rows["place"].to_numpy(),
        }
    )


def waterbirds_parts(
    folder: str | Path, *, ratio: float, seed: int = 0, size: int = 224
) -> list[tuple[UInt8[np.ndarray, "n 3 size size"], Int[np.ndarray, " n"]]]:
    """(inputs, labels) to train on, without labels, to test on, and with cues apart.

    As `SpuriousMixture.parts`; images in bytes. The cues are apart in half of the unlabelled data.

    >>> training, others, test, apart = waterbirds_parts("waterbirds_v1.0", ratio=0.0)
    Traceback (most recent call last):
    generality.errors.UserError: There is no waterbirds_v1.0/metadata.csv: name the folder of ...
    """
    tables = (
        waterbirds_cc(folder, "training"),
        waterbirds_cc(folder, "unlabelled", ratio=ratio, seed=seed),
        waterbirds_cc(folder, "test"),
        waterbirds_cc(folder, "unlabelled", ratio=0.5, seed=seed),
    )
    return [
        (load_images(each["path"], size, as_bytes=True), each["label"].to_numpy())
        for each in tables
    ]
