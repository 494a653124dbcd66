"""Quantisation-aware training of whole weights, with learnt steps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from generality.measures.weight_importance import BLOCK_LINEARS, linear_layers
from generality.modules.l4q_linear import lsq_quantize
from generality.weights.group_quantizer import symmetric_scales


class LSQWeight(nn.Module):
    """A parametrisation (`torch.nn.utils.parametrize`): the weight used is the weight rounded.

    The full-precision weight is trained straight through the rounding, with a step and an offset
    for every group of inputs. Memory: the weight, its gradient, its optimiser state, and what
    autograd keeps of it, all at full size: what L4Q avoids.

    Args:
        weight: the matrix to begin with; the first steps clip nothing of it.
        bits: 2 to 8.
        group: inputs that share a step and an offset.

    Source: Esser et al. 2020 (LSQ, arXiv 1902.08153); no gradient scale.

    >>> layer = nn.Linear(64, 8)
    >>> lsq = LSQWeight(layer.weight, bits=2, group=32)
    >>> _ = parametrize.register_parametrization(layer, "weight", lsq)
    >>> len(layer.weight[0, :32].unique()) <= 4
    True
    """

    def __init__(self, weight: Float[Tensor, "out inputs"], *, bits: int, group: int) -> None:
        super().__init__()
        self.bits, self.group = bits, group
        self.step, self.offset = (
            nn.Parameter(scale) for scale in symmetric_scales(weight.detach(), bits, group)
        )

    def forward(self, weight: Float[Tensor, "out inputs"]) -> Float[Tensor, "out inputs"]:
        """The weight rounded, of its own type."""
        step = self.step.clamp_min(1e-8)
        return lsq_quantize(weight, step, self.offset, self.bits, self.group).to(weight.dtype)


def apply_qat(
    model: nn.Module, *, bits: int = 4, group: int = 128, targets: str = BLOCK_LINEARS
) -> nn.Module:
    """Makes the linear layers that match use rounded weights, in place; all else is frozen.

    Afterwards `settle_qat` leaves ordinary layers that hold the rounded weights.

    Raises:
        ValueError: no linear layer matches.
    """
    layers = linear_layers(model, targets)
    model.requires_grad_(False)
    for layer in layers.values():
        layer.weight.requires_grad_(True)
        parametrize.register_parametrization(
            layer, "weight", LSQWeight(layer.weight, bits=bits, group=group)
        )
    return model


def settle_qat(model: nn.Module) -> nn.Module:
    """Ordinary layers again, with the rounded weights, in place."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return model
