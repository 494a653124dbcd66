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
from generality.weights.interpolate import interpolate, wise_ft

__all__ = [
    "DHSPG",
    "ChannelGroup",
    "Checkpoint",
    "CheckpointWriter",
    "TensorSpec",
    "channel_groups",
    "interpolate",
    "open_checkpoint",
    "remove_channels",
    "verify_equivalence",
    "wise_ft",
]
