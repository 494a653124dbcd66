"""LoRA and the steps of a quantiser trained together: every weight ends in a few bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.measures.weight_importance import BLOCK_LINEARS, linear_layers
from generality.models.packed_linear import GroupScales, PackedLinear, levels, spread
from generality.weights.group_quantizer import quantize, symmetric_scales


class L4QLinear(nn.Module):
    """A linear layer with frozen weights W0, a LoRA pair, and a learnt quantiser over both.

    W = W0 + alpha · B A goes through `lsq_quantize`, and only the quantised weight is ever used,
    in training as afterwards. A, B and the scales (a step and an offset for each group of inputs)
    are trained; gradients of W live inside this layer's backward only, so that what is kept for
    it is as small as LoRA's. `W` is computed again there.

    A, B and the scales are of float32 where the layer is of a shorter type: rounding is decided
    there, and what comes out is of the inputs' type, under autocast too.

    Args:
        linear: the layer to replace; its bias is kept and frozen.
        bits: 2 to 8.
        group: how many inputs share a step and an offset.
        rank: r of A (r, in) and B (out, r); B starts at zero, so the layer starts as RTN(W0).
        alpha: the factor of B A.
        learn_offset: train the offsets too.

    Source: Jeon et al. 2024 (L4Q, arXiv 2402.04902), equations 5 to 9 (LSQ's gradient, no gradient
    scale). The paper starts training the scales after ten steps: `hold_scales`.

    Raises:
        ValueError: other bits, or a group of no inputs.

    >>> layer = L4QLinear(nn.Linear(64, 8), bits=4, group=32, rank=2)
    >>> layer(torch.randn(3, 64)).shape
    torch.Size([3, 8])
    >>> sorted(name for name, p in layer.named_parameters() if p.requires_grad)
    ['lora_A', 'lora_B', 'offset', 'step']
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        linear: nn.Linear,
        *,
        bits: int = 4,
        group: int = 128,
        rank: int = 4,
        alpha: float = 1.0,
        learn_offset: bool = True,
    ) -> None:
        super().__init__()
        self.bits, self.group, self.alpha = bits, group, alpha
        self.learn_offset = learn_offset
        self.register_buffer("weight", linear.weight.detach())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        scales = symmetric_scales(self.weight, bits, group)
        self.step, self.offset = (nn.Parameter(s) for s in scales)
        place = self.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, linear.in_features, device=place))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, device=place))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)
        self.learn_scales(True)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """x Wqᵀ + bias."""
        y = _L4Q.apply(
            x, self.weight, self.lora_A, self.lora_B, self.step, self.offset,
            self.alpha, self.bits, self.group,
        )  # fmt: skip
        return y if self.bias is None else y + self.bias

    def learn_scales(self, learn: bool) -> None:
        """Train step and offset, or hold them where they are."""
        self.step.requires_grad_(learn)
        self.offset.requires_grad_(learn and self.learn_offset)

    def quantized(self) -> PackedLinear:
        """The layer for use: packed integers, scales, no LoRA beside them."""
        scales = GroupScales(_positive(self.step.detach()), self.offset.detach())
        merged = self.weight + self.alpha * self.lora_B.detach() @ self.lora_A.detach()
        integers = quantize(merged, scales, self.bits, self.group)
        shape = (integers.shape[0], integers.shape[1])
        packed = PackedLinear(*shape, bits=self.bits, group=self.group, bias=self.bias is not None)
        packed.fill(integers, scales, self.bias)
        return packed


def lsq_quantize(
    weight: Float[Tensor, "out inputs"],
    step: Float[Tensor, "out groups"],
    offset: Float[Tensor, "out groups"],
    bits: int,
    group: int,
) -> Float[Tensor, "out inputs"]:
    """Quantised and back, with LSQ's gradients: straight through rounding, gated by clamping.

    With w = (W − offset)/step: dWq/dW is 1 where w is in range; dWq/dstep is round(w) − w there
    and the bound it was clamped to elsewhere; dWq/doffset is 1 where it was clamped.

    Source: Esser et al. 2020 (LSQ, arXiv 1902.08153), equations 3 and 4; the offset is LSQ+'s.

    >>> weight = torch.tensor([[1.0, -1.3, 0.3, 0.5]])
    >>> step = torch.tensor([[0.3]], requires_grad=True)
    >>> lsq_quantize(weight, step, torch.zeros(1, 1), bits=3, group=4)
    tensor([[ 0.9000, -1.2000,  0.3000,  0.6000]], grad_fn=<AddBackward0>)
    """
    low, high = levels(bits)
    step, offset = spread(GroupScales(step, offset), weight.shape[1], group)
    scaled = ((weight - offset) / step).clamp(low, high)
    rounded = scaled + (scaled.round() - scaled).detach()
    return rounded * step + offset


class _L4Q(torch.autograd.Function):
    """The quantised layer; keeps its inputs, small tensors, and W0, which is there anyway."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w0: Tensor, a: Tensor, b: Tensor, step: Tensor, offset: Tensor,
        alpha: float, bits: int, group: int,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, w0, a, b, step, offset)
        ctx.options = (alpha, bits, group)
        weight = lsq_quantize(w0 + alpha * b @ a, _positive(step), offset, bits, group)
        return nn.functional.linear(x, weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, w0, a, b, step, offset = ctx.saved_tensors
        alpha, bits, group = ctx.options
        with torch.enable_grad():
            inner = [t.detach().requires_grad_() for t in (a, b, step, offset)]
            merged = w0 + alpha * inner[1] @ inner[0]
            weight = lsq_quantize(merged, _positive(inner[2]), inner[3], bits, group)
        gradient = gradients[0]  # of another type than x under autocast
        rows, columns = (t.reshape(-1, t.shape[-1]) for t in (gradient, x.to(gradient.dtype)))
        small = torch.autograd.grad(weight, inner, (rows.T @ columns).to(weight.dtype))
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (gradient @ weight.detach().to(gradient.dtype)).to(x.dtype)
        return to_x, None, *small, None, None, None


def _positive(step: Tensor) -> Tensor:
    return step.clamp_min(1e-8)


def apply_l4q(model: nn.Module, *, targets: str = BLOCK_LINEARS, **options: Any) -> nn.Module:
    """Replaces the linear layers whose name matches `targets` by `L4QLinear`, in place.

    Everything else is frozen, embeddings, head and norms included.

    Args:
        targets: a regular expression over whole module names; by default the projections of
            attention and feed-forward layers as Llama-like models name them.
        options: `bits`, `group`, `rank`, `alpha`, `learn_offset`.

    Raises:
        ValueError: no linear layer matches.
    """
    layers = linear_layers(model, targets)
    model.requires_grad_(False)
    for name, layer in layers.items():
        model.set_submodule(name, L4QLinear(layer, **options))
    return model


def hold_scales(model: nn.Module, steps: int) -> Callable[..., None]:
    """Hold the steps and offsets of every `L4QLinear` for the first `steps` updates.

    Their gradients are zero until then. Returns what must be told the number of updates made, after
    each: the first argument of `lab.train`'s `progress`.

    Source: L4Q's released code, which waits for ten.

    >>> model = apply_l4q(nn.ModuleDict({"proj": nn.Linear(8, 2)}), targets="proj", group=4)
    >>> tell = hold_scales(model, 1)
    >>> model["proj"](torch.ones(1, 8)).sum().backward()
    >>> bool(model["proj"].step.grad.any())
    False
    >>> tell(1)
    >>> model["proj"](torch.ones(1, 8)).sum().backward()
    >>> bool(model["proj"].step.grad.any())
    True
    """
    done = 0

    def held(gradient: Tensor) -> Tensor:
        return gradient if done >= steps else torch.zeros_like(gradient)

    def count(step: int, *_: Any) -> None:
        nonlocal done
        done = step

    for layer in model.modules():
        if isinstance(layer, L4QLinear):
            for scale in (layer.step, layer.offset):
                if scale.requires_grad:
                    scale.register_hook(held)
    return count


def quantized_model(model: nn.Module) -> nn.Module:
    """The same model with every `L4QLinear` (or `QALoRALinear`) packed, in place."""
    for name, layer in list(model.named_modules()):
        if callable(getattr(layer, "quantized", None)):
            model.set_submodule(name, layer.quantized())
    return model


def dequantized_model(model: nn.Module) -> nn.Module:
    """The same model with ordinary linear layers that hold the quantised weights, in place.

    They are of the type of the model's first other parameter.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, PackedLinear):
            model.set_submodule(name, layer.dequantized(dtype))
    return model
