"""PEGO's penalty: low-rank updates orthogonal to the pretrained weights and to each other."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft.tuners.lora import Linear


def orthogonal_group_loss(
    model: nn.Module,
    lam: float = 1e-3,
    *,
    preserve: bool = True,
    diversify: bool = True,
    reduction: Literal["sum", "mean"] = "sum",
) -> Float[Tensor, ""]:
    """λ Σ over adapted layers of Σ_i |W Δ_iᵀ|₁ + Σ_{i<j} |Δ_i Δ_jᵀ|₁, where Δ_i = B_i A_i.

    |·|₁ sums the absolute entries. Add it to the task's loss. W Δᵀ holds the inner products
    between the rows of the two: it is zero where the updates read only input directions that the
    pretrained weight does not use (preserve), and different directions from each other
    (diversify). No gradient reaches W. With B at zero, as `peft` starts it, both the loss and its
    gradient are zero.

    Each product is made through the rank, (W A_iᵀ) B_iᵀ and B_i (A_i A_jᵀ) B_jᵀ: for a d × d
    weight O(d² r) operations, and neither an update nor W Wᵀ is ever formed.

    Source: Hu et al. 2024, PEGO (arXiv 2407.15085), equations of the two losses; the sum over
    entries is the released code's, for d = 768 and λ = 1e-3.

    Args:
        model: any module with `peft` LoRA adapters on linear layers; all active ones count, such
            as those of `generality.modules.LoRAGroup`.
        lam: λ. With "sum" the loss grows with d², layers and adapters, so λ does not carry over
            from one width to another; too large a λ shrinks the updates to nothing.
        preserve: the first term.
        diversify: the second term.
        reduction: "sum" over entries, or "mean": the sum over the number of entries summed.

    Raises:
        ValueError: no active adapters, merged ones, or adapters on something else than a linear
            layer.

    >>> from peft import LoraConfig, inject_adapter_in_model
    >>> config = LoraConfig(r=1, lora_alpha=1, target_modules=["q"])
    >>> model = inject_adapter_in_model(config, nn.ModuleDict({"q": nn.Linear(2, 2)}))
    >>> with torch.no_grad():
    ...     _ = model["q"].get_base_layer().weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    ...     _ = model["q"].lora_A["default"].weight.copy_(torch.tensor([[0.0, 1.0]]))
    ...     _ = model["q"].lora_B["default"].weight.copy_(torch.tensor([[1.0], [0.0]]))
    >>> orthogonal_group_loss(model, lam=1.0).item()
    6.0
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction is 'sum' or 'mean', not '{reduction}'")
    total: Tensor | float = 0.0
    entries = 0
    for layer in adapted_layers(model):
        down = [layer.lora_A[name].weight for name in layer.active_adapters]
        up = [layer.scaling[name] * layer.lora_B[name].weight for name in layer.active_adapters]
        products = []
        if preserve:
            weight = layer.get_base_layer().weight.detach()
            weight = weight.T if layer.fan_in_fan_out else weight
            products += [(weight.to(a.dtype) @ a.T) @ b.T for a, b in zip(down, up, strict=True)]
        if diversify:
            pairs = itertools.combinations(range(len(down)), 2)
            products += [up[i] @ (down[i] @ down[j].T) @ up[j].T for i, j in pairs]
        for product in products:
            total = total + product.abs().sum()
            entries += product.numel()
    if not isinstance(total, Tensor):  # one adapter has nothing to be different from
        total = torch.zeros((), device=next(model.parameters()).device)
    return lam * total / (max(entries, 1) if reduction == "mean" else 1)


def adapted_layers(model: nn.Module) -> list[Linear]:
    """The linear layers of a model that have active LoRA adapters."""
    from peft.tuners.lora import Linear, LoraLayer

    found = [m for m in model.modules() if isinstance(m, LoraLayer) and m.active_adapters]
    for layer in found:
        if not isinstance(layer, Linear):
            raise ValueError(f"adapters on a {type(layer).__name__} are not penalised: linear only")
        if layer.merged:
            raise ValueError("the adapters are merged into the weights: unmerge them first")
    if not found:
        raise ValueError("the model has no active LoRA adapters: add some with LoRAGroup or peft")
    return found
