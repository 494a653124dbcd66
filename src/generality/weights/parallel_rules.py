"""What tensor parallelism does to the parameters of well-known architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from generality.errors import UserError, unknown
from generality.weights.parallel_layout import ParamRule

_LLAMA = (
    ParamRule(r".*\.(q|k|v|gate|up)_proj\.(weight|bias)", "column"),
    ParamRule(r".*\.(o|down)_proj\.weight", "row"),
    ParamRule(r".*(norm|layernorm)\.weight|.*\.(o|down)_proj\.bias", "replicated"),
    ParamRule(r".*embed_tokens\.weight|lm_head\.weight", "vocab"),
)
RULES: dict[str, tuple[ParamRule, ...]] = {
    "llama": _LLAMA,
    "gpt2": (
        ParamRule(r".*\.c_attn\.weight", "subparams", dim=1, sizes=(1, 1, 1)),
        ParamRule(r".*\.c_attn\.bias", "subparams", sizes=(1, 1, 1)),
        ParamRule(r".*\.mlp\.c_fc\.weight", "column", dim=1),
        ParamRule(r".*\.mlp\.c_fc\.bias", "column"),
        ParamRule(r".*\.c_proj\.weight", "row", dim=0),
        ParamRule(r".*\.c_proj\.bias|.*ln_(1|2|f)\.(weight|bias)|.*wpe\.weight", "replicated"),
        ParamRule(r".*wte\.weight|lm_head\.weight", "vocab"),
    ),
    "mixtral": (
        *_LLAMA,
        ParamRule(r".*\.block_sparse_moe\.experts\.\d+\.w[13]\.weight", "column"),
        ParamRule(r".*\.block_sparse_moe\.experts\.\d+\.w2\.weight", "row"),
        ParamRule(r".*\.block_sparse_moe\.gate\.weight", "replicated"),
    ),
    "replicated": (ParamRule(r".*", "replicated"),),
}
"""By the architecture's name in transformers; GPT-2's weights are inputs × outputs. "replicated" is
for layouts without tensor parallelism. Mixtral's as in checkpoints on disk."""


def rules_for(name: str) -> tuple[ParamRule, ...]:
    """Rules by an architecture's name, or from a JSON file: a list of `ParamRule`'s fields.

    Raises:
        UserError: no such name, or a file that holds no rules.

    >>> rules_for("llama")[1].kind
    'row'
    """
    if not name.endswith(".json"):
        if name not in RULES:
            raise unknown("set of rules", name, RULES)
        return RULES[name]
    try:
        told: list[dict[str, Any]] = json.loads(Path(name).read_text())
        return tuple(ParamRule(**{**rule, "sizes": tuple(rule.get("sizes", ()))}) for rule in told)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name} holds no rules ({error}). It is a list such as "
            '[{"pattern": ".*qkv.weight", "kind": "subparams", "sizes": [4, 2, 2]}].'
        ) from error
