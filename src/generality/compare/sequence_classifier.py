"""A `transformers` classifier as it comes, asked for probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from generality.errors import UserError
from generality.models import fetch_model, load_tokenizer, resolve_device
from generality.models.quiet import quiet


class SequenceClassifier:
    """A sequence-classification model from a folder or the hub.

    Args:
        name: a folder, or `hf:org/name`.
        device: "auto", "cpu", "cuda" or "mps".
        max_length: texts are cut to this many tokens.

    Attributes:
        label_names: the classes, as the model's own configuration names them.

    Raises:
        UserError: it cannot be loaded safely, or gives no class probabilities.
    """

    text: str | None = None

    def __init__(self, name: str, *, device: str = "auto", max_length: int = 256) -> None:
        from transformers import AutoModelForSequenceClassification

        folder = fetch_model(name)
        if not any(Path(folder).glob("*.safetensors")):
            raise UserError(
                f"The model '{name}' has no safetensors weights, and pickled ones are not read; "
                "convert it first (save_pretrained does)."
            )
        try:
            with quiet():
                self.model: Any = AutoModelForSequenceClassification.from_pretrained(
                    folder, use_safetensors=True, trust_remote_code=False
                )
        except (ValueError, KeyError, OSError) as error:
            raise UserError(f"The model '{name}' cannot be loaded: {error}") from error
        config = self.model.config
        if config.num_labels < 2 or config.problem_type not in (
            None,
            "single_label_classification",
        ):
            raise UserError(f"The model '{name}' gives no probabilities of two or more classes.")
        self.tokenizer = load_tokenizer(name)
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model.to(resolve_device(device)).eval()
        self.max_length = max_length
        self.label_names = [str(config.id2label[index]) for index in range(config.num_labels)]

    @torch.inference_mode()
    def predict_proba(
        self, texts: Sequence[str], *, batch_size: int = 32
    ) -> Float[np.ndarray, "texts classes"]:
        """Class probabilities of each text, in the order of `label_names`."""
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        result = np.zeros((len(texts), len(self.label_names)), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = self.tokenizer(
                [texts[index] for index in chosen],
                truncation=True,
                max_length=self.max_length,
                padding=True,
                return_tensors="pt",
            ).to(self.model.device)
            result[chosen] = self.model(**batch).logits.float().softmax(-1).cpu().numpy()
        return result
