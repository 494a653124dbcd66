"""What a transformer thinks of a text at one layer, as one vector."""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Pooling = Literal["mean", "last", "cls"]

_BLOCKS = ("layers", "h", "encoder.layer", "encoder.layers", "transformer.layer", "decoder.layers")


class HiddenStatePooler(nn.Module):
    """One vector per text from its tokens' hidden states; padding on either side is left out.

    Args:
        pooling: "mean" of the tokens, the "last" token (decoders), or the first one ("cls").

    Raises:
        ValueError: for any other pooling.

    >>> states = torch.tensor([[[1.0], [2.0], [9.0]]])
    >>> mask = torch.tensor([[1, 1, 0]])
    >>> [HiddenStatePooler(how)(states, mask).item() for how in ("mean", "last", "cls")]
    [1.5, 2.0, 1.0]
    """

    def __init__(self, pooling: Pooling | str = "mean") -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling is one of {', '.join(get_args(Pooling))}, not '{pooling}'")
        self.pooling = pooling

    def forward(
        self,
        hidden: Float[Tensor, "batch tokens dim"],
        mask: Int[Tensor, "batch tokens"] | Bool[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch dim"]:
        """Pool; `mask` is 1 where there is a token. A text of no tokens becomes a vector of 0."""
        if self.pooling == "mean":
            weights = mask.to(hidden.dtype)
            total = torch.einsum("btd,bt->bd", hidden, weights)
            return total / weights.sum(1, keepdim=True).clamp_min(1)
        present = mask.bool()
        first = present.int().argmax(1)
        last = mask.shape[1] - 1 - present.int().flip(1).argmax(1)
        index = last if self.pooling == "last" else first
        picked = hidden[torch.arange(len(hidden), device=hidden.device), index]
        return picked * present.any(1, keepdim=True)

    def extra_repr(self) -> str:
        """The constructor's argument."""
        return f"pooling={self.pooling!r}"


def hidden_state(body: nn.Module, layer: int, **inputs: Any) -> Float[Tensor, "batch tokens dim"]:
    """`body(**inputs, output_hidden_states=True).hidden_states[layer]`, and no work beyond it.

    Args:
        body: a `transformers` model; a head on it is not run.
        layer: 0 is the embeddings, k the output of block k, the last one after the final norm;
            negative numbers count from there.
        inputs: what the body takes: `input_ids`, `attention_mask`, …

    Raises:
        ValueError: a layer that the body does not have.
    """
    body = getattr(body, "base_model", body)
    blocks = _blocks(body)
    index = layer_index(body, layer)
    if "use_cache" in inspect.signature(body.forward).parameters:
        inputs.setdefault("use_cache", False)
    if index == _depth(body):
        return body(**inputs).last_hidden_state
    if blocks is None:  # no early exit for a body of unknown build
        return body(**inputs, output_hidden_states=True).hidden_states[index]

    # what goes into block k (counted from 0) is hidden state k
    handle = blocks[index].register_forward_pre_hook(_stop, with_kwargs=True)
    try:
        body(**inputs)
    except _ReachedError as reached:
        return reached.hidden
    finally:
        handle.remove()
    raise RuntimeError(f"{type(body).__name__} did not run its block {index}")


def layer_index(body: nn.Module, layer: int) -> int:
    """`layer` counted from the embeddings, in [0, number of blocks].

    Raises:
        ValueError: a layer that the body does not have.
    """
    depth = _depth(body)
    if not -depth - 1 <= layer <= depth:
        raise ValueError(f"layer is in [{-depth - 1}, {depth}] for this model, not {layer}")
    return layer % (depth + 1)


class _ReachedError(Exception):
    """Carries the hidden state out of a forward pass that need not go on."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def _stop(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    raise _ReachedError(args[0] if args else kwargs["hidden_states"])


def _depth(body: nn.Module) -> int:
    blocks = _blocks(body)
    config: Any = body.config
    return config.num_hidden_layers if blocks is None else len(blocks)


def _blocks(body: nn.Module) -> nn.ModuleList | None:
    """The stack of blocks, where this kind of body keeps it."""
    for path in _BLOCKS:
        try:
            found = body.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList):
            return found
    return None
