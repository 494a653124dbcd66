"""Functions from named tensors to named tensors: interpolate, merge, prune, quantise, patch.

What belongs here: arithmetic on the weights of models, given as a mapping from names to tensors
(a `state_dict`, an open safetensors file); what must know how a model uses its weights traces it
and returns names and places (`channel_groups`). What does not: anything that
trains or runs a model. To add one: a file named after what it does, its paper in the docstring, a
test against values computed by hand, a line in `__all__`.
"""

from typing import TYPE_CHECKING

from generality.lazy import lazy_names

if TYPE_CHECKING:
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
    from generality.weights.column_sweep import gptq, sparsegpt
    from generality.weights.dcp_checkpoint import DcpCheckpoint
    from generality.weights.dhspg import DHSPG
    from generality.weights.group_quantizer import quantize_rtn
    from generality.weights.interpolate import interpolate, wise_ft
    from generality.weights.merge_adapter import MergedAdapter, merge_adapters
    from generality.weights.merge_models import merge_models
    from generality.weights.merge_recipe import Recipe
    from generality.weights.merge_search import MergeSearch, search_merge
    from generality.weights.merging import merge, task_vectors
    from generality.weights.parallel_layout import (
        Layout,
        LayoutSpec,
        ParamRule,
        Rank,
        reshard,
        shard,
        unshard,
    )
    from generality.weights.parallel_rules import rules_for
    from generality.weights.prune import SparsityReport, keep_masks, prune, sparsity_report
    from generality.weights.sce import sce_merge
    from generality.weights.task_interference import Interference, interference
    from generality.weights.universal_checkpoint import (
        TrainingState,
        load_rank,
        load_training_state,
        open_training_state,
        save_layout,
        save_rank,
        save_training_state,
        training_state,
    )

__all__ = [
    "DHSPG",
    "ChannelGroup",
    "Checkpoint",
    "CheckpointWriter",
    "DcpCheckpoint",
    "Interference",
    "Layout",
    "LayoutSpec",
    "MergeSearch",
    "MergedAdapter",
    "ParamRule",
    "Rank",
    "Recipe",
    "SparsityReport",
    "TensorSpec",
    "TrainingState",
    "channel_groups",
    "gptq",
    "interference",
    "interpolate",
    "keep_masks",
    "load_rank",
    "load_training_state",
    "merge",
    "merge_adapters",
    "merge_models",
    "open_checkpoint",
    "open_training_state",
    "prune",
    "quantize_rtn",
    "remove_channels",
    "reshard",
    "rules_for",
    "save_layout",
    "save_rank",
    "save_training_state",
    "sce_merge",
    "search_merge",
    "shard",
    "sparsegpt",
    "sparsity_report",
    "task_vectors",
    "training_state",
    "unshard",
    "verify_equivalence",
    "wise_ft",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ChannelGroup": "channel_groups",
        "channel_groups": "channel_groups",
        "remove_channels": "channel_groups",
        "verify_equivalence": "channel_groups",
        "Checkpoint": "checkpoint_stream",
        "CheckpointWriter": "checkpoint_stream",
        "TensorSpec": "checkpoint_stream",
        "open_checkpoint": "checkpoint_stream",
        "gptq": "column_sweep",
        "sparsegpt": "column_sweep",
        "DcpCheckpoint": "dcp_checkpoint",
        "DHSPG": "dhspg",
        "quantize_rtn": "group_quantizer",
        "interpolate": "interpolate",
        "wise_ft": "interpolate",
        "MergedAdapter": "merge_adapter",
        "merge_adapters": "merge_adapter",
        "merge_models": "merge_models",
        "MergeSearch": "merge_search",
        "search_merge": "merge_search",
        "Recipe": "merge_recipe",
        "merge": "merging",
        "task_vectors": "merging",
        "Layout": "parallel_layout",
        "LayoutSpec": "parallel_layout",
        "ParamRule": "parallel_layout",
        "Rank": "parallel_layout",
        "reshard": "parallel_layout",
        "shard": "parallel_layout",
        "unshard": "parallel_layout",
        "rules_for": "parallel_rules",
        "SparsityReport": "prune",
        "keep_masks": "prune",
        "prune": "prune",
        "sparsity_report": "prune",
        "sce_merge": "sce",
        "Interference": "task_interference",
        "interference": "task_interference",
        "TrainingState": "universal_checkpoint",
        "load_rank": "universal_checkpoint",
        "load_training_state": "universal_checkpoint",
        "open_training_state": "universal_checkpoint",
        "save_layout": "universal_checkpoint",
        "save_rank": "universal_checkpoint",
        "save_training_state": "universal_checkpoint",
        "training_state": "universal_checkpoint",
    },
)
