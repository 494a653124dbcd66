"""The Vendi score: how many different things a set amounts to."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def vendi_score(
    matrix: Float[Any, "n columns"],
    *,
    q: float = 1.0,
    kind: Literal["features", "gram", "covariance"] = "features",
) -> float:
    """The exponential of the (Rényi) entropy of a similarity matrix's eigenvalues.

    Between 1 (all the same, but for sign) and the smaller of the numbers of examples and of
    dimensions (all orthogonal). It is capped by both: compare sets of equal size in equally many
    dimensions only.

    Args:
        matrix: of `kind`.
        q: order, ≥ 0: 1 Shannon, 2 collision, inf the largest eigenvalue alone. Higher ones see
            frequent things more.
        kind: "features" are rows of any length but 0, which are made unit vectors (the smaller of
            both matrices below is then taken); "gram" is their (n, n) matrix of cosines,
            "covariance" the (d, d) sum or mean of their outer products: the same eigenvalues.

    Raises:
        ValueError: for a row of zeros, a matrix that is not square, NaN, or an unknown kind.

    Source: Friedman and Dieng 2023 (arXiv 2210.02410); orders: Pasarkar and Dieng 2023.

    >>> round(vendi_score([[1, 0], [2, 0], [0, 1]]), 6)
    1.889882
    >>> [round(vendi_score([[1, 0], [2, 0], [0, 1]], q=q), 3) for q in (0, 2, math.inf)]
    [2.0, 1.8, 1.5]
    """
    values = matrix.detach() if isinstance(matrix, Tensor) else torch.from_numpy(np.array(matrix))
    values = values.double()
    if values.ndim != 2 or not len(values) or not bool(values.isfinite().all()):
        raise ValueError("vendi_score needs a matrix of finite numbers with at least one row")
    if kind == "features":
        lengths = values.norm(dim=1, keepdim=True)
        if bool((lengths == 0).any()):
            raise ValueError(f"row {int(lengths[:, 0].argmin())} is all zeros: it has no direction")
        unit = values / lengths
        values = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit
    elif kind not in ("gram", "covariance"):
        raise ValueError(f"kind is 'features', 'gram' or 'covariance', not '{kind}'")
    if values.shape[0] != values.shape[1]:
        raise ValueError(f"a {kind} matrix is square, not {tuple(values.shape)}")
    if float(values.trace()) <= 0:
        raise ValueError(f"a {kind} matrix has a trace above 0: this one has no direction in it")
    shares = torch.linalg.eigvalsh(values).clamp(min=0)
    return _effective_number(shares / shares.sum(), q)


class StreamingVendi:
    """The Vendi score of rows that come in batches: memory d² whatever their number.

    Args:
        dim: numbers of a row.

    Attributes:
        rows: how many were seen.
        covariance: the mean of their outer products, (dim, dim), float64; its trace is 1.

    >>> rows = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    >>> stream = StreamingVendi(8)
    >>> for batch in rows.split(30):
    ...     stream.update(batch)
    >>> stream.rows, abs(stream.compute() - vendi_score(rows)) < 1e-8
    (100, True)
    """

    def __init__(self, dim: int) -> None:
        self.rows = 0
        self._sum = torch.zeros(dim, dim, dtype=torch.float64)

    @property
    def covariance(self) -> Float[Tensor, "dim dim"]:
        """See the class."""
        return self._sum / max(self.rows, 1)

    def update(self, rows: Float[Tensor, "n dim"]) -> None:
        """Add rows; they are made unit vectors."""
        unit = torch.nn.functional.normalize(torch.as_tensor(rows).double().cpu(), dim=1)
        self._sum += unit.T @ unit
        self.rows += len(unit)

    def compute(self, q: float = 1.0) -> float:
        """The score of order q of all rows so far.

        Raises:
            ValueError: there were none.
        """
        if not self.rows:
            raise ValueError("no rows yet: a Vendi score is of at least one")
        return vendi_score(self._sum, q=q, kind="covariance")


def _effective_number(shares: Float[Tensor, " d"], q: float) -> float:
    """Hill's number of order q of shares that sum to 1."""
    kept = shares[shares > 1e-12]
    if q < 0:
        raise ValueError(f"the order q is at least 0, not {q}")
    if q == 1:
        return float(torch.exp(-(kept * kept.log()).sum()))
    if math.isinf(q):
        return float(1 / kept.max())
    return float((kept**q).sum() ** (1 / (1 - q)))
