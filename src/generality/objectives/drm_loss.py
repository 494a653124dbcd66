"""Domain-specific risk minimisation: each domain's own head and a shared one learn together."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def drm_loss(
    logits: Float[Tensor, "heads batch classes"],
    soft_targets: Float[Tensor, "batch classes"],
    domains: Float[Tensor, "batch domains"],
) -> Float[Tensor, ""]:
    """Mean over domains of ½ [CE of the domain's own head + CE of the global head], in nats.

    A domain's head learns from its domain alone, the global one (last, if there is one head more
    than domains) from all; features get both gradients. Domains count alike however many examples
    they have in the batch; one without any counts for nothing. Source: Zhang et al. 2023 (DRM,
    arXiv 2208.08661).

    Args:
        logits: of one head for each domain, in order, and perhaps a global one.
        soft_targets: class distributions, one-hot for labels.
        domains: one-hot.

    >>> import torch
    >>> heads = torch.tensor([[[0.9, 0.1]], [[0.6, 0.4]]]).log()
    >>> label, domain = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0]])
    >>> round(drm_loss(heads, label, domain).item(), 4)  # −(ln 0.9 + ln 0.6) / 2
    0.3081
    """
    count = domains.shape[-1]
    if logits.shape[0] not in (count, count + 1):
        raise ValueError(f"{count} domains need as many heads, or one more, not {len(logits)}")
    risks = -(soft_targets * logits.log_softmax(-1)).sum(-1)
    each = (risks[:count] * domains.T).sum(0)
    if logits.shape[0] > count:
        each = (each + risks[-1]) / 2
    sizes = domains.sum(0)
    present = (sizes > 0).sum()
    return (each * (domains / (sizes.clamp(min=1) * present)).sum(-1)).sum()
