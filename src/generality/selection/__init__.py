"""Proposing, synthesising, scoring and filtering training data.

What belongs here: what makes or chooses examples to train on, from a description, from a language
model (a `generality.models.Chat`) or from a pool. What does not: data that others made
(`generality.benchmarks`), training, numbers about data (`generality.measures`). To add a way to
make examples: a class with `synthesise(spec, label, n, seed)` beside those of `synthesisers`, its
test, a line in each list below.
"""

from typing import TYPE_CHECKING

from generality.lazy import lazy_names

if TYPE_CHECKING:
    from generality.selection.budget import budget_shares, matched_budget
    from generality.selection.demonstration_optimizer import (
        Candidate,
        DemonstrationOptimizer,
        Mistake,
        minority_f1,
        share_right,
        swap_in_mistakes,
    )
    from generality.selection.demonstration_value import (
        ExamItem,
        Question,
        Student,
        TeachingPair,
        demonstration_value,
        demonstration_values,
        one_shot,
    )
    from generality.selection.digit_renderer import DigitRenderer, digit_specs
    from generality.selection.domain_proposer import DomainProposer, DomainSpec
    from generality.selection.draft_pool import Draft, DraftPool
    from generality.selection.exams import FixedExam, SimilarExam, VariantExam
    from generality.selection.fit_selector import (
        EmbeddingNearest,
        FitSelector,
        LongestResponse,
        RandomResponse,
        ResponseSelector,
        ReverseFit,
        ShortestResponse,
        StrongestSource,
        selection_overlap,
    )
    from generality.selection.format_mixer import FORMATS, FormatMixer, Formatted, Template, Worked
    from generality.selection.judge import (
        ExactMatch,
        Judge,
        Majority,
        ModelJudge,
        NumberMatch,
        UnitTests,
        WorldCheck,
    )
    from generality.selection.ngram_index import NGramIndex, ngram_overlap
    from generality.selection.preference_pairs import preference_pairs
    from generality.selection.prompt_writer import PromptWriter, template_prompts
    from generality.selection.rejection_filter import Accepted, rejection_filter
    from generality.selection.response_pool import (
        ResponsePool,
    )
    from generality.selection.select_answer import select_answer
    from generality.selection.self_to_supervised import SelfToSupervised
    from generality.selection.severity_ladder import SeverityLadder, severity_ladder
    from generality.selection.softmax_drafter import SoftmaxDrafter
    from generality.selection.sparse_cluster_filter import DiverseSubset, SparseClusterFilter
    from generality.selection.subtasks import (
        Solved,
        SubtaskBuilder,
        not_near_copy,
        paraphrase_augment,
        proper_part,
    )
    from generality.selection.supervision_mixer import SupervisionMixer
    from generality.selection.synthesis_loop import MajorityAgreement, SynthesisLoop
    from generality.selection.synthesisers import (
        ProceduralSynthesiser,
        TemplateSynthesiser,
        TextSynthesiser,
        TextToImage,
    )
    from generality.selection.synthetic_domains import (
        SyntheticDomains,
        agreement_filter,
        synthesise_domains,
    )
    from generality.selection.tailored_teacher import (
        TECHNIQUES,
        ChatDrafter,
        Drafter,
        TailoredTeacher,
        chat_student,
    )
    from generality.selection.weak_label_filter import filter_weak_labels

_WHERE = {
    "SoftmaxDrafter": "softmax_drafter",
    "TailoredTeacher": "tailored_teacher",
    "ChatDrafter": "tailored_teacher",
    "Drafter": "tailored_teacher",
    "TECHNIQUES": "tailored_teacher",
    "chat_student": "tailored_teacher",
    "DemonstrationOptimizer": "demonstration_optimizer",
    "Candidate": "demonstration_optimizer",
    "Mistake": "demonstration_optimizer",
    "swap_in_mistakes": "demonstration_optimizer",
    "minority_f1": "demonstration_optimizer",
    "share_right": "demonstration_optimizer",
    "Draft": "draft_pool",
    "DraftPool": "draft_pool",
    "preference_pairs": "preference_pairs",
    "select_answer": "select_answer",
    "FixedExam": "exams",
    "VariantExam": "exams",
    "SimilarExam": "exams",
    "TeachingPair": "demonstration_value",
    "Question": "demonstration_value",
    "ExamItem": "demonstration_value",
    "Student": "demonstration_value",
    "demonstration_value": "demonstration_value",
    "demonstration_values": "demonstration_value",
    "one_shot": "demonstration_value",
    "SelfToSupervised": "self_to_supervised",
    "Accepted": "rejection_filter",
    "DigitRenderer": "digit_renderer",
    "DiverseSubset": "sparse_cluster_filter",
    "DomainProposer": "domain_proposer",
    "DomainSpec": "domain_proposer",
    "EmbeddingNearest": "fit_selector",
    "ExactMatch": "judge",
    "FORMATS": "format_mixer",
    "FitSelector": "fit_selector",
    "FormatMixer": "format_mixer",
    "Formatted": "format_mixer",
    "Judge": "judge",
    "LongestResponse": "fit_selector",
    "Majority": "judge",
    "MajorityAgreement": "synthesis_loop",
    "ModelJudge": "judge",
    "NGramIndex": "ngram_index",
    "NumberMatch": "judge",
    "ProceduralSynthesiser": "synthesisers",
    "PromptWriter": "prompt_writer",
    "RandomResponse": "fit_selector",
    "ResponsePool": "response_pool",
    "ResponseSelector": "fit_selector",
    "ReverseFit": "fit_selector",
    "SeverityLadder": "severity_ladder",
    "ShortestResponse": "fit_selector",
    "Solved": "subtasks",
    "SparseClusterFilter": "sparse_cluster_filter",
    "StrongestSource": "fit_selector",
    "SubtaskBuilder": "subtasks",
    "SupervisionMixer": "supervision_mixer",
    "SynthesisLoop": "synthesis_loop",
    "SyntheticDomains": "synthetic_domains",
    "Template": "format_mixer",
    "TemplateSynthesiser": "synthesisers",
    "TextSynthesiser": "synthesisers",
    "TextToImage": "synthesisers",
    "UnitTests": "judge",
    "Worked": "format_mixer",
    "WorldCheck": "judge",
    "agreement_filter": "synthetic_domains",
    "budget_shares": "budget",
    "digit_specs": "digit_renderer",
    "filter_weak_labels": "weak_label_filter",
    "matched_budget": "budget",
    "ngram_overlap": "ngram_index",
    "not_near_copy": "subtasks",
    "paraphrase_augment": "subtasks",
    "proper_part": "subtasks",
    "rejection_filter": "rejection_filter",
    "selection_overlap": "fit_selector",
    "severity_ladder": "severity_ladder",
    "synthesise_domains": "synthetic_domains",
    "template_prompts": "prompt_writer",
}
__all__ = [
    "FORMATS",
    "TECHNIQUES",
    "Accepted",
    "Candidate",
    "ChatDrafter",
    "DemonstrationOptimizer",
    "DigitRenderer",
    "DiverseSubset",
    "DomainProposer",
    "DomainSpec",
    "Draft",
    "DraftPool",
    "Drafter",
    "EmbeddingNearest",
    "ExactMatch",
    "ExamItem",
    "FitSelector",
    "FixedExam",
    "FormatMixer",
    "Formatted",
    "Judge",
    "LongestResponse",
    "Majority",
    "MajorityAgreement",
    "Mistake",
    "ModelJudge",
    "NGramIndex",
    "NumberMatch",
    "ProceduralSynthesiser",
    "PromptWriter",
    "Question",
    "RandomResponse",
    "ResponsePool",
    "ResponseSelector",
    "ReverseFit",
    "SelfToSupervised",
    "SeverityLadder",
    "ShortestResponse",
    "SimilarExam",
    "SoftmaxDrafter",
    "Solved",
    "SparseClusterFilter",
    "StrongestSource",
    "Student",
    "SubtaskBuilder",
    "SupervisionMixer",
    "SynthesisLoop",
    "SyntheticDomains",
    "TailoredTeacher",
    "TeachingPair",
    "Template",
    "TemplateSynthesiser",
    "TextSynthesiser",
    "TextToImage",
    "UnitTests",
    "VariantExam",
    "Worked",
    "WorldCheck",
    "agreement_filter",
    "budget_shares",
    "chat_student",
    "demonstration_value",
    "demonstration_values",
    "digit_specs",
    "filter_weak_labels",
    "matched_budget",
    "minority_f1",
    "ngram_overlap",
    "not_near_copy",
    "one_shot",
    "paraphrase_augment",
    "preference_pairs",
    "proper_part",
    "rejection_filter",
    "select_answer",
    "selection_overlap",
    "severity_ladder",
    "share_right",
    "swap_in_mistakes",
    "synthesise_domains",
    "template_prompts",
]

__getattr__, __dir__ = lazy_names(__name__, _WHERE)
