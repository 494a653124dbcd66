"""One low-rank expert a skill, from one model: trained, compared, merged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.weights import merge_adapters
from generality.weights.merge_adapter import MergedAdapter


def train_skill_experts(
    model: nn.Module,
    datasets: Mapping[str, Any],
    folder: str | Path,
    *,
    config: Any,
    train: Callable[[nn.Module, Any], object],
) -> dict[str, Path]:
    """A peft adapter for each skill, each from the same model, saved below `folder`.

    The model itself is left as it is and saved too (as `base`), so that `merge_adapters` sees that
    all are of one base.

    Args:
        model: any module that peft can adapt.
        datasets: skill → what `train` takes.
        folder: for `base` and one folder a skill; made where it is not there.
        config: a `peft.LoraConfig` that names its target modules.
        train: changes the adapted model it is given; only the adapter asks for gradients.

    Returns:
        skill → folder of its adapter.

    >>> import tempfile, torch
    >>> from peft import LoraConfig
    >>> def train(adapted, target):
    ...     optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=.1)
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         (adapted(torch.ones(1, 2)) - target).square().sum().backward()
    ...         optimizer.step()
    >>> config = LoraConfig(r=1, target_modules=["0"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    ...     experts = train_skill_experts(
    ...         model, {"up": 1.0, "down": -1.0}, folder, config=config, train=train
    ...     )
    ...     merged = merge_experts(list(experts.values()), base=f"{folder}/base")
    ...     adapted = with_adapter(model, merged)
    >>> sorted(experts), merged.ranks
    (['down', 'up'], [2])
    """
    from peft import get_peft_model
    from safetensors.torch import save_model

    root = Path(folder)
    base = root / "base"
    base.mkdir(parents=True, exist_ok=True)
    (base / "config.json").write_text(json.dumps({"model_type": type(model).__name__}))
    save_model(model, str(base / "model.safetensors"))
    places: dict[str, Path] = {}
    for skill, data in datasets.items():
        adapted: Any = get_peft_model(copy.deepcopy(model), copy.deepcopy(config))
        train(adapted, data)
        adapted.peft_config["default"].base_model_name_or_path = str(base)
        adapted.save_pretrained(str(root / skill))
        places[skill] = root / skill
    return places


def merge_experts(
    adapters: Sequence[str | Path], *, base: str | Path, weights: Sequence[float] | None = None
) -> MergedAdapter:
    """The exact (weighted) mean of what the adapters add to the weights: W + Σ w B A / Σ w.

    Source: Li et al. 2024 (arXiv 2403.06952), equation 1. Their script divides by the number of
    letters of the model's name; here it is the number of experts.
    """
    return merge_adapters(list(adapters), weights=weights, base=str(base))


def with_adapter(model: nn.Module, adapter: MergedAdapter) -> nn.Module:
    """A copy of the model with the adapter in its weights."""
    changed = copy.deepcopy(model)
    state = dict(changed.named_parameters())
    with torch.no_grad():
        for name, a in adapter.tensors.items():
            if name.endswith(".lora_A.weight"):
                stem = name.removesuffix(".lora_A.weight")
                b = adapter.tensors[f"{stem}.lora_B.weight"]
                weight = state[stem.removeprefix("base_model.model.") + ".weight"]
                weight.add_(_product(b, a).view_as(weight).to(weight.dtype))
    return changed


def adapter_conflict(
    adapters: Sequence[str | Path], *, base: str | Path
) -> Float[np.ndarray, "adapters adapters"]:
    """Cosines between what adapters add to the weights; below 0 they pull against each other."""
    rows = []
    for adapter in adapters:
        alone = merge_experts([adapter], base=base).tensors
        names = sorted(name for name in alone if name.endswith(".lora_A.weight"))
        deltas = [_product(alone[n.replace("lora_A", "lora_B")], alone[n]) for n in names]
        rows.append(torch.cat([delta.flatten() for delta in deltas]))
    stacked = nn.functional.normalize(torch.stack(rows), dim=1)
    return (stacked @ stacked.T).numpy()


def _product(b: Tensor, a: Tensor) -> Float[Tensor, "out flat"]:
    """B A, of linear layers and of convolutions."""
    return b.float().flatten(1) @ a.float().flatten(1)
