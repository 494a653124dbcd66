"""Layers and adapters that change or extend a model.

What belongs here: an `nn.Module` that a user's own model takes in (a head over its hidden states,
an encoder beside it, a layer in it), and adapters, which build on `peft` and are seen by `peft`'s
own functions. What does not: whole reference networks and loaders (`generality.models`), losses
(`generality.objectives`), functions over named weights (`generality.weights`). To add one: a file
named after the one thing in it, its paper in the docstring, a test of its wiring (which
parameters get gradients, what it computes at its first weights), a line here.
"""

from typing import TYPE_CHECKING

from generality.lazy import lazy_names

if TYPE_CHECKING:
    from generality.modules.edge_view import (
        DualViewClassifier,
        EdgeView,
        dual_view_loss,
        view_outputs,
    )
    from generality.modules.ema_taught import EmaTaught, EmaTaughtLoss
    from generality.modules.feature_stat_perturb import (
        FeatureStatPerturb,
        insert_after,
        style_parameters,
    )
    from generality.modules.flow_attention import (
        FlowAttention,
        flow_attend,
        flow_weights,
        register_flow_attention,
    )
    from generality.modules.fused_qkv import split_qkv
    from generality.modules.gradient_regulator import (
        GradientRegulator,
        RegulatedOptimizer,
        gradient_cosine,
    )
    from generality.modules.l4q_linear import (
        L4QLinear,
        apply_l4q,
        dequantized_model,
        lsq_quantize,
        quantized_model,
    )
    from generality.modules.layerwise_ensemble import LayerwiseEnsemble, layerwise_loss
    from generality.modules.linear_probe import probe_head, probed
    from generality.modules.lora_group import LoRAGroup
    from generality.modules.pairwise_reward import PairwiseReward
    from generality.modules.preference_policy import PreferencePolicy, prefer
    from generality.modules.soft_prompt import SoftPrompt
    from generality.modules.tiny_text_encoder import TinyTextEncoder
    from generality.modules.trl_preferences import preference_trainer, tuned_margins
    from generality.modules.truncatable_mlp import TruncatableMLP

__all__ = [
    "DualViewClassifier",
    "EdgeView",
    "EmaTaught",
    "EmaTaughtLoss",
    "FeatureStatPerturb",
    "FlowAttention",
    "GradientRegulator",
    "L4QLinear",
    "LayerwiseEnsemble",
    "LoRAGroup",
    "PairwiseReward",
    "PreferencePolicy",
    "RegulatedOptimizer",
    "SoftPrompt",
    "TinyTextEncoder",
    "TruncatableMLP",
    "apply_l4q",
    "dequantized_model",
    "dual_view_loss",
    "flow_attend",
    "flow_weights",
    "gradient_cosine",
    "insert_after",
    "layerwise_loss",
    "lsq_quantize",
    "prefer",
    "preference_trainer",
    "probe_head",
    "probed",
    "quantized_model",
    "register_flow_attention",
    "split_qkv",
    "style_parameters",
    "tuned_margins",
    "view_outputs",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DualViewClassifier": "edge_view",
        "EdgeView": "edge_view",
        "dual_view_loss": "edge_view",
        "view_outputs": "edge_view",
        "EmaTaught": "ema_taught",
        "EmaTaughtLoss": "ema_taught",
        "FeatureStatPerturb": "feature_stat_perturb",
        "FlowAttention": "flow_attention",
        "GradientRegulator": "gradient_regulator",
        "L4QLinear": "l4q_linear",
        "apply_l4q": "l4q_linear",
        "dequantized_model": "l4q_linear",
        "lsq_quantize": "l4q_linear",
        "quantized_model": "l4q_linear",
        "LayerwiseEnsemble": "layerwise_ensemble",
        "LoRAGroup": "lora_group",
        "PairwiseReward": "pairwise_reward",
        "PreferencePolicy": "preference_policy",
        "RegulatedOptimizer": "gradient_regulator",
        "SoftPrompt": "soft_prompt",
        "TinyTextEncoder": "tiny_text_encoder",
        "preference_trainer": "trl_preferences",
        "tuned_margins": "trl_preferences",
        "TruncatableMLP": "truncatable_mlp",
        "flow_attend": "flow_attention",
        "flow_weights": "flow_attention",
        "gradient_cosine": "gradient_regulator",
        "insert_after": "feature_stat_perturb",
        "layerwise_loss": "layerwise_ensemble",
        "prefer": "preference_policy",
        "probe_head": "linear_probe",
        "probed": "linear_probe",
        "register_flow_attention": "flow_attention",
        "split_qkv": "fused_qkv",
        "style_parameters": "feature_stat_perturb",
    },
)
