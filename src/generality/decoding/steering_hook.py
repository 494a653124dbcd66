"""A model whose activations are pushed in one direction while it writes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Literal, Self

from jaxtyping import Float
from torch import Tensor, nn

from generality.decoding.steering_vector import blocks_of, check_layer, on_output


class SteeringHook:
    """Add `beta` times a vector to a layer's output, as long as the context is open.

    With "generated" every new token is steered and, of the prompt, the last one, from which the
    first is written: earlier activations stay as they were, those changed stay in the cache.

    Args:
        model: any transformer with a list of blocks.
        layer: 0 the embeddings, l the output of block l.
        vector: added; as wide as the activations.
        beta: how often; 0 changes nothing.
        positions: "generated", with prompts padded on the left if at all; or "all".
        cached: the model keeps keys and values, as `generate` does by default: then several tokens
            at once are a new prompt. Without a cache a call with one token more than the last goes
            on with the same text, and all that was steered is steered again.

    Raises:
        ValueError: a layer that is not there, a vector of another width (at the first call).

    Source: Rahn et al. 2024 (arXiv 2406.00244), section 4.

    >>> import torch
    >>> from generality.models import tiny_decoder
    >>> model = tiny_decoder("0.05M", vocabulary=20).eval()
    >>> ids = torch.tensor([[1, 5, 6]])
    >>> with SteeringHook(model, 1, torch.ones(48), beta=2.0):
    ...     steered = model(ids).logits
    >>> (steered != model(ids).logits).any(-1).tolist()
    [[False, False, True]]
    """

    def __init__(
        self,
        model: nn.Module,
        layer: int,
        vector: Float[Tensor, " dim"],
        beta: float = 1.0,
        *,
        positions: Literal["generated", "all"] = "generated",
        cached: bool = True,
    ) -> None:
        self.blocks, self.layer, self.vector, self.beta = blocks_of(model), layer, vector, beta
        check_layer(self.blocks, layer)
        self.positions, self.cached = positions, cached
        self._length = self._start = 0
        self._context: AbstractContextManager[None] | None = None

    def __enter__(self) -> Self:
        self._length = 0
        self._context = on_output(self.blocks, self.layer, self._steer)
        self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._context is not None:
            self._context.__exit__(kind, error, trace)
            self._context = None

    def _steer(self, states: Float[Tensor, "batch n dim"]) -> Tensor | None:
        if self.beta == 0:
            return None
        if states.shape[-1] != len(self.vector):
            raise ValueError(
                f"the vector has {len(self.vector)} numbers, the layer {states.shape[-1]}"
            )
        length = states.shape[-2]
        if self.positions == "all" or length == 1:
            start = 0
        elif not self.cached and length == self._length + 1:
            start = self._start
        else:
            start = self._start = length - 1
        self._length = length
        added = self.beta * self.vector.to(states)
        steered = states.clone()
        steered[..., start:, :] += added
        return steered
