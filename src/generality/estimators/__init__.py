"""Classifiers over features, as scikit-learn estimators.

What belongs here: a class with `fit`, `predict` and `predict_proba` (or `partial_fit`) that passes
`check_estimator` as far as it applies, so that it works in pipelines and searches; and protocols
that put any such estimators together. What does not: networks that are tuned whole (the lab's
`finetune`), losses (`objectives`). To add one: a file named after it, paper and equation in the
docstring, a line in `tests/test_estimators.py` for scikit-learn's checks, a line in `__all__`.
"""

from generality.estimators.adanpc import AdaNPC, AdaNPCAdapter, AdaNPCBatchNorm, score_threshold
from generality.estimators.disambiguate import Disambiguation, disambiguate, picked_accuracy
from generality.estimators.drm import (
    DiscriminatorSelector,
    DomainHeads,
    DomainSelector,
    EntropySelector,
    PrototypeSelector,
    PseudoLabelRefit,
    adaptivity_gap,
)
from generality.estimators.feature_ids import logistic_ids, nearest_mean_ids, own_domain_ids
from generality.estimators.feature_memory import FeatureMemory
from generality.estimators.fine_tune_strategies import ClusterRoute, Global, Local, NearestAugment
from generality.estimators.gradient_boosted_head import (
    GradientBoostedHead,
    GradientBoostedHeadRegressor,
)
from generality.estimators.hypotheses import Hypotheses, fit_dbat, fit_divdis
from generality.estimators.invariant_projections import invariant_projections
from generality.estimators.linear_head import as_head
from generality.estimators.made_text_probe import made_text_probe
from generality.estimators.probe_ladder import ProbeLadder
from generality.estimators.pseudo_label import PseudoLabel
from generality.estimators.rich_features import (
    DiscoveryRound,
    agreement_rows,
    correctness_groups,
    discover,
    distill_multi_head,
    fit_group_dro,
    fit_penalised,
    hand_over,
    mean_head,
    predict_then_interpolate,
    split_by_correctness,
)
from generality.estimators.shot import SHOT
from generality.estimators.soft_label_ensemble import SoftLabelEnsemble, combine_soft_labels
from generality.estimators.soft_probe import SoftProbe, probe_beliefs
from generality.estimators.t3a import T3A
from generality.estimators.tent import Tent
from generality.estimators.test_time import (
    OnlineScore,
    TestTimeAdapter,
    UnusableFeatures,
    evaluate_online,
)
from generality.estimators.weak_to_strong import WeakToStrong, bootstrap_chain

__all__ = [
    "SHOT",
    "T3A",
    "AdaNPC",
    "AdaNPCAdapter",
    "AdaNPCBatchNorm",
    "ClusterRoute",
    "Disambiguation",
    "DiscoveryRound",
    "DiscriminatorSelector",
    "DomainHeads",
    "DomainSelector",
    "EntropySelector",
    "FeatureMemory",
    "Global",
    "GradientBoostedHead",
    "GradientBoostedHeadRegressor",
    "Hypotheses",
    "Local",
    "NearestAugment",
    "OnlineScore",
    "ProbeLadder",
    "PrototypeSelector",
    "PseudoLabel",
    "PseudoLabelRefit",
    "SoftLabelEnsemble",
    "SoftProbe",
    "Tent",
    "TestTimeAdapter",
    "UnusableFeatures",
    "WeakToStrong",
    "adaptivity_gap",
    "agreement_rows",
    "as_head",
    "bootstrap_chain",
    "combine_soft_labels",
    "correctness_groups",
    "disambiguate",
    "discover",
    "distill_multi_head",
    "evaluate_online",
    "fit_dbat",
    "fit_divdis",
    "fit_group_dro",
    "fit_penalised",
    "hand_over",
    "invariant_projections",
    "logistic_ids",
    "made_text_probe",
    "mean_head",
    "nearest_mean_ids",
    "own_domain_ids",
    "picked_accuracy",
    "predict_then_interpolate",
    "probe_beliefs",
    "score_threshold",
    "split_by_correctness",
]
