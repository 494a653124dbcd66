"""An image network with a new linear head: what is tuned on images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from generality.errors import UserError
from generality.models.atomic_folder import atomic_folder
from generality.models.device import resolve_device
from generality.models.efficientnet_lite import EfficientNetLite
from generality.models.load import fetch_model
from generality.models.saved_classifier import (
    check_target,
    read_classifier,
    write_classifier,
)
from generality.models.text_classifier import Tuning, lasting_name, public_name
from generality.models.vision_backbone import PREPARED, VisionBackbone

_PEFT = "base_model.model."  # in front of every name in a file of adapters


class ImageClassifier(nn.Module):
    """Class logits from an image network's pooled features, through a linear head, first 0.

    Args:
        body: the network; see `VisionBackbone`.
        num_labels: number of classes.
        tuning: "probe" (the body is frozen), "lora" (low-rank adapters, see `adapted_layers`) or
            "full".
        lora_rank: rank of the adapters.
        lora_alpha: their scale times the rank; None takes twice the rank.
        seed: of the adapters' first weights.

    Attributes:
        name: of the backbone, as given to `from_name`.
        label_names: of the classes; set by `from_pretrained`.

    Raises:
        ValueError: for a tuning that there is not.
        UserError: LoRA for a network in which there is nothing to adapt.

    >>> classifier = ImageClassifier.from_name("efficientnet-lite0", 3)  # doctest: +SKIP
    >>> classifier(torch.zeros(2, 3, 224, 224)).shape  # doctest: +SKIP
    torch.Size([2, 3])
    """

    name: str | None = None
    label_names: Sequence[str] = ()

    def __init__(
        self,
        body: VisionBackbone,
        num_labels: int,
        *,
        tuning: Tuning | str = "full",
        lora_rank: int = 8,
        lora_alpha: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if tuning not in get_args(Tuning):
            raise ValueError(f"tuning is one of {', '.join(get_args(Tuning))}, not '{tuning}'")
        self.body, self.tuning = body, tuning
        self.lora_rank, self.lora_alpha = lora_rank, lora_alpha or 2.0 * lora_rank
        place = next(body.parameters()).device
        # made without drawing random numbers, which would move the global generator
        self.head = nn.utils.skip_init(nn.Linear, body.width, num_labels, device=place)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if isinstance(body.model, EfficientNetLite):
            body.model._fc.requires_grad_(False)  # its own head takes no part
        if tuning != "full":
            body.requires_grad_(False)
        if tuning == "lora":
            self._add_adapters(seed)

    @classmethod
    def from_name(
        cls,
        name: str,
        num_labels: int,
        *,
        tuning: Tuning | str = "full",
        lora_rank: int = 8,
        device: str = "auto",
        seed: int = 0,
    ) -> ImageClassifier:
        """A classifier on a named backbone, as in `load_model`."""
        body = VisionBackbone(name).to(resolve_device(device))
        classifier = cls(body, num_labels, tuning=tuning, lora_rank=lora_rank, seed=seed)
        classifier.name = name
        return classifier

    def features(
        self, images: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """What the head reads, of RGB images: bytes, or floats in [0, 1]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.tuning != "probe"):
            features: Tensor = self.body(images)
        return features

    def forward(
        self, images: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes"]:
        """The logits of RGB images: bytes, or floats in [0, 1]."""
        logits: Tensor = self.head(self.features(images))
        return logits

    @torch.inference_mode()
    def predict_proba(
        self, images: Float[np.ndarray, "n 3 height width"], *, batch_size: int = 32
    ) -> Float[np.ndarray, "n classes"]:
        """Class probabilities, float32; runs in eval mode."""
        was_training, place = self.training, self.head.weight.device
        self.eval()
        batches = torch.as_tensor(images).split(batch_size)
        said = [self(batch.to(place)).float().softmax(-1).cpu() for batch in batches]
        self.train(was_training)
        return torch.cat(said).numpy()

    def save_pretrained(self, folder: str | Path, *, label_names: Sequence[str]) -> None:
        """Write the classifier to `folder`, whole or not at all; an older one there is replaced.

        `classifier.json` and `head.safetensors` are ours. Beside them lies, with full tuning, the
        backbone as `load_model` reads it; with adapters only those, as `peft` saves them; with a
        probe nothing.

        Raises:
            ValueError: not one name a class, or no backbone name to refer to.
        """
        folder = Path(folder)
        check_target(folder, label_names, self.head)
        if self.name is None:
            raise ValueError("the classifier refers to its backbone by name; set .name first")
        saved = {
            "name": lasting_name(self.name),
            "label_names": list(label_names),
            "tuning": self.tuning,
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
        }
        with atomic_folder(folder) as fresh:
            write_classifier(fresh, saved, self.head.state_dict())
            if self.tuning == "full":
                model: nn.Module = self.body.model
                model.save_pretrained(fresh)  # type: ignore[operator]
                for settings in (fetch_model(self.name) / name for name in PREPARED):
                    if settings.is_file():
                        (fresh / settings.name).write_bytes(settings.read_bytes())
            elif self.tuning == "lora":
                self._save_adapters(fresh)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "auto") -> ImageClassifier:
        """The classifier that `save_pretrained` wrote, in eval mode.

        Raises:
            UserError: the folder holds none, or its backbone cannot be had.
        """
        folder = Path(folder)
        saved, head = read_classifier(folder)
        try:
            adapters = (
                load_file(folder / "adapter_model.safetensors") if saved["tuning"] == "lora" else {}
            )
            body = VisionBackbone(
                str(folder.resolve()) if saved["tuning"] == "full" else saved["name"]
            )
            settings = {key: saved[key] for key in ("tuning", "lora_rank", "lora_alpha")}
            classifier = cls(body, len(head["weight"]), **settings)
            classifier.head.load_state_dict(head)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(f"'{folder}' holds no saved classifier: {error}") from error
        weights = {_ours(name): tensor for name, tensor in adapters.items()}
        if body.tower.load_state_dict(weights, strict=False).unexpected_keys:
            raise UserError(f"The adapters in '{folder}' do not fit '{saved['name']}'.")
        classifier.name, classifier.label_names = saved["name"], saved["label_names"]
        return classifier.to(resolve_device(device)).eval()

    def _add_adapters(self, seed: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        names = adapted_layers(self.body.tower)
        if not names:
            raise UserError("The network has no linear layer or convolution that LoRA can adapt.")
        device = self.head.weight.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            config = LoraConfig(r=self.lora_rank, lora_alpha=self.lora_alpha, target_modules=names)
            inject_adapter_in_model(config, self.body.tower)

    def _save_adapters(self, folder: Path) -> None:
        from peft import LoraConfig

        weights = {
            _PEFT + name.replace(".default.", "."): each.detach().cpu().contiguous()
            for name, each in self.body.tower.state_dict().items()
            if ".lora_" in name
        }
        save_file(weights, folder / "adapter_model.safetensors")
        names = sorted({name.split(".lora_")[0].removeprefix(_PEFT) for name in weights})
        LoraConfig(
            r=self.lora_rank,
            lora_alpha=self.lora_alpha,
            target_modules=names,
            base_model_name_or_path=public_name(str(self.name)),
        ).save_pretrained(folder)


def adapted_layers(network: nn.Module) -> list[str]:
    """Names of the layers that get low-rank adapters.

    All linear layers and convolutions but: grouped ones (a depthwise filter has no rank to lower),
    those of classes of their own, unless they see one pixel at a time (an adapter does not know how
    they pad), and EfficientNet-Lite's own head.

    >>> adapted_layers(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=8)))
    ['0']
    """

    def fits(name: str, layer: nn.Module) -> bool:
        if isinstance(layer, nn.Conv2d):
            return layer.groups == 1 and (type(layer) is nn.Conv2d or layer.kernel_size == (1, 1))
        return type(layer) is nn.Linear and name != "_fc"

    return [name for name, layer in network.named_modules() if fits(name, layer)]


def _ours(name: str) -> str:
    """A weight's name in the network, from that in a file of adapters."""
    layer, _, weight = name.removeprefix(_PEFT).rpartition(".")
    return f"{layer}.default.{weight}"
