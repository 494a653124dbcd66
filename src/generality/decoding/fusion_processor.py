"""Fusion as a logits processor: experts beside any model's own `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.decoding.logit_fusion import FusionStrategy, StaticFusion, fuse_weighted
from generality.decoding.members import Members


class FusionLogitsProcessor:
    """Moves the logits of the model that is writing, as experts moved from their bases.

    Give it to any `model.generate(..., logits_processor=[processor])`. It runs the experts on what
    was written, with their own caches, and follows the rows of a beam search. Each text that does
    not go on from the last one it saw begins anew, so it may be used again.

    Args:
        experts: tuned small models, with the tokens of the model that writes.
        bases: what each was tuned from; None for an expert whose logits are added as they are.
        strategy: `StaticFusion(1.0)` unless given.
        attention_mask: of the prompts, where they are padded on the left.
        pad_token_id: instead of a mask: the token that prompts are padded with, at their left.
        large: the model that writes, when it has a second role as a base. Its logits are then
            taken from what `generate` computes, so other processors must come after this one.

    Attributes:
        weights: of the experts, at the last token: (batch, experts).

    >>> from generality.models import tiny_decoder
    >>> large, base, tuned = (tiny_decoder("0.05M", seed, vocabulary=60) for seed in range(3))
    >>> processor = FusionLogitsProcessor([tuned], [base])
    >>> prompt = torch.tensor([[1, 7, 9]])
    >>> large.generate(prompt, max_new_tokens=4, logits_processor=[processor]).shape
    torch.Size([1, 7])
    """

    def __init__(
        self,
        experts: Sequence[nn.Module],
        bases: Sequence[nn.Module | None] | None = None,
        strategy: FusionStrategy | None = None,
        *,
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        pad_token_id: int | None = None,
        large: nn.Module | None = None,
    ) -> None:
        roles = [*experts, *([None] * len(experts) if bases is None else bases)]
        if not experts or len(roles) != 2 * len(experts):
            raise ValueError(f"{len(experts)} experts and {len(roles) - len(experts)} bases")
        self._large = [model is not None and model is large for model in roles]
        others = [None if same else model for model, same in zip(roles, self._large, strict=True)]
        self.members = Members(others)
        self.strategy = strategy or StaticFusion()
        self.weights: Tensor | None = None
        self._prompt_mask, self._pad = attention_mask, pad_token_id
        self._seen: Tensor | None = None
        self._mask = torch.empty(0)
        self._caches: list[Any] = []

    @torch.no_grad()
    def __call__(
        self, input_ids: Int[Tensor, "batch tokens"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        """Log-probabilities of the next token, fused."""
        rows, known = self._rows(input_ids), 0
        if self._seen is None or rows is None:
            self._caches, self._mask = self.members.new_caches(), self._first_mask(input_ids)
        else:
            known = self._seen.shape[1]
            if not torch.equal(rows, torch.arange(len(self._seen), device=rows.device)):
                self._mask = self._mask[rows]
                for cache in self._caches:
                    cache.batch_select_indices(rows)
        new = input_ids.shape[1] - self._mask.shape[1]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(input_ids), new)], 1)
        found = self.members(input_ids[:, known:], self._mask, self._caches, 1)
        self._seen = input_ids
        logits = [
            scores if same else None if each is None else each[:, -1]
            for each, same in zip(found, self._large, strict=True)
        ]
        half = len(logits) // 2
        experts = [each for each in logits[:half] if each is not None]
        fused, self.weights = fuse_weighted(scores, experts, logits[half:], self.strategy)
        return fused.log_softmax(-1).to(scores.dtype)  # beam search adds these up as they are

    def _rows(self, input_ids: Tensor) -> Tensor | None:
        """For each row, one of the last call that it goes on from; None: another text."""
        if self._seen is None or input_ids.shape[1] <= self._seen.shape[1]:
            return None
        prefix = input_ids[:, : self._seen.shape[1]]
        if prefix.shape == self._seen.shape and torch.equal(prefix, self._seen):
            return torch.arange(len(prefix), device=prefix.device)
        same = (prefix[:, None] == self._seen[None]).all(-1)  # beams change places
        return same.int().argmax(1) if bool(same.any(1).all()) else None

    def _first_mask(self, input_ids: Tensor) -> Tensor:
        if self._prompt_mask is not None:
            times, rest = divmod(len(input_ids), len(self._prompt_mask))  # beams, return sequences
            if rest or self._prompt_mask.shape[1] > input_ids.shape[1]:
                raise ValueError(
                    f"a mask of {tuple(self._prompt_mask.shape)} for tokens of "
                    f"{tuple(input_ids.shape)}"
                )
            return self._prompt_mask.to(input_ids).repeat_interleave(times, 0)
        if self._pad is not None:
            return ((input_ids != self._pad).cumsum(1) > 0).to(input_ids)
        return torch.ones_like(input_ids)
