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
    from generality.selection.digit_renderer import DigitRenderer, digit_specs
    from generality.selection.domain_proposer import DomainProposer, DomainSpec
    from generality.selection.prompt_writer import PromptWriter, template_prompts
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

_WHERE = {
    "DigitRenderer": "digit_renderer",
    "DomainProposer": "domain_proposer",
    "DomainSpec": "domain_proposer",
    "ProceduralSynthesiser": "synthesisers",
    "PromptWriter": "prompt_writer",
    "SyntheticDomains": "synthetic_domains",
    "TemplateSynthesiser": "synthesisers",
    "TextSynthesiser": "synthesisers",
    "TextToImage": "synthesisers",
    "agreement_filter": "synthetic_domains",
    "budget_shares": "budget",
    "digit_specs": "digit_renderer",
    "matched_budget": "budget",
    "synthesise_domains": "synthetic_domains",
    "template_prompts": "prompt_writer",
}
__all__ = [
    "DigitRenderer",
    "DomainProposer",
    "DomainSpec",
    "ProceduralSynthesiser",
    "PromptWriter",
    "SyntheticDomains",
    "TemplateSynthesiser",
    "TextSynthesiser",
    "TextToImage",
    "agreement_filter",
    "budget_shares",
    "digit_specs",
    "matched_budget",
    "synthesise_domains",
    "template_prompts",
]

__getattr__, __dir__ = lazy_names(__name__, _WHERE)
