"""PEGO: a group of low-rank adapters on the same attention projections, as `peft` keeps them."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from generality.measures import subspace_overlap
from generality.modules.fused_qkv import split_qkv

QUERY_AND_VALUE = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v")


class LoRAGroup:
    """N named LoRA adapters, all active at once: W' = W + Σ B_i A_i on queries and values.

    The model is changed in place: its weights are frozen, adapters `name-0`, `name-1`, … are
    added by `peft` with lora_alpha = rank (a scale of 1), no dropout, A Kaiming-uniform and B
    zero, so that at first nothing changes. Everything in `peft` that takes a model with adapters
    works on it. Train with `generality.objectives.orthogonal_group_loss` added to the task's loss;
    then `merge()` puts the updates into the weights (no cost at test time) and `unload()` leaves a
    plain model. A head that should train is made trainable, or added, afterwards.

    Source: Hu et al. 2024, PEGO (arXiv 2407.15085), section 3.2; for the initialisation the
    released code.

    Args:
        model: a transformer. Fused "qkv" and "c_attn" layers are split first (see `split_qkv`).
        rank: of each adapter.
        num: adapters in the group.
        targets: names of the layers to adapt, as `peft` matches them; None takes queries and
            values by the names of BERT, ViT, CLIP, Llama, DistilBERT, T5 and the fused layers.
        blocks: adapt only the first so many blocks, for a model of which the others are not run;
            None: all.
        name: of the group; its adapters' names start with it.
        seed: of the adapters' first weights.

    Attributes:
        names: of the adapters.
        layers: the adapted layers by path.

    Raises:
        ValueError: nothing to adapt, a rank or number below 1, or a group of that name is there.

    >>> from transformers import BertConfig, BertModel
    >>> model = BertModel(BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2,
    ...                   num_attention_heads=2, intermediate_size=32))
    >>> group = LoRAGroup(model, rank=2, num=3)
    >>> len(group.layers), sum(p.numel() for p in group.parameters())
    (4, 768)
    >>> group.names
    ('group-0', 'group-1', 'group-2')
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rank: int = 4,
        num: int = 4,
        targets: Sequence[str] | None = None,
        blocks: int | None = None,
        name: str = "group",
        seed: int = 0,
    ) -> None:
        if rank < 1 or num < 1:
            raise ValueError(f"rank and num are at least 1, not {rank} and {num}")
        self.model: Any = model
        self.names = tuple(f"{name}-{i}" for i in range(num))
        if set(self.names) & set(getattr(model, "peft_config", {})):
            raise ValueError(f"the model has adapters of the name '{name}': give another")
        if targets is None:
            split_qkv(model)
            targets = _present(model, QUERY_AND_VALUE)
        if blocks is not None:
            targets = _in_first_blocks(model, targets, blocks)
        if not targets:
            raise ValueError("found no query and value projections to adapt: name them in targets")
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets))
        devices = [p.device for p in model.parameters() if p.device.type == "cuda"][:1]
        with torch.random.fork_rng(devices), warnings.catch_warnings():
            torch.manual_seed(seed)
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            for adapter in self.names:
                if isinstance(model, PreTrainedModel):
                    model.add_adapter(config, adapter_name=adapter)
                else:
                    inject_adapter_in_model(config, model, adapter_name=adapter)
        self.layers: dict[str, Any] = {
            path: layer
            for path, layer in model.named_modules()
            if isinstance(layer, LoraLayer) and self.names[0] in layer.scaling
        }
        model.requires_grad_(False)
        for layer in self.layers.values():
            layer.set_adapter(list(self.names))  # active, and trained, all together

    def parameters(self) -> Iterator[nn.Parameter]:
        """The adapters' weights."""
        for layer in self.layers.values():
            for adapter in self.names:
                yield from (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight)

    def deltas(self, path: str) -> Float[Tensor, "adapters outputs inputs"]:
        """Each adapter's update B_i A_i of the weight of one adapted layer."""
        layer = self.layers[path]
        return torch.stack([layer.get_delta_weight(adapter) for adapter in self.names])

    def weight(self, path: str) -> Float[Tensor, "outputs inputs"]:
        """The pretrained weight under the adapters of one layer (while not merged)."""
        return self.layers[path].get_base_layer().weight.detach()

    def report(self) -> dict[str, float]:
        """What became of the updates, as means over the layers (while not merged).

        `update_norm` is ‖Σ Δ_i‖_F: compare it with that of no penalty, since too large a λ shrinks
        updates to nothing. `overlap` is how much an update reads the directions that the pretrained
        weight reads, and `shared_directions` the same between two updates (see `subspace_overlap`,
        both in [0, 1]; the latter is missing for a group of one, NaN where an update is zero).

        >>> import torch
        >>> group = LoRAGroup(nn.ModuleDict({"query": nn.Linear(4, 4)}), rank=1, num=2)
        >>> layer = group.layers["query"]
        >>> for adapter, direction in zip(group.names, torch.eye(4)):
        ...     layer.lora_A[adapter].weight.data = direction[None]
        ...     layer.lora_B[adapter].weight.data = torch.ones(4, 1)
        >>> found = group.report()
        >>> round(found["update_norm"], 3), found["shared_directions"]
        (2.828, 0.0)
        """
        sizes, overlaps, shared = [], [], []
        for path in self.layers:
            deltas = self.deltas(path).detach()
            sizes.append(float(deltas.sum(0).norm()))
            overlaps += [subspace_overlap(self.weight(path), delta) for delta in deltas]
            shared += [subspace_overlap(a, b) for a, b in itertools.combinations(deltas, 2)]
        found = {"update_norm": sizes, "overlap": overlaps, "shared_directions": shared}
        return {name: sum(each) / len(each) for name, each in found.items() if each}

    @property
    def merged(self) -> bool:
        """Whether the updates are in the weights."""
        return any(layer.merged for layer in self.layers.values())

    def merge(self) -> None:
        """Put the updates into the weights; the model computes the same, without the adapters."""
        if not self.merged:
            for layer in self.layers.values():
                layer.merge(adapter_names=list(self.names))

    def unmerge(self) -> None:
        """Take the updates out of the weights again, to train on."""
        for layer in self.layers.values():
            if layer.merged:
                layer.unmerge()

    def unload(self) -> nn.Module:
        """The model with the updates merged and every trace of the adapters gone, frozen still.

        Adapters of other names on the same layers go too, unmerged.
        """
        self.merge()
        for path, layer in self.layers.items():
            self.model.set_submodule(path, layer.get_base_layer())
        self.layers = {}
        for adapter in self.names:
            self.model.peft_config.pop(adapter, None)
        if not self.model.peft_config:
            del self.model.peft_config
            if isinstance(self.model, PreTrainedModel):
                self.model._hf_peft_config_loaded = False
        return self.model


def _present(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Those of the names that the model has linear layers of, adapted ones included."""
    linear = {
        path.rpartition(".")[2]
        for path, layer in model.named_modules()
        if isinstance(layer, (nn.Linear, LoraLayer))
    }
    return [name for name in names if name in linear]


def _in_first_blocks(model: nn.Module, names: Sequence[str], blocks: int) -> list[str]:
    """Paths of the layers with these names in the first blocks; the first number is the block's."""
    found = []
    for path, layer in model.named_modules():
        number = re.search(r"\.(\d+)\.", path)
        named = any(f".{path}".endswith(f".{name}") for name in names)
        if named and isinstance(layer, (nn.Linear, LoraLayer)) and number:
            found += [path] if int(number[1]) < blocks else []
    return found
