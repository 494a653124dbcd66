"""EfficientNet-Lite: EfficientNet without what small devices dislike."""

from __future__ import annotations

import json
import math
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

# kernel, stride, expansion, output channels, repeats (Tan and Le 2019, table 1)
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_SCALES = {0: (1.0, 1.0, 224, 0.2), 1: (1.0, 1.1, 240, 0.2), 2: (1.1, 1.2, 260, 0.3)}
_FEATURES = 1280


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0, 1 or 2: inverted bottlenecks, ReLU6, no squeeze-and-excitation.

    Stem, head and the repeats of the first and last stage are not scaled. Padding is that of
    TensorFlow's "SAME" for the size of the image given, so the pretrained weights fit.

    Source: Tan and Le 2019 (arXiv 1905.11946); the Lite variants are from the TensorFlow TPU
    models. Parameter names are those of the `efficientnet_lite_pytorch` checkpoints.

    Args:
        variant: 0, 1 or 2.
        num_classes: length of the logits.

    Raises:
        ValueError: for any other variant.

    >>> import torch
    >>> model = EfficientNetLite(0, num_classes=5).eval()
    >>> model.image_size, model.features(torch.zeros(2, 3, 32, 32)).shape
    (224, torch.Size([2, 1280]))
    """

    def __init__(self, variant: int, num_classes: int = 1000) -> None:
        super().__init__()
        if variant not in _SCALES:
            raise ValueError(f"EfficientNet-Lite has variants {sorted(_SCALES)}, not {variant}")
        self.variant = variant
        width, depth, self.image_size, dropout = _SCALES[variant]
        self._conv_stem = _SameConv2d(3, 32, 3, stride=2)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList()
        channels = 32
        for stage, (kernel, stride, expansion, out, repeats) in enumerate(_STAGES):
            out = _round_to_eight(out * width)
            if 0 < stage < len(_STAGES) - 1:
                repeats = math.ceil(repeats * depth)
            for repeat in range(repeats):
                block = _Block(channels, out, kernel, stride if repeat == 0 else 1, expansion)
                self._blocks.append(block)
                channels = out
        self._conv_head = _SameConv2d(channels, _FEATURES, 1)
        self._bn1 = _norm(_FEATURES)
        self._dropout = nn.Dropout(dropout)
        self._fc = nn.Linear(_FEATURES, num_classes)

    def features(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 1280"]:
        """The averaged last feature map; images are RGB, normalised as on ImageNet."""
        x = F.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes"]:
        """The logits of the ImageNet classes; images are RGB, normalised as on ImageNet."""
        return self._fc(self._dropout(self.features(images)))

    @classmethod
    def from_folder(cls, folder: Path) -> EfficientNetLite:
        """The model whose `config.json` and `model.safetensors` are in `folder`."""
        from safetensors.torch import load_file

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
        model = cls(config["variant"], num_classes=len(weights["_fc.bias"]))
        model.load_state_dict(weights)
        return model

    def save_pretrained(self, folder: Path) -> None:
        """Write what `from_folder` reads."""
        from safetensors.torch import save_file

        config = {
            "architectures": ["EfficientNetLite"],
            "variant": self.variant,
            "image_size": self.image_size,
        }
        (folder / "config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")
        weights = {
            name: each.detach().cpu().contiguous() for name, each in self.state_dict().items()
        }
        save_file(weights, folder / "model.safetensors")


class _Block(nn.Module):
    """Expand, filter each channel, project; add the input where shapes allow."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.residual = stride == 1 and channels == out
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = _SameConv2d(channels, inner, 1)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = _SameConv2d(inner, out, 1)
        self._bn2 = _norm(out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        inner = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = F.relu6(self._bn1(self._depthwise_conv(inner)))
        projected = self._bn2(self._project_conv(inner))
        return x + projected if self.residual else projected


class _SameConv2d(nn.Conv2d):
    """A convolution padded like TensorFlow's "SAME": an odd pixel goes to the right and below.

    Arguments as of `nn.Conv2d`, of which peft makes low-rank copies; its own padding is none.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        *,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(channels, out, kernel, stride, padding, groups=groups, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (
            max((math.ceil(size / stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:]
        )
        if height or width:
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _round_to_eight(channels: float) -> int:
    """The nearest multiple of 8, but never more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
