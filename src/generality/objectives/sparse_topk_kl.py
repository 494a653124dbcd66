"""Distillation from the few token probabilities that a teacher gave."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def sparse_topk_kl(
    logits: Float[Tensor, "*batch vocabulary"],
    topk_ids: Int[Tensor, "*batch k"],
    topk_probs: Float[Tensor, "*batch k"],
    mask: Bool[Tensor, "*batch"] | None = None,
    *,
    released_behaviour: bool = False,
) -> Float[Tensor, ""]:
    """Mean over tokens of KL(teacher ‖ student) in nats, with the teacher's mass on k tokens.

    Only the k log-probabilities are formed: no (…, vocabulary) targets, no full log-softmax kept.
    Logits are those that predict the token at the same place (the model's, shifted by one). With
    all mass on one token it is the negative log-likelihood. Targets come from a teacher with the
    same tokenizer, or through `generality.models.project_topk`.

    Source: Fu et al. 2023 (arXiv 2301.12726), "distribution matching".

    Args:
        logits: of the student.
        topk_ids: tokens; where the probability is 0 any valid id.
        topk_probs: their probabilities, normalised here to sum to 1; a token whose sum is 0 has
            no target and does not count.
        mask: False for tokens that do not count.
        released_behaviour: as the authors' code: no normalisation, and sum p·log(p/(q + 1e-10) +
            1e-10), which is low by what the top k leave out.

    >>> import torch
    >>> student = torch.tensor([[0.5, 0.3, 0.2]]).log()
    >>> ids, probs = torch.tensor([[0, 1]]), torch.tensor([[0.7, 0.2]])
    >>> round(sparse_topk_kl(student, ids, probs).item(), 6)
    0.276958
    """
    total = topk_probs.sum(-1)
    counted = total > 0 if mask is None else mask & (total > 0)
    logits, ids, probs = logits[counted].float(), topk_ids[counted], topk_probs[counted].float()
    log_q = logits.gather(-1, ids) - logits.logsumexp(-1, keepdim=True)
    if released_behaviour:
        ratio = probs / (log_q.exp() + 1e-10)
        return (probs * (ratio + 1e-10).log()).sum(-1).sum() / max(len(probs), 1)
    probs = probs / probs.sum(-1, keepdim=True)
    log_p = probs.clamp(min=1e-30).log()
    return (probs * (log_p - log_q)).sum(-1).sum() / max(len(probs), 1)


class TopkDistillation(nn.Module):
    """A causal language model whose forward pass is `sparse_topk_kl` towards a teacher's top k.

    For `Lab.sft(…, wrap=TopkDistillation, extra={"topk_ids": …, "topk_probs": …})` or a trainer of
    yours: it takes a batch with these two columns, (batch, tokens, k), beside input_ids. Row t
    holds the targets of token t itself; rows of zeros, such as the prompt's, do not count.

    >>> import torch
    >>> from generality.models import tiny_decoder
    >>> model = TopkDistillation(tiny_decoder("0.05M", vocabulary=9))
    >>> ids, probs = torch.tensor([[[0], [4], [2]]]), torch.tensor([[[0.0], [1.0], [1.0]]])
    >>> tokens, labels = torch.tensor([[1, 4, 2]]), torch.tensor([[-100, 4, 2]])
    >>> loss = model(input_ids=tokens, labels=labels, topk_ids=ids, topk_probs=probs)
    >>> bool(loss.isclose(model.model(tokens, labels=labels).loss))
    True
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        topk_ids: Int[Tensor, "batch tokens k"],
        topk_probs: Float[Tensor, "batch tokens k"],
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        labels: Int[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, ""]:
        """The mean over tokens that have a target; `labels` are not used."""
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return sparse_topk_kl(logits[:, :-1], topk_ids[:, 1:].long(), topk_probs[:, 1:])
