"""LoRA adapters of one base made one adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from generality.errors import UserError
from generality.weights.checkpoint_stream import AdaptedCheckpoint, open_checkpoint, refuse_existing


@dataclass(frozen=True)
class MergedAdapter:
    """An adapter as peft stores it.

    Attributes:
        tensors: the factors A (rank, in) and B (out, rank) by peft's names, scaled so that the
            adapter's own scale is 1.
        config: the `adapter_config.json`.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]

    @property
    def ranks(self) -> list[int]:
        """The ranks that occur."""
        return sorted({t.shape[0] for name, t in self.tensors.items() if ".lora_A" in name})

    def save(self, folder: str | Path, *, command: str = "") -> None:
        """Write it so that peft loads it.

        Raises:
            UserError: the folder is there already.
        """
        from safetensors.torch import save_file

        from generality.models.atomic_folder import atomic_folder

        refuse_existing(Path(folder))
        with atomic_folder(Path(folder)) as fresh:
            save_file(self.tensors, fresh / "adapter_model.safetensors", metadata={"format": "pt"})
            config = json.dumps(self.config, indent=2) + "\n"
            (fresh / "adapter_config.json").write_text(config, encoding="utf-8")
            made = f"# {Path(folder).name}\n\nAdapters merged by concatenation.\n\n    {command}\n"
            (fresh / "README.md").write_text(made, encoding="utf-8")


def merge_adapters(
    adapters: Sequence[str | Path],
    *,
    weights: Sequence[float] | None = None,
    how: Literal["cat"] = "cat",
    base: str | None = None,
) -> MergedAdapter:
    """The exact weighted mean of LoRA adapters, as one adapter.

    Factors are put side by side, so that the rank is the sum of ranks and B A = Σ w B_i A_i / Σ w.
    Averaging the factors themselves (peft's "linear") is something else: the mean of products is
    not the product of means.

    Args:
        adapters: folders, or `hf:org/name`; ranks, scales and layers may differ.
        weights: one for each; None: equal ones.
        how: "cat".
        base: of all; by default what the first one names.

    Raises:
        UserError: their bases differ, or an adapter trains more than low-rank factors.
        ValueError: another `how`, or weights that are too few or add up to 0.
    """
    if how != "cat":
        raise ValueError(f"adapters are merged by 'cat', not '{how}'")
    weights = [1.0] * len(adapters) if weights is None else list(weights)
    if len(weights) != len(adapters) or not adapters or sum(weights) == 0:
        raise ValueError(f"{len(weights)} weights for {len(adapters)} adapters, or a sum of 0")
    opened = [open_checkpoint(adapter, base=base) for adapter in adapters]
    sides: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for each, weight in zip(opened, weights, strict=True):
        if not isinstance(each, AdaptedCheckpoint):
            raise UserError(f"'{each.name}' is a whole model, not an adapter.")
        if each.base.identity != opened[0].base.identity:  # type: ignore[attr-defined]
            raise UserError(
                f"The adapters '{opened[0].name}' and '{each.name}' were trained on different "
                "bases: merge whole models instead, or name the base of both."
            )
        for tensor, keys in each.factors.items():
            if len(keys) == 1 or "embedding" in keys[0] or each.adapter.get("fan_in_fan_out"):
                raise UserError(
                    f"The adapter '{each.name}' changes '{tensor}' by more than plain low-rank "
                    "factors: merge without --as-adapter, which writes a whole model."
                )
            a, b, scale = each.factor(tensor)
            sides.setdefault(tensor, []).append((a, b * (scale * weight / sum(weights))))
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for tensor, parts in sides.items():
        module = tensor.removesuffix(".weight")
        stem = f"base_model.model.{module}"
        tensors[f"{stem}.lora_A.weight"] = torch.cat([a for a, _ in parts]).contiguous()
        tensors[f"{stem}.lora_B.weight"] = torch.cat([b for _, b in parts], 1).contiguous()
        ranks[module] = tensors[f"{stem}.lora_A.weight"].shape[0]
    rank = max(ranks.values())
    first: dict[str, Any] = opened[0].adapter  # type: ignore[attr-defined]
    others = {module: r for module, r in ranks.items() if r != rank}
    config = {
        **{key: first.get(key) for key in ("peft_type", "task_type")},
        "base_model_name_or_path": base or first.get("base_model_name_or_path"),
        "r": rank, "lora_alpha": rank, "rank_pattern": others, "alpha_pattern": dict(others),
        "target_modules": sorted(ranks), "lora_dropout": 0.0, "bias": "none",
        "inference_mode": True,
    }  # fmt: skip
    return MergedAdapter(tensors, config)
