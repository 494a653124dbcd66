"""A language model under a preference loss, perhaps with a reward for going against the truth."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from generality.lab import Lab, TrainConfig, TunedLM
from generality.lab.generate import Network
from generality.measures.response_logprob import token_logprobs
from generality.models.prompt_response import encode_response
from generality.objectives.preference_losses import dpo_loss, simpo_loss


class PreferencePolicy(nn.Module):
    """A policy that learns which of two responses is preferred, by DPO or SimPO.

    With `conflict` above 0 it also serves a goal against the target: every pair that it now ranks
    against the truth adds conflict · the same loss with the responses in the order it ranks them
    (the truly rejected one preferred), a mean over the whole batch as in `ConflictLoss`. It ranks
    by the log-probability that its loss is about: summed for DPO, per token for SimPO.

    Args:
        model: a causal language model of transformers, trained in place.
        kind: "dpo", whose reference is a frozen copy of the model as it is now, or "simpo".
        beta: of the loss; None is the paper's 0.1 for DPO and 2.0 for SimPO.
        gamma: of SimPO.
        conflict: weight of the conflicting reward, at least 0; needs `truly` in the batch.

    Source: Yang et al. 2025 (arXiv 2406.11431), preference optimisation; the losses as of
    `dpo_loss` and `simpo_loss`.
    """

    def __init__(
        self,
        model: nn.Module,
        kind: Literal["dpo", "simpo"] = "dpo",
        *,
        beta: float | None = None,
        gamma: float = 1.0,
        conflict: float = 0.0,
    ) -> None:
        super().__init__()
        if kind not in ("dpo", "simpo") or conflict < 0:
            raise ValueError(
                f"kind is dpo or simpo and conflict at least 0, not {kind}, {conflict}"
            )
        self.model, self.kind, self.gamma, self.conflict = model, kind, gamma, conflict
        self.beta = beta if beta is not None else {"dpo": 0.1, "simpo": 2.0}[kind]
        frozen = copy.deepcopy(model).requires_grad_(False).eval() if kind == "dpo" else None
        self.reference = frozen

    def forward(
        self,
        input_ids: Int[Tensor, "batch chosen"],
        attention_mask: Int[Tensor, "batch chosen"],
        labels: Int[Tensor, "batch chosen"],
        rejected_ids: Int[Tensor, "batch rejected"],
        rejected_counted: Int[Tensor, "batch rejected"],
        truly: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean loss of the pairs, in nats.

        `input_ids` is prompt and preferred response, `labels` -100 where there is no response;
        `rejected_counted` is 1 on the other response's tokens; `truly` is 1 where the preferred
        one is the truly better one.
        """
        pair = (input_ids, (labels != -100).long()), (rejected_ids, rejected_counted)
        first, second = (self._log_probability(self.model, *each) for each in pair)
        known: list[Tensor] = []
        if self.reference is not None:
            with torch.no_grad():
                known = [self._log_probability(self.reference, *each) for each in pair]
        loss = self._loss(first, second, *known).mean()
        if not self.conflict:
            return loss
        if truly is None:
            raise ValueError("a conflict needs to be told which response is truly better")
        prefers = (first > second).detach()
        contrary = prefers != truly.bool()
        further = torch.where(
            prefers, self._loss(first, second, *known), self._loss(second, first, *known[::-1])
        )
        return loss + self.conflict * (contrary * further).mean()

    def _loss(self, chosen: Tensor, rejected: Tensor, *known: Tensor) -> Tensor:
        if self.kind == "dpo":
            return dpo_loss(chosen, rejected, *known, beta=self.beta)
        return simpo_loss(chosen, rejected, beta=self.beta, gamma=self.gamma)

    def _log_probability(self, model: nn.Module, tokens: Tensor, counted: Tensor) -> Tensor:
        """Summed over the response, per token for SimPO; padding after it has no effect."""
        found = token_logprobs(model(input_ids=tokens).logits[:, :-1], tokens[:, 1:])
        of_response = counted[:, 1:]
        summed = (found * of_response).sum(-1)
        return summed if self.kind == "dpo" else summed / of_response.sum(-1)


def prefer(
    lab: Lab,
    network: Network,
    prompts: Sequence[str],
    chosen: Sequence[str],
    rejected: Sequence[str],
    *,
    tokenizer: Any,
    weights: Mapping[str, Tensor],
    config: TrainConfig,
    seed: int,
    truly: Sequence[bool] | None = None,
    **options: Any,
) -> TunedLM:
    """A small language model tuned on preferences by the lab's loop, kept as `Lab.sft` keeps it.

    At real scale `preference_trainer` has `trl` do it. A batch is one micro-batch, as the loss is a
    mean over pairs.

    Args:
        prompts: one a pair.
        chosen: what is preferred, by whoever labels.
        rejected: the other.
        weights: to begin with, and DPO's reference.
        truly: whether the preferred one is the truly better one; only a conflict needs it.
        options: of `PreferencePolicy`.
    """
    pairs = [encode_response(tokenizer, *each) for each in zip(prompts, rejected, strict=True)]
    extra: dict[str, Any] = {
        "rejected_ids": [tokens for tokens, _ in pairs],
        "rejected_counted": [[0] * start + [1] * (len(t) - start) for t, start in pairs],
    }
    if truly is not None:
        extra["truly"] = [int(each) for each in truly]
    return lab.sft(
        network, prompts, chosen, tokenizer=tokenizer, weights=weights, seed=seed, extra=extra,
        config=replace(config, micro_batch_size=config.batch_size),
        wrap=functools.partial(PreferencePolicy, **options),
    )  # fmt: skip
