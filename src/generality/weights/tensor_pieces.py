"""Named tensors read a piece at a time, of state dicts and open checkpoints alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from generality.weights.checkpoint_stream import Checkpoint, TensorSpec
from generality.weights.stored_numbers import stored, wide_dtype, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

PIECE = 1 << 16  # elements: of float32 a quarter of a megabyte, several stay in a core's cache


def specs_of(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Dtype and shape by name, of a state dict or an open checkpoint."""
    known = getattr(tensors, "specs", None)
    if known is not None:
        return dict(known)
    return {name: spec_of(tensors, name) for name in tensors}


def spec_of(tensors: Mapping[str, Tensor], name: str) -> TensorSpec:
    """Dtype and shape of one of them."""
    known = getattr(tensors, "specs", None)
    if known is not None:
        found: TensorSpec = known[name]
        return found
    return TensorSpec(tensors[name].dtype, tuple(tensors[name].shape))  # type: ignore[arg-type]


def compare_specs(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Raises a `ValueError` that names the first difference of names or shapes."""
    mine, theirs = specs_of(first), specs_of(second)
    for name in [*mine, *theirs]:
        if name not in mine or name not in theirs:
            raise ValueError(f"'{name}' is in one of the models only")
        if mine[name].shape != theirs[name].shape:
            raise ValueError(
                f"'{name}' has the shape {mine[name].shape} in one model and "
                f"{theirs[name].shape} in another"
            )
        if mine[name].floating != theirs[name].floating:
            raise ValueError(f"'{name}' holds integers in one model and not in another")


def flat_pieces(
    source: Any, name: str | None = None, size: int = PIECE
) -> Iterator[NDArray[np.floating[Any]]]:
    """A tensor's numbers in order, in float32 at least, `size` at a time.

    Args:
        source: a tensor; or a state dict or open checkpoint, of which no more than a piece is in
            memory.
        name: of the tensor in it.
    """
    at = 0
    while True:
        held, dtype = held_numbers(source, name, at, at + size)
        if at and not len(held):
            return
        yield widen(held, dtype, np.empty(len(held), wide_dtype(dtype)))
        at += size


def held_numbers(
    source: Any, name: str | None, begin: int = 0, end: int | None = None
) -> tuple[NDArray[Any], str]:
    """Some of a tensor's numbers as they are stored, and the name of what they are."""
    if isinstance(source, Checkpoint):
        assert name is not None
        return source.numbers(name, begin, end)
    held, dtype = stored(source if name is None else source[name])
    return held[begin:end], dtype
