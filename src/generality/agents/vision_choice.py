"""Multimodal models that choose: CLIP's pair of encoders, and chat models that see."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from generality.agents.choice import Choice, ChoiceTask, Demo
from generality.agents.choice_models import demos_of_each, likeliest, picture, read
from generality.errors import UserError
from generality.models import fetch_model, resolve_device
from generality.models.identity import model_identity


class ClipZeroShot:
    """CLIP and its kin: the class whose name fits the image best. Demos are not looked at.

    Args:
        model: "hf:openai/clip-vit-base-patch16" or another that transformers takes for zero-shot
            image classification, or its folder; weights in safetensors. Needs Pillow.
        template: where a name stands, such as "a photo of a {}"; None: raw names, as the paper.
        batch: images at a time.
        device: "auto", "cpu", "cuda" or "mps".

    Source: Radford et al. 2021 (arXiv 2103.00020); raw names as in Han et al. 2023.
    """

    def __init__(
        self,
        model: str = "hf:openai/clip-vit-base-patch16",
        *,
        template: str | None = None,
        batch: int = 32,
        device: str = "auto",
    ) -> None:
        if template is not None and "{}" not in template:
            raise ValueError(f"a template holds {{}} where the name goes, not '{template}'")
        self.model, self.template, self.batch, self.device = model, template, batch, device

    @cached_property
    def fingerprint(self) -> str:
        """Weights and settings."""
        return f"clip:{model_identity(self.model)}:{self.template}"

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return _load("AutoModelForZeroShotImageClassification", self.model, self.device)

    @torch.inference_mode()
    def predict(
        self, task: ChoiceTask, demos: Sequence[Sequence[Demo]] | None = None
    ) -> list[Choice]:
        """The class whose name has the largest image-text logit, for every image."""
        network, processor = self._loaded
        names = [self.template.format(n) if self.template else n for n in task.classes]
        found: list[Choice] = []
        for start in range(0, len(task), self.batch):
            images = [picture(item) for item in task.items[start : start + self.batch]]
            inputs = processor(text=names, images=images, return_tensors="pt", padding=True)
            logits = network(**inputs.to(network.device)).logits_per_image
            found += likeliest(logits.double().cpu().numpy(), task.classes)
        return found


class VisionChat:
    """A chat model that sees, through transformers: LLaVA, Qwen2-VL, SmolVLM, Idefics.

    Args:
        model: "hf:llava-hf/llava-1.5-13b-hf" or another that transformers takes for image-text-to-
            text, or its folder. Needs Pillow.
        max_tokens: of an answer.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: of the weights; None: half precision on a GPU, single precision elsewhere.

    Answers are the likeliest ones (the paper: the provider's default temperature).
    """

    def __init__(
        self,
        model: str,
        *,
        max_tokens: int = 500,
        device: str = "auto",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.max_tokens, self.device, self.dtype = model, max_tokens, device, dtype

    @cached_property
    def fingerprint(self) -> str:
        """Weights and settings."""
        return f"vision-chat:{model_identity(self.model)}:{self.max_tokens}:{self.dtype}"

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return _load("AutoModelForImageTextToText", self.model, self.device, self.dtype)

    @torch.inference_mode()
    def predict(
        self, task: ChoiceTask, demos: Sequence[Sequence[Demo]] | None = None
    ) -> list[Choice]:
        """What is said about every image, one after another."""
        network, processor = self._loaded
        found = []
        for index, shown in enumerate(demos_of_each(task, demos)):
            turns = []
            for item, label in shown:
                turns += [
                    _turn("user", task.ask(index), item),
                    _turn("assistant", f"Answer Choice: [{label}]"),
                ]
            inputs = processor.apply_chat_template(
                [*turns, _turn("user", task.ask(index), task.items[index])],
                add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            ).to(network.device, network.dtype)  # fmt: skip
            tokens = network.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
            said = tokens[:, inputs["input_ids"].shape[1] :]
            [text] = processor.batch_decode(said, skip_special_tokens=True)
            found.append(read(text, task.classes))
        return found


def _turn(role: str, text: str, item: Any = None) -> dict[str, Any]:
    seen = [] if item is None else [{"type": "image", "image": picture(item)}]
    return {"role": role, "content": [*seen, {"type": "text", "text": text}]}


def _load(kind: str, model: str, device: str, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """A network and its processor. Raises UserError where they cannot be had safely."""
    import transformers

    folder, where = fetch_model(model), resolve_device(device)
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"The model '{model}' has no safetensors weights; pickled ones are unsafe.")
    precise = dtype or (torch.float16 if where.type == "cuda" else torch.float32)
    try:
        network = getattr(transformers, kind).from_pretrained(
            folder, dtype=precise, use_safetensors=True, trust_remote_code=False
        )
        processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise UserError(f"The model '{model}' cannot be loaded as {kind}: {error}") from error
    return network.to(where).eval(), processor
