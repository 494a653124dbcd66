"""Distillation from the few token probabilities that a teacher gave."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor


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
