"""Functions from named tensors to named tensors: interpolate, merge, prune, quantise, patch.

What belongs here: arithmetic on the weights of models, given as a mapping from names to tensors
(a `state_dict`, an open safetensors file), never on a live module. What does not: anything that
trains or runs a model. To add one: a file named after what it does, its paper in the docstring, a
test against values computed by hand, a line in `__all__`.
"""

from generality.weights.checkpoint_stream import (
    Checkpoint,
    CheckpointWriter,
    TensorSpec,
    open_checkpoint,
)
from generality.weights.interpolate import interpolate, wise_ft

__all__ = [
    "Checkpoint",
    "CheckpointWriter",
    "TensorSpec",
    "interpolate",
    "open_checkpoint",
    "wise_ft",
]
