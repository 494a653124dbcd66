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
    from generality.modules.layerwise_ensemble import LayerwiseEnsemble, layerwise_loss
    from generality.modules.lora_group import LoRAGroup
    from generality.modules.probe_head import probe_head
    from generality.modules.split_qkv import split_qkv
    from generality.modules.tiny_text_encoder import TinyTextEncoder
    from generality.modules.truncatable_mlp import TruncatableMLP

__all__ = [
    "LayerwiseEnsemble",
    "LoRAGroup",
    "TinyTextEncoder",
    "TruncatableMLP",
    "layerwise_loss",
    "split_qkv",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "TruncatableMLP": "truncatable_mlp",
        "LayerwiseEnsemble": "layerwise_ensemble",
        "LoRAGroup": "lora_group",
        "TinyTextEncoder": "tiny_text_encoder",
        "layerwise_loss": "layerwise_ensemble",
        "probe_head": "probe_head",
        "split_qkv": "split_qkv",
    },
)
