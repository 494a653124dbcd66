"""Models that are asked in words, and what to make of what they say.

What belongs here: questions with a fixed set of answers, readers of free text, and backends that
turn a model (a causal or multimodal one, a pair of encoders, an endpoint) into something that
answers; later, loops in which a model acts and sees what came of it. What does not: the one
callable for talking (`generality.models.Chat`), scores of the answers (`measures`), data
(`benchmarks`). To add a backend: a class with `predict(task, demos)` and a `fingerprint` that names
its weights and settings, and a test in which it answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from generality.lazy import lazy_names

if TYPE_CHECKING:
    from generality.agents.bandit_player import (
        BanditPlayer,
        random_history,
        thompson_entropy,
        thompson_lessons,
    )
    from generality.agents.choice import (
        Choice,
        ChoiceModel,
        ChoiceTask,
        Demo,
        parse_choice,
        parse_confidence,
    )
    from generality.agents.choice_cases import (
        known_and_asked,
        paired_failures,
        perturb,
        select_demos,
        stratified_cases,
    )
    from generality.agents.choice_models import ChatChoice, NameSimilarity, OptionLikelihood
    from generality.agents.class_ids import (
        clip_ids,
        demos_of_next_domain,
        likeliest_ids,
        nearest_name_ids,
    )
    from generality.agents.debate import (
        Consultancy,
        Debate,
        MarketMaking,
        Transcript,
        Turn,
        augment_with_context,
    )
    from generality.agents.gymnasium_bandit import bandit_environment
    from generality.agents.text_bandit import (
        BanditStyle,
        TextBandit,
        arm_beliefs,
        bandit_text,
        parse_arm,
        thompson_probability,
    )
    from generality.agents.vision_choice import ClipZeroShot, VisionChat

__all__ = [
    "BanditPlayer",
    "BanditStyle",
    "ChatChoice",
    "Choice",
    "ChoiceModel",
    "ChoiceTask",
    "ClipZeroShot",
    "Consultancy",
    "Debate",
    "Demo",
    "MarketMaking",
    "NameSimilarity",
    "OptionLikelihood",
    "TextBandit",
    "Transcript",
    "Turn",
    "VisionChat",
    "arm_beliefs",
    "augment_with_context",
    "bandit_environment",
    "bandit_text",
    "clip_ids",
    "demos_of_next_domain",
    "known_and_asked",
    "likeliest_ids",
    "nearest_name_ids",
    "paired_failures",
    "parse_arm",
    "parse_choice",
    "parse_confidence",
    "perturb",
    "random_history",
    "select_demos",
    "stratified_cases",
    "thompson_entropy",
    "thompson_lessons",
    "thompson_probability",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "BanditPlayer": "bandit_player",
        "BanditStyle": "text_bandit",
        "ChatChoice": "choice_models",
        "Choice": "choice",
        "ChoiceModel": "choice",
        "ChoiceTask": "choice",
        "ClipZeroShot": "vision_choice",
        "Consultancy": "debate",
        "Debate": "debate",
        "Demo": "choice",
        "MarketMaking": "debate",
        "NameSimilarity": "choice_models",
        "OptionLikelihood": "choice_models",
        "TextBandit": "text_bandit",
        "Transcript": "debate",
        "Turn": "debate",
        "VisionChat": "vision_choice",
        "arm_beliefs": "text_bandit",
        "augment_with_context": "debate",
        "bandit_environment": "gymnasium_bandit",
        "bandit_text": "text_bandit",
        "paired_failures": "choice_cases",
        "known_and_asked": "choice_cases",
        "clip_ids": "class_ids",
        "demos_of_next_domain": "class_ids",
        "likeliest_ids": "class_ids",
        "nearest_name_ids": "class_ids",
        "parse_arm": "text_bandit",
        "parse_choice": "choice",
        "parse_confidence": "choice",
        "perturb": "choice_cases",
        "random_history": "bandit_player",
        "select_demos": "choice_cases",
        "stratified_cases": "choice_cases",
        "thompson_entropy": "bandit_player",
        "thompson_lessons": "bandit_player",
        "thompson_probability": "text_bandit",
    },
)
