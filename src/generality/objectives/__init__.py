"""Training losses and regularisers.

What belongs here: a function or `nn.Module` from logits (and targets) to a scalar, ten lines
where ten do, usable in any training loop. What does not: anything that owns a model, an
optimiser or data. To add one: a file named after the loss, its paper and equation in the
docstring, a parity test against the paper's own numbers, a line in `__all__`.

Losses that know how far training has come take it as `progress` in [0, 1]. All of them work
under `torch.func.vmap`, so that many replicas can train together.
"""

from generality.objectives.confidence import ConfidenceLoss
from generality.objectives.dbat import DBATLoss
from generality.objectives.divdis import DivDisLoss
from generality.objectives.domain_algorithms import ALGORITHMS
from generality.objectives.domain_penalties import (
    coral,
    domain_penalty,
    domain_risks,
    group_dro,
    mixup,
    penalised,
)
from generality.objectives.drm_loss import drm_loss
from generality.objectives.knn_nll import knn_nll, neighbour_vote
from generality.objectives.mk_mmd import mk_mmd
from generality.objectives.orthogonal_group_loss import orthogonal_group_loss
from generality.objectives.product import ProductLoss
from generality.objectives.reverse_grad import ReverseGrad, dann_alpha
from generality.objectives.soft_cross_entropy import soft_cross_entropy

__all__ = [
    "ALGORITHMS",
    "ConfidenceLoss",
    "DBATLoss",
    "DivDisLoss",
    "ProductLoss",
    "ReverseGrad",
    "coral",
    "dann_alpha",
    "domain_penalty",
    "domain_risks",
    "drm_loss",
    "group_dro",
    "knn_nll",
    "mixup",
    "mk_mmd",
    "neighbour_vote",
    "orthogonal_group_loss",
    "penalised",
    "soft_cross_entropy",
]
