"""Training losses and regularisers.

What belongs here: a function or `nn.Module` from logits (and targets) to a scalar, ten lines
where ten do, usable in any training loop. What does not: anything that owns a model, an
optimiser or data. To add one: a file named after the loss, its paper and equation in the
docstring, a parity test against the paper's own numbers, a line in `__all__`.

Losses that know how far training has come take it as `progress` in [0, 1]. All of them work
under `torch.func.vmap`, so that many replicas can train together; those that remember earlier
batches (`SelfDistillation`) do not.
"""

from generality.objectives.compatible_update import (
    UPDATE_LOSSES,
    CompatibleUpdate,
    OutputEnsemble,
    UpdateObjective,
    copy_adapter,
    update_targets,
)
from generality.objectives.confidence import ConfidenceLoss
from generality.objectives.conflict_loss import ConflictLoss, conflict_targets
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
from generality.objectives.ewc_anchor import EWCAnchor
from generality.objectives.fused_targets import FusionLoss, fuse_distributions
from generality.objectives.knn_nll import knn_nll, neighbour_vote
from generality.objectives.member_cross_entropy import member_cross_entropy
from generality.objectives.mk_mmd import mk_mmd
from generality.objectives.multi_target import MultiTargetLoss
from generality.objectives.orthogonal_group_loss import orthogonal_group_loss
from generality.objectives.past_predictions import (
    PastPredictionTable,
    ProgressiveTargets,
    SelfDistillation,
    gradient_rescale,
    indexed,
    progressive_targets,
)
from generality.objectives.policy_gradient import grpo_advantages, token_policy_loss
from generality.objectives.preference_losses import dpo_loss, pairwise_reward_loss, simpo_loss
from generality.objectives.product import ProductLoss
from generality.objectives.reverse_grad import ReverseGrad, dann_alpha
from generality.objectives.soft_cross_entropy import soft_cross_entropy
from generality.objectives.sparse_topk_kl import TopkDistillation, sparse_topk_kl
from generality.objectives.token_masked_kd import focal_distillation, token_masked_kd

__all__ = [
    "ALGORITHMS",
    "UPDATE_LOSSES",
    "CompatibleUpdate",
    "ConfidenceLoss",
    "ConflictLoss",
    "DBATLoss",
    "DivDisLoss",
    "EWCAnchor",
    "FusionLoss",
    "MultiTargetLoss",
    "OutputEnsemble",
    "PastPredictionTable",
    "ProductLoss",
    "ProgressiveTargets",
    "ReverseGrad",
    "SelfDistillation",
    "TopkDistillation",
    "UpdateObjective",
    "conflict_targets",
    "copy_adapter",
    "coral",
    "dann_alpha",
    "domain_penalty",
    "domain_risks",
    "dpo_loss",
    "drm_loss",
    "focal_distillation",
    "fuse_distributions",
    "gradient_rescale",
    "group_dro",
    "grpo_advantages",
    "indexed",
    "knn_nll",
    "member_cross_entropy",
    "mixup",
    "mk_mmd",
    "neighbour_vote",
    "orthogonal_group_loss",
    "pairwise_reward_loss",
    "penalised",
    "progressive_targets",
    "simpo_loss",
    "soft_cross_entropy",
    "sparse_topk_kl",
    "token_masked_kd",
    "token_policy_loss",
    "update_targets",
]
