"""Numbers about a model, its predictions, its data or its gradients.

What belongs here: a plain function from predictions (or a model and data) to a number or a small
frozen dataclass of numbers; one that streams over batches is a `torchmetrics.Metric`. What does
not: anything that trains, and shares of a gap, which live in `generality.gap`. To add one: a file
named after the number, its unit, range and source in the docstring, a test against values
computed by hand, a line in `__all__`.
"""

from generality.measures.accuracy import accuracy, harden
from generality.measures.action_entropy import action_entropy
from generality.measures.agreement import Agreement, student_supervisor_agreement
from generality.measures.agreement_score import agreement_score, hypothesis_similarity
from generality.measures.attention_entropy import attention_entropy, attention_rank
from generality.measures.augmented_validation import augmented_validation
from generality.measures.aurc import aurc, excess_aurc, risk_coverage
from generality.measures.base_to_new import BaseToNew, base_to_new, harmonic_mean
from generality.measures.calibration import ece
from generality.measures.calibration_report import (
    CalibrationReport,
    calibration_report,
    temperature_scaled,
)
from generality.measures.capability_ledger import CapabilityLedger, Selected, select_checkpoint
from generality.measures.chosen_elsewhere import chosen_elsewhere
from generality.measures.corpus_audit import (
    CorpusAudit,
    audit_corpus,
    containment,
    duplication,
    jaccard,
    overlap,
)
from generality.measures.deception import (
    CELLS,
    DeceptionReport,
    conflict_tax,
    deception_score,
    knowledge_partition,
    random_push,
)
from generality.measures.dependency_graph_score import category_report, dependency_graph_scores
from generality.measures.discriminative_subset import (
    ItemResponse,
    discriminative_subset,
    item_information,
)
from generality.measures.domain_overlap import domain_overlap
from generality.measures.ensemble_diversity import EnsembleDiversity, ensemble_diversity
from generality.measures.failure_drivers import failure_drivers
from generality.measures.fisher_information import diagonal_fisher
from generality.measures.flips import (
    FlipReport,
    ScoreFlipReport,
    flip_report,
    nfr_floor,
    relative_nfr,
    score_flip_report,
)
from generality.measures.flops import flops
from generality.measures.forgetting_report import ForgettingReport, forgetting_report
from generality.measures.g_vendi import GVendi
from generality.measures.greedy_match import greedy_match
from generality.measures.group_effect import group_effect, negative_transfer
from generality.measures.group_table import GroupAudit, auc_interval, delong
from generality.measures.invariance import (
    Moments,
    invariance_residual,
    invariant_subsets,
    jeffreys_rate,
    kept_violations,
    subset_of,
    violation_rates,
)
from generality.measures.judge_vs_benchmark import Overrating, judge_vs_benchmark
from generality.measures.kfold_by_category import kfold_by_category
from generality.measures.kl_to_base import KLToBase, kl_to_base
from generality.measures.length_scaling import LengthScaling, length_scaling
from generality.measures.margin_labels import margin_labels
from generality.measures.mean_states import MeanStates
from generality.measures.memory_of import MemoryUse, memory_of
from generality.measures.ngram_bits import NGramBits
from generality.measures.operator_diversity import jensen_shannon, operator_diversity
from generality.measures.outcome_metrics import (
    GenerationRisk,
    OutcomeGap,
    OutcomeMetric,
    gap_table,
    generation_risk,
)
from generality.measures.pac import pac_environments, pac_gamma
from generality.measures.pass_at_k import pass_at_k
from generality.measures.per_example_gradients import per_example_gradients
from generality.measures.projected_gradients import ProjectedGradients
from generality.measures.proper_scores import brier, nll, temperature_scale
from generality.measures.rademacher_projector import RademacherProjector
from generality.measures.randomized_score import (
    RandomizedScores,
    randomized_score,
    roc_auc,
    simplicity_bias_index,
)
from generality.measures.rank_correlation import RankCorrelation, rank_correlation
from generality.measures.refit_ceiling import refit_ceiling
from generality.measures.response_logprob import (
    choice_logprobs,
    expected_over_choices,
    response_logprob,
    token_logprobs,
)
from generality.measures.selection_report import CriterionReport, selection_report
from generality.measures.shift_report import PairedComparison, ShiftReport, wilson_interval
from generality.measures.single_source_matrix import single_source_matrix
from generality.measures.solution_diversity import SolutionDiversity, solution_diversity
from generality.measures.step_error_rate import (
    ArithmeticSteps,
    StepJudge,
    outcome_error_rate,
    step_error_rate,
)
from generality.measures.subspace_overlap import subspace_overlap
from generality.measures.synergy import Synergy, synergy
from generality.measures.text_diversity import (
    CompressionRatio,
    DistinctN,
    EmbeddingVendi,
    LabelEntropy,
    MeanPerplexity,
    NGramEntropy,
    word_variety,
)
from generality.measures.token_fertility import tokenizer_fertility, train_bpe
from generality.measures.truncation_curve import TruncationPoint, truncation_curve
from generality.measures.two_level_bound import proxy_discrepancy, two_level_bound
from generality.measures.universal_perturbation import (
    UniversalPerturbation,
    pgd_attack,
    universal_perturbation,
)
from generality.measures.vendi import StreamingVendi, vendi_score
from generality.measures.view_contributions import ViewContributions, view_contributions
from generality.measures.weight_importance import (
    activation_importance,
    dual_importance,
    hessian_importance,
    magnitude_importance,
    taylor_importance,
)

__all__ = [
    "CELLS",
    "Agreement",
    "ArithmeticSteps",
    "BaseToNew",
    "CalibrationReport",
    "CapabilityLedger",
    "CompressionRatio",
    "CorpusAudit",
    "CriterionReport",
    "DeceptionReport",
    "DistinctN",
    "EmbeddingVendi",
    "EnsembleDiversity",
    "FlipReport",
    "ForgettingReport",
    "GVendi",
    "GenerationRisk",
    "GroupAudit",
    "ItemResponse",
    "KLToBase",
    "LabelEntropy",
    "LengthScaling",
    "MeanPerplexity",
    "MeanStates",
    "MemoryUse",
    "Moments",
    "NGramBits",
    "NGramEntropy",
    "OutcomeGap",
    "OutcomeMetric",
    "Overrating",
    "PairedComparison",
    "ProjectedGradients",
    "RademacherProjector",
    "RandomizedScores",
    "RankCorrelation",
    "ScoreFlipReport",
    "Selected",
    "ShiftReport",
    "SolutionDiversity",
    "StepJudge",
    "StreamingVendi",
    "Synergy",
    "TruncationPoint",
    "UniversalPerturbation",
    "ViewContributions",
    "accuracy",
    "action_entropy",
    "activation_importance",
    "agreement_score",
    "attention_entropy",
    "attention_rank",
    "auc_interval",
    "audit_corpus",
    "augmented_validation",
    "aurc",
    "base_to_new",
    "brier",
    "calibration_report",
    "category_report",
    "choice_logprobs",
    "chosen_elsewhere",
    "conflict_tax",
    "containment",
    "deception_score",
    "delong",
    "dependency_graph_scores",
    "diagonal_fisher",
    "discriminative_subset",
    "domain_overlap",
    "dual_importance",
    "duplication",
    "ece",
    "ensemble_diversity",
    "excess_aurc",
    "expected_over_choices",
    "failure_drivers",
    "flip_report",
    "flops",
    "forgetting_report",
    "gap_table",
    "generation_risk",
    "greedy_match",
    "group_effect",
    "harden",
    "harmonic_mean",
    "hessian_importance",
    "hypothesis_similarity",
    "invariance_residual",
    "invariant_subsets",
    "item_information",
    "jaccard",
    "jeffreys_rate",
    "jensen_shannon",
    "judge_vs_benchmark",
    "kept_violations",
    "kfold_by_category",
    "kl_to_base",
    "knowledge_partition",
    "length_scaling",
    "magnitude_importance",
    "margin_labels",
    "memory_of",
    "negative_transfer",
    "nfr_floor",
    "nll",
    "operator_diversity",
    "outcome_error_rate",
    "overlap",
    "pac_environments",
    "pac_gamma",
    "pass_at_k",
    "per_example_gradients",
    "pgd_attack",
    "proxy_discrepancy",
    "random_push",
    "randomized_score",
    "rank_correlation",
    "refit_ceiling",
    "relative_nfr",
    "response_logprob",
    "risk_coverage",
    "roc_auc",
    "score_flip_report",
    "select_checkpoint",
    "selection_report",
    "simplicity_bias_index",
    "single_source_matrix",
    "solution_diversity",
    "step_error_rate",
    "student_supervisor_agreement",
    "subset_of",
    "subspace_overlap",
    "synergy",
    "taylor_importance",
    "temperature_scale",
    "temperature_scaled",
    "token_logprobs",
    "tokenizer_fertility",
    "train_bpe",
    "truncation_curve",
    "two_level_bound",
    "universal_perturbation",
    "vendi_score",
    "view_contributions",
    "violation_rates",
    "wilson_interval",
    "word_variety",
]
