"""Several causal language models that read the same tokens, each with its own cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn


class Members(nn.Module):
    """Models in the order of their roles; one that has several roles runs once.

    Args:
        roles: a model for each role; None where a role is empty.
    """

    def __init__(self, roles: Sequence[nn.Module | None]) -> None:
        super().__init__()
        unique = {id(model): model for model in roles if model is not None}
        place = {key: number for number, key in enumerate(unique)}
        self.models = nn.ModuleList(unique.values())
        self.roles = [None if model is None else place[id(model)] for model in roles]

    def model(self, role: int) -> Any:
        """The model in a role, or None."""
        place = self.roles[role]
        return None if place is None else self.models[place]

    def new_caches(self) -> list[Any]:
        """An empty cache of keys and values for each model."""
        from transformers import DynamicCache

        return [DynamicCache() for _ in self.models]

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch all_tokens"],
        caches: Sequence[Any] | None = None,
        logits_to_keep: int | Tensor = 0,
    ) -> list[Tensor | None]:
        """Logits of each role, (batch, tokens, vocabulary); None where it is empty.

        Args:
            input_ids: tokens that the caches do not hold yet.
            attention_mask: over the tokens in the caches and these; 0 for padding.
            caches: of `new_caches`, to which these tokens are added; None: no cache.
            logits_to_keep: as transformers has it: 0 all, n the last n, or the places themselves.
        """
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        found = []
        for place, model in enumerate(self.models):
            first = next(model.parameters())
            trained = torch.is_grad_enabled() and any(x.requires_grad for x in model.parameters())
            with torch.set_grad_enabled(trained):
                output = model(
                    input_ids=input_ids.to(first.device),
                    attention_mask=attention_mask.to(first.device),
                    position_ids=positions.to(first.device),
                    past_key_values=None if caches is None else caches[place],
                    use_cache=caches is not None, logits_to_keep=logits_to_keep,
                )  # fmt: skip
            found.append(output.logits.to(input_ids.device))
        return [None if place is None else found[place] for place in self.roles]
