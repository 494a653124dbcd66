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
    from generality.selection.answer_rules import select_answer
    from generality.selection.budget import budget_shares, matched_budget
    from generality.selection.demonstration_optimizer import (
        Candidate,
        DemonstrationOptimizer,
        Mistake,
        minority_f1,
        share_right,
        swap_in_mistakes,
    )
    from generality.selection.demonstration_worth import (
        ExamItem,
        Question,
        Student,
        TeachingPair,
        demonstration_value,
        demonstration_values,
        one_shot,
    )
    from generality.selection.digit_renderer import DigitRenderer, digit_specs
    from generality.selection.distillation import AnswerMatch, Recipe, distill
    from generality.selection.domain_proposer import DomainProposer, DomainSpec
    from generality.selection.draft_pool import Draft, DraftPool
    from generality.selection.example_choice import Choice, select_examples
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
    from generality.selection.hard_chains import HardChains
    from generality.selection.hard_material import HardMaterial, Supervised, supervision_sets
    from generality.selection.judge import (
        ExactMatch,
        Judge,
        Majority,
        ModelJudge,
        NumberMatch,
        UnitTests,
        WorldCheck,
    )
    from generality.selection.mix_objectives import mix_objectives
    from generality.selection.ngram_index import NGramIndex, ngram_overlap
    from generality.selection.online_self_sampler import OnlineSelfSampler
    from generality.selection.pairs_by_score import preference_pairs
    from generality.selection.prompt_writer import PromptWriter, template_prompts
    from generality.selection.record_screen import Screen
    from generality.selection.rejection_filter import Accepted, rejection_filter
    from generality.selection.response_pool import (
        ResponsePool,
    )
    from generality.selection.self_instruct import SelfInstructPool, rouge_l
    from generality.selection.self_supervised_data import write_self_supervised
    from generality.selection.self_to_supervised import SelfToSupervised
    from generality.selection.severity_ladder import SeverityLadder, severity_ladder
    from generality.selection.softmax_drafter import SoftmaxDrafter
    from generality.selection.solution_buffer import SolutionBuffer, Target
    from generality.selection.solution_steps import checked_steps, final_answer
    from generality.selection.sparse_cluster_filter import DiverseSubset, SparseClusterFilter
    from generality.selection.state_tracer import (
        SandboxExecutor,
        StateTracer,
        Trace,
        arithmetic_executor,
        value_strings,
        values_only,
    )
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
    from generality.selection.system_messages import (
        ORCA_COLLECTIONS,
        SystemMessage,
        SystemMessageMixer,
        offers_choices,
        orca_style_messages,
    )
    from generality.selection.tailored_teacher import (
        TECHNIQUES,
        ChatDrafter,
        Drafter,
        TailoredTeacher,
        chat_student,
    )
    from generality.selection.task_balanced_sample import task_balanced_rows, task_balanced_sample
    from generality.selection.teacher import EndpointTeacher, LocalTeacher, make_teacher
    from generality.selection.training_files import (
        Example,
        examples_of,
        read_records,
        write_records,
    )
    from generality.selection.weak_label_filter import filter_weak_labels
    from generality.selection.written_candidates import CandidateWriter

_WHERE = {
    "Accepted": "rejection_filter",
    "AnswerMatch": "distillation",
    "Candidate": "demonstration_optimizer",
    "CandidateWriter": "written_candidates",
    "ChatDrafter": "tailored_teacher",
    "Choice": "example_choice",
    "DemonstrationOptimizer": "demonstration_optimizer",
    "DigitRenderer": "digit_renderer",
    "DiverseSubset": "sparse_cluster_filter",
    "DomainProposer": "domain_proposer",
    "DomainSpec": "domain_proposer",
    "Draft": "draft_pool",
    "DraftPool": "draft_pool",
    "Drafter": "tailored_teacher",
    "EmbeddingNearest": "fit_selector",
    "EndpointTeacher": "teacher",
    "ExactMatch": "judge",
    "ExamItem": "demonstration_worth",
    "Example": "training_files",
    "FORMATS": "format_mixer",
    "FitSelector": "fit_selector",
    "FixedExam": "exams",
    "FormatMixer": "format_mixer",
    "Formatted": "format_mixer",
    "HardChains": "hard_chains",
    "HardMaterial": "hard_material",
    "Judge": "judge",
    "LocalTeacher": "teacher",
    "LongestResponse": "fit_selector",
    "Majority": "judge",
    "MajorityAgreement": "synthesis_loop",
    "Mistake": "demonstration_optimizer",
    "ModelJudge": "judge",
    "NGramIndex": "ngram_index",
    "NumberMatch": "judge",
    "ORCA_COLLECTIONS": "system_messages",
    "OnlineSelfSampler": "online_self_sampler",
    "ProceduralSynthesiser": "synthesisers",
    "PromptWriter": "prompt_writer",
    "Question": "demonstration_worth",
    "RandomResponse": "fit_selector",
    "Recipe": "distillation",
    "ResponsePool": "response_pool",
    "ResponseSelector": "fit_selector",
    "ReverseFit": "fit_selector",
    "SandboxExecutor": "state_tracer",
    "Screen": "record_screen",
    "SelfInstructPool": "self_instruct",
    "SelfToSupervised": "self_to_supervised",
    "SeverityLadder": "severity_ladder",
    "ShortestResponse": "fit_selector",
    "SimilarExam": "exams",
    "SoftmaxDrafter": "softmax_drafter",
    "SolutionBuffer": "solution_buffer",
    "Solved": "subtasks",
    "SparseClusterFilter": "sparse_cluster_filter",
    "StateTracer": "state_tracer",
    "StrongestSource": "fit_selector",
    "Student": "demonstration_worth",
    "SubtaskBuilder": "subtasks",
    "Supervised": "hard_material",
    "SupervisionMixer": "supervision_mixer",
    "SynthesisLoop": "synthesis_loop",
    "SyntheticDomains": "synthetic_domains",
    "SystemMessage": "system_messages",
    "SystemMessageMixer": "system_messages",
    "TECHNIQUES": "tailored_teacher",
    "TailoredTeacher": "tailored_teacher",
    "Target": "solution_buffer",
    "TeachingPair": "demonstration_worth",
    "Template": "format_mixer",
    "TemplateSynthesiser": "synthesisers",
    "TextSynthesiser": "synthesisers",
    "TextToImage": "synthesisers",
    "Trace": "state_tracer",
    "UnitTests": "judge",
    "VariantExam": "exams",
    "Worked": "format_mixer",
    "WorldCheck": "judge",
    "agreement_filter": "synthetic_domains",
    "arithmetic_executor": "state_tracer",
    "budget_shares": "budget",
    "chat_student": "tailored_teacher",
    "checked_steps": "solution_steps",
    "demonstration_value": "demonstration_worth",
    "demonstration_values": "demonstration_worth",
    "digit_specs": "digit_renderer",
    "distill": "distillation",
    "examples_of": "training_files",
    "filter_weak_labels": "weak_label_filter",
    "final_answer": "solution_steps",
    "make_teacher": "teacher",
    "matched_budget": "budget",
    "minority_f1": "demonstration_optimizer",
    "mix_objectives": "mix_objectives",
    "ngram_overlap": "ngram_index",
    "not_near_copy": "subtasks",
    "offers_choices": "system_messages",
    "one_shot": "demonstration_worth",
    "orca_style_messages": "system_messages",
    "paraphrase_augment": "subtasks",
    "preference_pairs": "pairs_by_score",
    "proper_part": "subtasks",
    "read_records": "training_files",
    "region_subsets": "pool_regions",
    "rejection_filter": "rejection_filter",
    "rouge_l": "self_instruct",
    "select_answer": "answer_rules",
    "select_examples": "example_choice",
    "selection_overlap": "fit_selector",
    "severity_ladder": "severity_ladder",
    "share_right": "demonstration_optimizer",
    "supervision_sets": "hard_material",
    "swap_in_mistakes": "demonstration_optimizer",
    "synthesise_domains": "synthetic_domains",
    "task_balanced_rows": "task_balanced_sample",
    "task_balanced_sample": "task_balanced_sample",
    "template_prompts": "prompt_writer",
    "value_strings": "state_tracer",
    "values_only": "state_tracer",
    "write_records": "training_files",
    "write_self_supervised": "self_supervised_data",
}
__all__ = [
    "FORMATS",
    "ORCA_COLLECTIONS",
    "TECHNIQUES",
    "Accepted",
    "AnswerMatch",
    "Candidate",
    "CandidateWriter",
    "ChatDrafter",
    "Choice",
    "DemonstrationOptimizer",
    "DigitRenderer",
    "DiverseSubset",
    "DomainProposer",
    "DomainSpec",
    "Draft",
    "DraftPool",
    "Drafter",
    "EmbeddingNearest",
    "EndpointTeacher",
    "ExactMatch",
    "ExamItem",
    "Example",
    "FitSelector",
    "FixedExam",
    "FormatMixer",
    "Formatted",
    "HardChains",
    "HardMaterial",
    "Judge",
    "LocalTeacher",
    "LongestResponse",
    "Majority",
    "MajorityAgreement",
    "Mistake",
    "ModelJudge",
    "NGramIndex",
    "NumberMatch",
    "OnlineSelfSampler",
    "ProceduralSynthesiser",
    "PromptWriter",
    "Question",
    "RandomResponse",
    "Recipe",
    "ResponsePool",
    "ResponseSelector",
    "ReverseFit",
    "SandboxExecutor",
    "Screen",
    "SelfInstructPool",
    "SelfToSupervised",
    "SeverityLadder",
    "ShortestResponse",
    "SimilarExam",
    "SoftmaxDrafter",
    "SolutionBuffer",
    "Solved",
    "SparseClusterFilter",
    "StateTracer",
    "StrongestSource",
    "Student",
    "SubtaskBuilder",
    "Supervised",
    "SupervisionMixer",
    "SynthesisLoop",
    "SyntheticDomains",
    "SystemMessage",
    "SystemMessageMixer",
    "TailoredTeacher",
    "Target",
    "TeachingPair",
    "Template",
    "TemplateSynthesiser",
    "TextSynthesiser",
    "TextToImage",
    "Trace",
    "UnitTests",
    "VariantExam",
    "Worked",
    "WorldCheck",
    "agreement_filter",
    "arithmetic_executor",
    "budget_shares",
    "chat_student",
    "checked_steps",
    "demonstration_value",
    "demonstration_values",
    "digit_specs",
    "distill",
    "examples_of",
    "filter_weak_labels",
    "final_answer",
    "make_teacher",
    "matched_budget",
    "minority_f1",
    "mix_objectives",
    "ngram_overlap",
    "not_near_copy",
    "offers_choices",
    "one_shot",
    "orca_style_messages",
    "paraphrase_augment",
    "preference_pairs",
    "proper_part",
    "read_records",
    "region_subsets",
    "rejection_filter",
    "rouge_l",
    "select_answer",
    "select_examples",
    "selection_overlap",
    "severity_ladder",
    "share_right",
    "supervision_sets",
    "swap_in_mistakes",
    "synthesise_domains",
    "task_balanced_rows",
    "task_balanced_sample",
    "template_prompts",
    "value_strings",
    "values_only",
    "write_records",
    "write_self_supervised",
]

__getattr__, __dir__ = lazy_names(__name__, _WHERE)
