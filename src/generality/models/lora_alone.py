"""LoRA on a language model whose saved state is the adapters alone."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from generality.models.identity import model_identity
from generality.models.load import load_model

_BLOCK = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


def adapters_alone(
    model: nn.Module, *, rank: int = 8, last: int | None = None, seed: int = 0
) -> nn.Module:
    """Freeze a language model and put LoRA on the linear layers of its blocks; in place.

    From then on `state_dict()` holds LoRA's matrices and nothing else, and `load_state_dict` asks
    for nothing else, so that whatever keeps or copies a model's weights keeps a few hundred
    kilobytes: a hundred tuned models of 135M parameters fit where one did. The model computes what
    it did before until the adapters are trained (B is 0).

    Args:
        model: a causal language model of transformers with its blocks in `layers`, `h` or `blocks`.
        rank: of the adapters; their factor is 2 (alpha is twice the rank).
        last: adapt this many blocks at the end, so that no gradient goes through the others; None:
            all.
        seed: of the matrices A.

    Raises:
        ValueError: no such block, or a rank or number of blocks below 1.

    Source: Hu et al. 2021 (arXiv 2106.09685).

    >>> from generality.models import tiny_decoder
    >>> model = adapters_alone(tiny_decoder("0.05M", vocabulary=60), rank=2, last=1)
    >>> state = model.state_dict()
    >>> all("lora_" in name for name in state), sum(each.numel() for each in state.values()) < 5000
    (True, True)
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds

    if rank < 1 or (last is not None and last < 1):
        raise ValueError(f"rank and last are at least 1, not {rank} and {last}")
    blocks = {
        name: int(found[1])
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and (found := _BLOCK.search(f".{name}"))
    }
    if not blocks:
        raise ValueError("found no linear layers in blocks named layers, h or blocks")
    first = 0 if last is None else max(blocks.values()) + 1 - last
    targets = [name for name, block in blocks.items() if block >= first]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    devices = [p.device for p in model.parameters() if p.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    model.register_state_dict_post_hook(_drop_frozen)
    model.register_load_state_dict_post_hook(_ask_for_adapters)
    return model


def lora_network(
    name: str, *, rank: int = 8, last: int | None = None
) -> Callable[[int], nn.Module]:
    """A named language model with LoRA, as `Lab.sft` and `Lab.generate` take networks.

    What is called with a seed gives the model, `adapters_alone` on it. It is named by the weights,
    so that what is kept of one model is never taken for another's.

    >>> network = lora_network("smollm2-135m", rank=4, last=6)
    >>> network.keywords
    {'rank': 4, 'last': 6}
    """
    return functools.partial(_adapted, name, model_identity(name), rank=rank, last=last)


def _adapted(name: str, identity: str, seed: int, *, rank: int, last: int | None) -> nn.Module:
    return adapters_alone(load_model(name, device="cpu"), rank=rank, last=last, seed=seed)


def _drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name in state if "lora_" not in name]:
        del state[name]


def _ask_for_adapters(module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if "lora_" in name]
