"""Classifiers over features, as scikit-learn estimators.

What belongs here: a class with `fit`, `predict` and `predict_proba` (or `partial_fit`) that passes
`check_estimator` as far as it applies, so that it works in pipelines and searches; and protocols
that put any such estimators together. What does not: networks that are tuned whole (the lab's
`finetune`), losses (`objectives`). To add one: a file named after it, paper and equation in the
docstring, a line in `tests/test_estimators.py` for scikit-learn's checks, a line in `__all__`.
"""

from generality.estimators.adanpc import AdaNPC, AdaNPCAdapter, AdaNPCBatchNorm, score_threshold
from generality.estimators.architecture_search import (
    SearchPlan,
    search_architecture,
    search_ranking_gap,
)
from generality.estimators.disambiguate import Disambiguation, disambiguate, picked_accuracy
from generality.estimators.diverse_beliefs import diverse_beliefs, labelling_agreement
from generality.estimators.drm import (
    DiscriminatorSelector,
    DomainHeads,
    DomainSelector,
    EntropySelector,
    PrototypeSelector,
    PseudoLabelRefit,
    adaptivity_gap,
)
from generality.estimators.drm_rules import combine_domain_heads
from generality.estimators.ensemble_search import (
    SupernetPlan,
    one_shot_accuracy,
    search_ensemble,
    train_supernet,
)
from generality.estimators.evolution_search import evolution_search
from generality.estimators.fact_debaters import FactDebaters
from generality.estimators.feature_ids import logistic_ids, nearest_mean_ids, own_domain_ids
from generality.estimators.feature_memory import FeatureMemory
from generality.estimators.federated_vote import federated_vote
from generality.estimators.federation import Federation, Round, fedavg
from generality.estimators.fedka import FederatedVoting, FedKAClient
from generality.estimators.fine_tune_strategies import ClusterRoute, Global, Local, NearestAugment
from generality.estimators.gradient_boosted_head import (
    GradientBoostedHead,
    GradientBoostedHeadRegressor,
)
from generality.estimators.guidance_training import GuidancePlan, train_guidance
from generality.estimators.hypotheses import Hypotheses, fit_dbat, fit_divdis
from generality.estimators.invariant_projections import invariant_projections
from generality.estimators.linear_head import as_head
from generality.estimators.made_text_probe import made_text_probe
from generality.estimators.meta_train import MetaHistory, MetaTask, adapt, meta_train
from generality.estimators.probe_ladder import ProbeLadder
from generality.estimators.prompt_learner import (
    MetaPlan,
    PromptSpace,
    learn_prompt,
    name_scores,
    tune_prompt,
)
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
from generality.estimators.rich_start import (
    RichPlan,
    construct_starts,
    train_from,
    train_plain,
)
from generality.estimators.shortcut_remedies import fit_remedy
from generality.estimators.shot import SHOT
from generality.estimators.shrinking_sampler import ShrinkingSampler, combo_diversity
from generality.estimators.simplicity_numbers import remedy_numbers, simplicity_numbers
from generality.estimators.site_strategies import site_scores
from generality.estimators.site_tuning import tune_for_site
from generality.estimators.skill_experts import (
    adapter_conflict,
    merge_experts,
    train_skill_experts,
    with_adapter,
)
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
from generality.estimators.test_time_arms import TrueLabels, adapter_of, follow_streams
from generality.estimators.train_steps import train_steps
from generality.estimators.view_training import ViewTraining, craft_views, one_copy, view_network
from generality.estimators.ways_to_tune import ways_to_tune
from generality.estimators.weak_to_strong import WeakToStrong, bootstrap_chain
from generality.estimators.writer import Writer

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
    "FactDebaters",
    "FeatureMemory",
    "FedKAClient",
    "FederatedVoting",
    "Federation",
    "Global",
    "GradientBoostedHead",
    "GradientBoostedHeadRegressor",
    "GuidancePlan",
    "Hypotheses",
    "Local",
    "MetaHistory",
    "MetaPlan",
    "MetaTask",
    "NearestAugment",
    "OnlineScore",
    "ProbeLadder",
    "PromptSpace",
    "PrototypeSelector",
    "PseudoLabel",
    "PseudoLabelRefit",
    "RichPlan",
    "Round",
    "SearchPlan",
    "ShrinkingSampler",
    "SoftLabelEnsemble",
    "SoftProbe",
    "SupernetPlan",
    "Tent",
    "TestTimeAdapter",
    "TrueLabels",
    "UnusableFeatures",
    "ViewTraining",
    "WeakToStrong",
    "Writer",
    "adapt",
    "adapter_conflict",
    "adapter_of",
    "adaptivity_gap",
    "agreement_rows",
    "as_head",
    "bootstrap_chain",
    "combine_domain_heads",
    "combine_soft_labels",
    "combo_diversity",
    "construct_starts",
    "correctness_groups",
    "craft_views",
    "disambiguate",
    "discover",
    "distill_multi_head",
    "diverse_beliefs",
    "evaluate_online",
    "evolution_search",
    "fedavg",
    "federated_vote",
    "fit_dbat",
    "fit_divdis",
    "fit_group_dro",
    "fit_penalised",
    "fit_remedy",
    "follow_streams",
    "hand_over",
    "invariant_projections",
    "labelling_agreement",
    "learn_prompt",
    "logistic_ids",
    "made_text_probe",
    "mean_head",
    "merge_experts",
    "meta_train",
    "name_scores",
    "nearest_mean_ids",
    "one_copy",
    "one_shot_accuracy",
    "own_domain_ids",
    "picked_accuracy",
    "predict_then_interpolate",
    "probe_beliefs",
    "remedy_numbers",
    "score_threshold",
    "search_architecture",
    "search_ensemble",
    "search_ranking_gap",
    "simplicity_numbers",
    "site_scores",
    "split_by_correctness",
    "train_from",
    "train_guidance",
    "train_plain",
    "train_skill_experts",
    "train_steps",
    "train_supernet",
    "tune_for_site",
    "tune_prompt",
    "view_network",
    "ways_to_tune",
    "with_adapter",
]
