"""Training data of two goals in one set."""

from __future__ import annotations

import numpy as np
from datasets import Dataset, concatenate_datasets


def mix_objectives(
    first: Dataset, second: Dataset, *, ratio: float = 1.0, seed: int = 0
) -> Dataset:
    """All rows of one set with `ratio` times as many of another, shuffled: an implicit conflict.

    A column `objective` says which set a row is from, 0 or 1.

    Args:
        first: the goal that is asked for.
        second: another goal, with the same columns; rows are drawn without replacement.
        ratio: rows of the second for each row of the first, at least 0.
        seed: of the draw and the order.

    Raises:
        ValueError: the second set has too few rows.

    Source: Yang et al. 2025 (arXiv 2406.11431), the implicit conflict.

    >>> safe, helpful = (Dataset.from_dict({"text": [name] * 4}) for name in ("safe", "helpful"))
    >>> mixed = mix_objectives(safe, helpful, ratio=0.5)
    >>> len(mixed), sum(mixed["objective"])
    (6, 2)
    """
    wanted = round(ratio * len(first))
    if not 0 <= wanted <= len(second):
        raise ValueError(f"{wanted} rows of the second set are asked for; it has {len(second)}")
    rng = np.random.default_rng(seed)
    drawn = second.select(rng.permutation(len(second))[:wanted])
    parts = [
        part.add_column("objective", [number] * len(part))
        for number, part in enumerate((first, drawn))
    ]
    both = concatenate_datasets(parts)
    return both.select(rng.permutation(len(both)))
