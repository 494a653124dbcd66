"""How much what several models learned gets in each other's way when it is added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from generality.weights.tensor_pieces import compare_specs, flat_pieces, specs_of


@dataclass(frozen=True)
class Interference:
    """What task vectors have in common.

    Attributes:
        cosines: between every two task vectors, in [-1, 1].
        norms: length of each.
        sign_conflict: share of the numbers that some expert changed at all in which two experts
            pull in opposite directions, in [0, 1].
        cancelled: 1 − |Σ δ| / Σ |δ|, the share of all that was learned which an average loses to
            opposite signs, in [0, 1].
    """

    cosines: Float[np.ndarray, "experts experts"]
    norms: Float[np.ndarray, " experts"]
    sign_conflict: float
    cancelled: float


def interference(
    experts: Sequence[Mapping[str, Tensor]], base: Mapping[str, Tensor]
) -> Interference:
    """How task vectors (expert − base) agree: angles, lengths, and conflicts of signs.

    Source: Yadav et al. 2023 (arXiv 2306.01708), section 3, for conflicts of signs; Ilharco et al.
    2023 (arXiv 2212.04089), figure 5, for cosines. Checkpoints are read in pieces.

    Raises:
        ValueError: no experts, names or shapes differ, or a number that is not finite (named).

    >>> import torch
    >>> base = {"w": torch.zeros(2)}
    >>> seen = interference([{"w": torch.tensor([1.0, 1])}, {"w": torch.tensor([1.0, -1])}], base)
    >>> float(seen.cosines[0, 1]), seen.sign_conflict, seen.cancelled
    (0.0, 0.5, 0.5)
    """
    if not experts:
        raise ValueError("there are no experts to compare")
    for expert in experts:
        compare_specs(base, expert)
    gram = np.zeros((len(experts), len(experts)))
    conflicts = changed = 0
    left = whole = 0.0
    for name, spec in specs_of(base).items():
        if not spec.floating or not spec.size:
            continue
        parts = (flat_pieces(each, name) for each in (base, *experts))
        for origin, *thetas in zip(*parts, strict=True):
            deltas = np.stack([theta - origin for theta in thetas])
            if not np.isfinite(deltas).all():
                raise ValueError(f"'{name}' has numbers that are not finite")
            wide = deltas.astype(np.float64)
            gram += wide @ wide.T
            rising, falling = (deltas > 0).any(0), (deltas < 0).any(0)
            conflicts += int((rising & falling).sum())
            changed += int((rising | falling).sum())
            left += float(np.abs(wide.sum(0)).sum())
            whole += float(np.abs(wide).sum())
    norms = np.sqrt(gram.diagonal())
    cosines = gram / np.maximum(np.outer(norms, norms), np.finfo(np.float64).tiny)
    return Interference(
        cosines, norms, conflicts / changed if changed else 0.0,
        1 - left / whole if whole else 0.0,
    )  # fmt: skip
