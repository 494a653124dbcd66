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
    from generality.decoding.same_vocabulary import check_same_vocabulary

__all__ = [
    "FusedCache",
    "FusedCausalLM",
    "FusionLogitsProcessor",
    "FusionStrategy",
    "KLMatchedFusion",
    "ResponseScore",
    "StaticFusion",
    "check_same_vocabulary",
    "fuse_logits",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "FusedCache": "fused_lm",
        "FusedCausalLM": "fused_lm",
        "FusionLogitsProcessor": "fusion_processor",
        "FusionStrategy": "logit_fusion",
        "KLMatchedFusion": "logit_fusion",
        "ResponseScore": "fused_lm",
        "StaticFusion": "logit_fusion",
        "check_same_vocabulary": "same_vocabulary",
        "fuse_logits": "logit_fusion",
    },
)
