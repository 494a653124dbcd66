"""Numbers about a model, its predictions, its data or its gradients.

What belongs here: a plain function from predictions (or a model and data) to a number or a small
frozen dataclass of numbers; one that streams over batches is a `torchmetrics.Metric`. What does
not: anything that trains, and shares of a gap, which live in `generality.gap`. To add one: a file
named after the number, its unit, range and source in the docstring, a test against values
computed by hand, a line in `__all__`.
"""

from generality.measures.accuracy import accuracy, harden
from generality.measures.agreement import Agreement, student_supervisor_agreement
from generality.measures.agreement_score import agreement_score, hypothesis_similarity
from generality.measures.augmented_validation import augmented_validation
from generality.measures.base_to_new import BaseToNew, base_to_new, harmonic_mean
from generality.measures.calibration import ece
from generality.measures.domain_overlap import domain_overlap
from generality.measures.failure_drivers import failure_drivers
from generality.measures.flips import FlipReport, flip_report
from generality.measures.group_effect import group_effect, negative_transfer
from generality.measures.group_table import GroupAudit, auc_interval, delong
from generality.measures.invariance import (
    Moments,
    invariance_residual,
    invariant_subsets,
    violation_rates,
)
from generality.measures.kfold_by_category import kfold_by_category
from generality.measures.pac import pac_environments, pac_gamma
from generality.measures.randomized_score import (
    RandomizedScores,
    randomized_score,
    roc_auc,
    simplicity_bias_index,
)
from generality.measures.selection_report import CriterionReport, selection_report
from generality.measures.shift_report import PairedComparison, ShiftReport, wilson_interval
from generality.measures.single_source_matrix import single_source_matrix
from generality.measures.subspace_overlap import subspace_overlap
from generality.measures.truncation_curve import TruncationPoint, truncation_curve
from generality.measures.two_level_bound import proxy_discrepancy, two_level_bound
from generality.measures.universal_perturbation import (
    UniversalPerturbation,
    pgd_attack,
    universal_perturbation,
)
from generality.measures.view_contributions import ViewContributions, view_contributions

__all__ = [
    "Agreement",
    "BaseToNew",
    "CriterionReport",
    "FlipReport",
    "GroupAudit",
    "Moments",
    "PairedComparison",
    "RandomizedScores",
    "ShiftReport",
    "TruncationPoint",
    "UniversalPerturbation",
    "ViewContributions",
    "accuracy",
    "agreement_score",
    "auc_interval",
    "augmented_validation",
    "base_to_new",
    "delong",
    "domain_overlap",
    "ece",
    "failure_drivers",
    "flip_report",
    "group_effect",
    "harden",
    "harmonic_mean",
    "hypothesis_similarity",
    "invariance_residual",
    "invariant_subsets",
    "kfold_by_category",
    "negative_transfer",
    "pac_environments",
    "pac_gamma",
    "pgd_attack",
    "proxy_discrepancy",
    "randomized_score",
    "roc_auc",
    "selection_report",
    "simplicity_bias_index",
    "single_source_matrix",
    "student_supervisor_agreement",
    "subspace_overlap",
    "truncation_curve",
    "two_level_bound",
    "universal_perturbation",
    "view_contributions",
    "violation_rates",
    "wilson_interval",
]
