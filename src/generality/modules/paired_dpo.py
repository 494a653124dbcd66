"""Direct preference optimisation of a causal language model in the lab's training loop."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.lab import Lab, TrainConfig, TunedLM
from generality.lab.generate import Network
from generality.models.prompt_response import encode_response
from generality.objectives.preference_losses import dpo_loss


class PairedDPO(nn.Module):
    """A language model and its frozen copy; called with a chosen and a rejected response, the loss.

    Args:
        model: the policy, trained in place; its copy at this moment is the reference.
        beta: how strongly the policy is kept near the reference, above 0.
    """

    def __init__(self, model: nn.Module, beta: float = 0.1) -> None:
        super().__init__()
        self.model, self.beta = model, beta
        self.reference = copy.deepcopy(model).requires_grad_(False)

    def forward(
        self,
        input_ids: Int[Tensor, "batch chosen"],
        attention_mask: Int[Tensor, "batch chosen"],
        labels: Int[Tensor, "batch chosen"],
        rejected_ids: Int[Tensor, "batch rejected"],
        rejected_counted: Int[Tensor, "batch rejected"],
    ) -> Float[Tensor, ""]:
        """Mean loss of the pairs, in nats; `rejected_counted` is 1 on the response's tokens."""
        counted = (labels != -100).long()
        with torch.no_grad():
            reference_chosen = _log_probability(self.reference, input_ids, counted)
            reference_rejected = _log_probability(self.reference, rejected_ids, rejected_counted)
        return dpo_loss(
            _log_probability(self.model, input_ids, counted),
            _log_probability(self.model, rejected_ids, rejected_counted),
            reference_chosen,
            reference_rejected,
            beta=self.beta,
        ).mean()


def dpo_tune(
    lab: Lab,
    network: Network,
    pairs: Sequence[Mapping[str, Any]],
    *,
    tokenizer: Any,
    weights: Mapping[str, Tensor],
    config: TrainConfig,
    seed: int,
    beta: float = 0.1,
) -> TunedLM:
    """A language model tuned on preference pairs by the lab's loop, kept as `Lab.sft` keeps it.

    For models that `trl.DPOTrainer` would be heavy for, or that have no folder of their own. All of
    a batch is one micro-batch, since the loss is a mean over pairs.

    Args:
        pairs: with "prompt", "chosen" and "rejected", as of `preference_pairs`; at least one.
        weights: to begin with, and the reference.
        beta: how strongly the policy is kept near the reference.

    Raises:
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("there are no pairs to tune on")
    rejected = [encode_response(tokenizer, pair["prompt"], pair["rejected"]) for pair in pairs]
    return lab.sft(
        network,
        [pair["prompt"] for pair in pairs],
        [pair["chosen"] for pair in pairs],
        tokenizer=tokenizer,
        config=replace(config, micro_batch_size=config.batch_size),
        seed=seed,
        weights=weights,
        wrap=functools.partial(PairedDPO, beta=beta),
        extra={
            "rejected_ids": [tokens for tokens, _ in rejected],
            "rejected_counted": [
                [0] * start + [1] * (len(tokens) - start) for tokens, start in rejected
            ],
        },
    )


def _log_probability(
    model: nn.Module, tokens: Int[Tensor, "batch length"], counted: Int[Tensor, "batch length"]
) -> Float[Tensor, " batch"]:
    """Sum over the counted tokens; what follows them (padding) is causally without effect."""
    logits = model(input_ids=tokens).logits[:, :-1].float()
    following = tokens[:, 1:, None]
    found = logits.gather(-1, following).squeeze(-1) - logits.logsumexp(-1)
    return (found * counted[:, 1:]).sum(-1)
