"""Random projection by a matrix of signs that is never held as a whole."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK = 4096  # columns of signs at a time; the signs depend on it


class RademacherProjector:
    """From vectors of any length to `dim` numbers: z = R u / √dim, the entries of R being ±1.

    Inner products are kept in expectation; that of two unit vectors has a standard deviation of at
    most √(2/dim). R depends on the seed alone, and its first columns not on the vectors' length, so
    that every batch and every round is projected by the same one.

    Args:
        dim: numbers of a projection, at least 1.
        seed: of the signs.

    Source: Jung et al. 2025 (arXiv 2505.20161), section 3; Achlioptas 2003.

    >>> u = torch.nn.functional.normalize(torch.ones(1, 10_000))
    >>> z = RademacherProjector(1024, seed=0)(u)
    >>> z.shape, bool((z.norm() - 1).abs() < 0.1)
    (torch.Size([1, 1024]), True)
    """

    def __init__(self, dim: int = 1024, seed: int = 0) -> None:
        if dim < 1:
            raise ValueError(f"dim is at least 1, not {dim}")
        self.dim, self.seed = dim, seed

    def __call__(self, vectors: Float[Tensor, "n width"]) -> Float[Tensor, "n dim"]:
        """The projections, in float32, on the vectors' device."""
        generator = torch.Generator().manual_seed(self.seed)
        projected = torch.zeros(len(vectors), self.dim, device=vectors.device)
        for block in vectors.split(_BLOCK, dim=1):
            signs = random_signs(_BLOCK, self.dim, generator=generator)[: block.shape[1]]
            projected += block.float() @ signs.to(vectors.device)
        return projected / self.dim**0.5


def random_signs(*shape: int, generator: torch.Generator) -> Tensor:
    """Independent −1 and 1, as float32.

    >>> random_signs(4, 4, generator=torch.Generator().manual_seed(0)).unique().tolist()
    [-1.0, 1.0]
    """
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.int8).float() * 2 - 1
