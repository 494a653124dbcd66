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
    from generality.modules.cell_network import CellNetwork
    from generality.modules.darts_cell import DartsCell, GenotypeCell
    from generality.modules.differentiable_grid import DifferentiableGrid, Stage
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
    from generality.modules.held_zeros import hold_zeros
    from generality.modules.l4q_linear import (
        L4QLinear,
        apply_l4q,
        dequantized_model,
        hold_scales,
        lsq_quantize,
        quantized_model,
    )
    from generality.modules.layerwise_ensemble import LayerwiseEnsemble, layerwise_loss
    from generality.modules.linear_probe import probe_head, probed
    from generality.modules.lora_group import LoRAGroup
    from generality.modules.lsq_weight import LSQWeight, apply_qat, settle_qat
    from generality.modules.mixed_op import (
        MixedOp,
        Zero,
        architecture_parameters,
        decoded,
        max_w,
        mixing_coefficients,
    )
    from generality.modules.pairwise_reward import PairwiseReward
    from generality.modules.preference_policy import PreferencePolicy, prefer
    from generality.modules.qalora_linear import QALoRALinear, apply_qalora
    from generality.modules.shared_trunk import GradScale, shared_trunk_ensemble, split_backbone
    from generality.modules.sharp_sep_conv import SharpSepConv, sharp_operators
    from generality.modules.soft_prompt import SoftPrompt
    from generality.modules.supernet import EnsembleArchitecture, Supernet
    from generality.modules.tiny_text_encoder import TinyTextEncoder
    from generality.modules.trl_preferences import preference_trainer, tuned_margins
    from generality.modules.truncatable_mlp import TruncatableMLP
    from generality.modules.visual_prompt import DualPrompt, VisualPrompt

__all__ = [
    "CellNetwork",
    "DartsCell",
    "DifferentiableGrid",
    "DualPrompt",
    "DualViewClassifier",
    "EdgeView",
    "EmaTaught",
    "EmaTaughtLoss",
    "EnsembleArchitecture",
    "FeatureStatPerturb",
    "FlowAttention",
    "GenotypeCell",
    "GradScale",
    "GradientRegulator",
    "L4QLinear",
    "LSQWeight",
    "LayerwiseEnsemble",
    "LoRAGroup",
    "MixedOp",
    "PairwiseReward",
    "PreferencePolicy",
    "QALoRALinear",
    "RegulatedOptimizer",
    "SharpSepConv",
    "SoftPrompt",
    "Stage",
    "Supernet",
    "TinyTextEncoder",
    "TruncatableMLP",
    "VisualPrompt",
    "Zero",
    "apply_l4q",
    "apply_qalora",
    "apply_qat",
    "architecture_parameters",
    "decoded",
    "dequantized_model",
    "dual_view_loss",
    "flow_attend",
    "flow_weights",
    "gradient_cosine",
    "hold_scales",
    "hold_zeros",
    "insert_after",
    "layerwise_loss",
    "lsq_quantize",
    "max_w",
    "mixing_coefficients",
    "prefer",
    "preference_trainer",
    "probe_head",
    "probed",
    "quantized_model",
    "register_flow_attention",
    "settle_qat",
    "shared_trunk_ensemble",
    "sharp_operators",
    "split_backbone",
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
        "hold_zeros": "held_zeros",
        "L4QLinear": "l4q_linear",
        "apply_l4q": "l4q_linear",
        "dequantized_model": "l4q_linear",
        "hold_scales": "l4q_linear",
        "lsq_quantize": "l4q_linear",
        "quantized_model": "l4q_linear",
        "LayerwiseEnsemble": "layerwise_ensemble",
        "LoRAGroup": "lora_group",
        "LSQWeight": "lsq_weight",
        "apply_qat": "lsq_weight",
        "settle_qat": "lsq_weight",
        "QALoRALinear": "qalora_linear",
        "apply_qalora": "qalora_linear",
        "PairwiseReward": "pairwise_reward",
        "PreferencePolicy": "preference_policy",
        "RegulatedOptimizer": "gradient_regulator",
        "SoftPrompt": "soft_prompt",
        "DualPrompt": "visual_prompt",
        "VisualPrompt": "visual_prompt",
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
        "CellNetwork": "cell_network",
        "DartsCell": "darts_cell",
        "GenotypeCell": "darts_cell",
        "DifferentiableGrid": "differentiable_grid",
        "Stage": "differentiable_grid",
        "MixedOp": "mixed_op",
        "Zero": "mixed_op",
        "architecture_parameters": "mixed_op",
        "decoded": "mixed_op",
        "max_w": "mixed_op",
        "mixing_coefficients": "mixed_op",
        "GradScale": "shared_trunk",
        "shared_trunk_ensemble": "shared_trunk",
        "split_backbone": "shared_trunk",
        "SharpSepConv": "sharp_sep_conv",
        "sharp_operators": "sharp_sep_conv",
        "EnsembleArchitecture": "supernet",
        "Supernet": "supernet",
    },
)
