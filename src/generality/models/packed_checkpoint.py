"""Packed models through `transformers`' own `save_pretrained` and `from_pretrained`.

Importing this module teaches transformers the method "generality-packed" by its registry of
quantisers; `generality.load_model` does so by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from generality.models.load import PACKED
from generality.models.packed_linear import PackedLinear


@register_quantization_config(PACKED)
class PackedConfig(QuantizationConfigMixin):
    """What config.json says of a packed model: bits, group size, and which layers are packed."""

    def __init__(
        self, bits: int = 4, group: int = 128, layers: list[str] | None = None, **_: Any
    ) -> None:
        self.quant_method: Any = PACKED
        self.bits, self.group, self.layers = bits, group, layers or []


@register_quantizer(PACKED)
class PackedQuantizer(HfQuantizer):
    """Puts `PackedLinear` where the configuration says, before weights are read by name."""

    requires_calibration = True
    quantization_config: Any

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Needs nothing beyond torch."""

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        about = self.quantization_config
        for name in about.layers or ():
            linear = model.get_submodule(name)
            packed = PackedLinear(
                linear.out_features, linear.in_features, bits=about.bits, group=about.group,
                bias=linear.bias is not None,
            ).to(linear.weight.device)  # fmt: skip
            model.set_submodule(name, packed)

    def is_serializable(self) -> bool:
        """Saved again as it was read."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Integers are not trained."""
        return False


def save_packed(model: nn.Module, folder: Path) -> None:
    """Writes a transformers model whose layers were packed by `quantized_model`.

    `AutoModelForCausalLM.from_pretrained(folder)` reads it after `import
    generality.models.packed_checkpoint`; so does `generality.load_model(folder)`.

    Raises:
        ValueError: the model has no packed layer.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, PackedLinear)}
    if not layers:
        raise ValueError("the model has no packed layer: see `quantized_model`")
    first = next(iter(layers.values()))
    writable: Any = model
    writable.config.quantization_config = PackedConfig(first.bits, first.group, list(layers))
    writable.save_pretrained(folder, safe_serialization=True)
