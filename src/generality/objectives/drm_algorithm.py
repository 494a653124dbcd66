"""DRM among the algorithms that `replicate_domains` trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from generality.objectives.domain_algorithms import DomainAlgorithm, State
from generality.objectives.domain_penalties import coral_penalty
from generality.objectives.drm_loss import drm_loss


@dataclass(frozen=True, kw_only=True)
class DRMAlgorithm(DomainAlgorithm):
    """A head for each domain and a global one, written as one wide linear head.

    The network's head has (domains + 1) · classes outputs: the logits of the first domain's head,
    …, those of the last, those of the global one. See `drm_loss`. Source: Zhang et al. 2023
    (arXiv 2208.08661). A `coral_weight` above 0 adds CORAL's penalty on the features, so that the
    heads stand on an invariant learner.

    >>> logits = torch.tensor([[[0.9, 0.1, 0.6, 0.4]]]).log()  # one domain, one row, two heads
    >>> target = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    >>> loss, _ = DRMAlgorithm(name="DRM").loss(logits, target, logits, {}, {}, torch.tensor(0.0))
    >>> round(loss.item(), 4)  # −(ln 0.9 + ln 0.6) / 2
    0.3081
    """

    coral_weight: float = 0.0

    def loss(
        self,
        logits: Float[Tensor, "domains batch outputs"],
        targets: Float[Tensor, "domains batch outputs"],
        features: Float[Tensor, "domains batch features"],
        state: State,
        hyper: State,
        progress: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], State]:
        """The loss of one step; only the first `classes` columns of the targets are in use."""
        domains, batch, outputs = logits.shape
        classes = outputs // (domains + 1)
        heads = logits.reshape(domains * batch, domains + 1, classes).movedim(1, 0)
        wanted = targets[..., :classes].reshape(domains * batch, classes)
        own = torch.eye(domains, device=logits.device).repeat_interleave(batch, 0)
        risk = drm_loss(heads, wanted, own)
        if self.coral_weight:
            risk = risk + self.coral_weight * coral_penalty(None, None, features)
        return risk, state
