"""How far two samples are from one distribution, by several Gaussian kernels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def mk_mmd(
    x: Float[Tensor, "n features"],
    y: Float[Tensor, "m features"],
    *,
    kernel_mul: float = 2.0,
    num_kernels: int = 5,
    bandwidth: float | None = None,
    biased: bool = True,
) -> Float[Tensor, ""]:
    """Multi-kernel maximum mean discrepancy, squared: 0 for equal samples, at most 2·num_kernels.

    The sum of mean kernels inside x and inside y, less twice the mean between them. The kernels
    are exp(−‖a − b‖² / (w·kernel_mul^i)), i = 0, 1, …, with w the `bandwidth` (by default the mean
    squared distance of distinct points, without gradient) over kernel_mul^(num_kernels // 2).

    Source: Long et al. 2015 (arXiv 1502.02791), with the bandwidths of FedKA's code (arXiv
    2203.11635).

    Args:
        biased: False leaves out the distance of a point to itself (may be negative; needs two
            points in each sample).

    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> round(mk_mmd(x, x + torch.tensor([0.0, 1.0])).item(), 4), mk_mmd(x, x).item()
    (3.5649, 0.0)
    """
    both = torch.cat([x, y])
    n, total = len(x), len(both)
    squared = squared_distances(both)
    if bandwidth is None:
        width = squared.detach().sum() / (total * total - total)
    else:
        width = squared.new_tensor(bandwidth)
    width = (width / kernel_mul ** (num_kernels // 2)).clamp(min=torch.finfo(squared.dtype).tiny)
    kernel = torch.stack([(-squared / (width * kernel_mul**i)).exp() for i in range(num_kernels)])
    kernel = kernel.sum(0)
    own_x, own_y, between = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    if biased:
        return own_x.mean() + own_y.mean() - 2 * between.mean()
    return _off_diagonal(own_x) + _off_diagonal(own_y) - 2 * between.mean()


def squared_distances(points: Float[Tensor, "n features"]) -> Float[Tensor, "n n"]:
    """Squared Euclidean distances of all pairs, in one matrix product.

    >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[ 0., 25.],
            [25.,  0.]])
    """
    points = points - points.mean(0).detach()  # distances stay, rounding gets smaller
    norms = points.square().sum(-1)
    return (norms[:, None] + norms - 2 * points @ points.mT).clamp(min=0)


def _off_diagonal(kernel: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    n = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))
