"""What a computation keeps and needs at most, counted tensor by tensor on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class MemoryUse:
    """Bytes.

    Attributes:
        peak: most that tensors made during the call held at one time.
        saved: what was kept for the backward pass, inputs and weights included, each once.
        result: what the call's tensors still held at its end.
    """

    peak: int
    saved: int
    result: int


def memory_of(function: Callable[[], Any]) -> MemoryUse:
    """Memory that a call's tensors take, exactly and on a machine without a GPU too.

    Storages are counted once, however many views they have; what existed before the call counts
    only in `saved`. Scratch space inside one operation (of a fused attention kernel, say) is not
    seen, nor that of the allocator. The numbers are the same every time, so they can be tested.

    >>> x = torch.ones(100, requires_grad=True)
    >>> memory_of(lambda: (x * 2).exp().sum())
    MemoryUse(peak=800, saved=400, result=4)
    """
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = _Live()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), counter:
        result = function()
    saved = sum(kept.values())
    peak = counter.peak
    storages = {
        leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes()
        for leaf in tree_leaves(result)
        if isinstance(leaf, Tensor)
    }
    return MemoryUse(peak, saved, sum(storages.values()))


class _Live(TorchDispatchMode):
    """Follows the storages that operations make, and their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_identity(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _identity(tensor) not in given:
                storage = tensor.untyped_storage()
                self.live[_identity(tensor)] = StorageWeakRef(storage), storage.nbytes()
        self.live = {key: pair for key, pair in self.live.items() if not pair[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return out


def _identity(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
