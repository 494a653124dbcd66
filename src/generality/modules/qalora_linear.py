"""LoRA over pooled inputs beside rounded weights, so that it merges into their offsets."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.measures.weight_importance import BLOCK_LINEARS, linear_layers
from generality.models.packed_linear import GroupScales, PackedLinear, dequantize
from generality.weights.group_quantizer import quantize, symmetric_scales


class QALoRALinear(nn.Module):
    """A linear layer with frozen rounded weights and a LoRA pair on the sums of groups of inputs.

    y = x Wqᵀ + alpha · (sums of x over groups) Aᵀ Bᵀ. All inputs of a group get the same
    addition to their weights, B A of its place, so the merged layer differs in its offsets alone
    and stays as low-bit as it was: `quantized`.

    A, B and the steps are of float32 where the layer is of a shorter type.

    Args:
        linear: the layer to replace; its bias is kept and frozen.
        bits: 2 to 8.
        group: inputs that share a step, an offset and a column of A.
        rank: r of A (r, groups) and B (out, r); B starts at zero.
        alpha: the factor of B A.

    Source: Xu et al. 2024 (QA-LoRA, arXiv 2309.14717), algorithm 1; the paper's rounding has a
    step and a zero point fitted to each group, this one L4Q's symmetric step, as all methods here.

    >>> layer = QALoRALinear(nn.Linear(64, 8), bits=4, group=32, rank=2)
    >>> _ = nn.init.normal_(layer.lora_B)
    >>> x = torch.randn(3, 64)
    >>> bool((layer(x) - layer.quantized()(x)).abs().max() < 1e-4)
    True
    """

    integers: Tensor
    step: Tensor
    bias: Tensor | None

    def __init__(
        self, linear: nn.Linear, *, bits: int = 4, group: int = 128, rank: int = 4,
        alpha: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.bits, self.group, self.alpha = bits, group, alpha
        weight = linear.weight.detach()
        scales = symmetric_scales(weight, bits, group)
        self.register_buffer("integers", quantize(weight, scales, bits, group))
        self.register_buffer("step", scales.step)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        place = weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, scales.step.shape[1], device=place))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, device=place))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """x Wqᵀ + alpha · pooled x Aᵀ Bᵀ + bias."""
        scales = GroupScales(self.step, torch.zeros_like(self.step))
        weight = dequantize(self.integers, scales, self.group).to(x.dtype)
        y = nn.functional.linear(x, weight, self.bias)
        wide = nn.functional.pad(x.to(self.lora_A.dtype), (0, -x.shape[-1] % self.group))
        pooled = wide.unflatten(-1, (-1, self.group)).sum(-1)
        return y + (self.alpha * pooled @ self.lora_A.T @ self.lora_B.T).to(y.dtype)

    def quantized(self) -> PackedLinear:
        """The layer for use: packed integers, steps, and B A as offsets."""
        offset = self.alpha * self.lora_B.detach() @ self.lora_A.detach()
        outputs, inputs = self.integers.shape
        packed = PackedLinear(
            outputs, inputs, bits=self.bits, group=self.group, bias=self.bias is not None
        )
        packed.fill(self.integers, GroupScales(self.step, offset), self.bias)
        return packed


def apply_qalora(
    model: nn.Module, *, bits: int = 4, group: int = 128, rank: int = 4, alpha: float = 1.0,
    targets: str = BLOCK_LINEARS,
) -> nn.Module:  # fmt: skip
    """Replaces the linear layers that match by `QALoRALinear`, in place; all else is frozen.

    `quantized_model` packs them.

    Raises:
        ValueError: no linear layer matches.
    """
    layers = linear_layers(model, targets)
    model.requires_grad_(False)
    for name, layer in layers.items():
        model.set_submodule(
            name, QALoRALinear(layer, bits=bits, group=group, rank=rank, alpha=alpha)
        )
    return model
