"""Functions from named tensors to named tensors: interpolate, merge, prune, quantise, patch.

What belongs here: arithmetic on the weights of models, given as a mapping from names to tensors
(a `state_dict`, an open safetensors file); what must know how a model uses its weights traces it
and returns names and places (`channel_groups`). What does not: anything that
trains or runs a model. To add one: a file named after what it does, its paper in the docstring, a
test against values computed by hand, a line in `__all__`.
"""

from generality.weights.channel_groups import (
    ChannelGroup,
    channel_groups,
    remove_channels,
    verify_equivalence,
)
from generality.weights.checkpoint_stream import (
    Checkpoint,
    CheckpointWriter,
    TensorSpec,
    open_checkpoint,
)
from generality.weights.dhspg import DHSPG
from generality.weights.group_quantizer import quantize_rtn
from generality.weights.interpolate import interpolate, wise_ft
from generality.weights.merge_adapter import MergedAdapter, merge_adapters
from generality.weights.merge_models import merge_models
from generality.weights.merging import Recipe, merge, task_vectors
from generality.weights.task_interference import Interference, interference

__all__ = [
    "DHSPG",
    "ChannelGroup",
    "Checkpoint",
    "CheckpointWriter",
    "Interference",
    "MergedAdapter",
    "Recipe",
    "TensorSpec",
    "channel_groups",
    "interference",
    "interpolate",
    "merge",
    "merge_adapters",
    "merge_models",
    "open_checkpoint",
    "quantize_rtn",
    "remove_channels",
    "task_vectors",
    "verify_equivalence",
    "wise_ft",
]
