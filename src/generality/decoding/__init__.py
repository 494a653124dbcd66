"""Fusion, composition and steering of language models while they write.

What belongs here: pure functions on next-token logits, `transformers` LogitsProcessors, models
made of several models, context managers that hook a model, and what serves them. What does not:
anything that trains or changes weights (`generality.lab`, `generality.weights`), and the plain
writing of one model (`generality.models.generation`). To add one: a file named after the one thing
in it, its paper in the docstring, a test against values computed by hand, a line in each list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from generality.lazy import lazy_names

if TYPE_CHECKING:
    from generality.decoding.fused_lm import FusedCache, FusedCausalLM, ResponseScore
    from generality.decoding.fusion_processor import FusionLogitsProcessor
    from generality.decoding.logit_fusion import (
        FusionStrategy,
        KLMatchedFusion,
        StaticFusion,
        fuse_logits,
    )
    from generality.decoding.openai_server import CompletionServer
    from generality.decoding.same_vocabulary import check_same_vocabulary
    from generality.decoding.steering_hook import SteeringHook
    from generality.decoding.steering_vector import (
        SteeringVector,
        collect_activations,
        random_control,
        shuffled_control,
        weighted_steering_vector,
    )
    from generality.decoding.teacher_forced_score import Foreseen, teacher_forced
    from generality.decoding.text_stream import TextStream

__all__ = [
    "CompletionServer",
    "Foreseen",
    "FusedCache",
    "FusedCausalLM",
    "FusionLogitsProcessor",
    "FusionStrategy",
    "KLMatchedFusion",
    "ResponseScore",
    "StaticFusion",
    "SteeringHook",
    "SteeringVector",
    "TextStream",
    "check_same_vocabulary",
    "collect_activations",
    "fuse_logits",
    "random_control",
    "shuffled_control",
    "teacher_forced",
    "weighted_steering_vector",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CompletionServer": "openai_server",
        "Foreseen": "teacher_forced_score",
        "FusedCache": "fused_lm",
        "FusedCausalLM": "fused_lm",
        "FusionLogitsProcessor": "fusion_processor",
        "FusionStrategy": "logit_fusion",
        "KLMatchedFusion": "logit_fusion",
        "ResponseScore": "fused_lm",
        "StaticFusion": "logit_fusion",
        "SteeringHook": "steering_hook",
        "SteeringVector": "steering_vector",
        "TextStream": "text_stream",
        "check_same_vocabulary": "same_vocabulary",
        "collect_activations": "steering_vector",
        "fuse_logits": "logit_fusion",
        "random_control": "steering_vector",
        "shuffled_control": "steering_vector",
        "teacher_forced": "teacher_forced_score",
        "weighted_steering_vector": "steering_vector",
    },
)
