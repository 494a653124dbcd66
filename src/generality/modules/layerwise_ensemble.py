"""LEVI: heads on several layers of a pretrained model, each beside one small model from scratch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.utils import ModelOutput

from generality.models import HiddenStatePooler

TrainBackbone = Literal[False, "lora", "full"]


@dataclass
class LayerwiseOutput(ModelOutput):
    """What `LayerwiseEnsemble` returns: a dict with attributes, as `transformers` models do."""

    loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "batch outputs"] | None = None
    """Of the ensemble. For classes the log of the mean probability, so softmax gives the mean."""
    per_layer: Float[Tensor, "batch views outputs"] | None = None
    """Each head's own logits or values."""


class LayerwiseEnsemble(nn.Module):
    """The mean of K heads, head k on [LayerNorm(hidden state of layer k); small model's output].

    Early layers know the general, late ones what pretraining was about, the small model the task.
    Every head learns the same labels (see `layerwise_loss`) and all share the one small model, so
    that what is peculiar to one view is outvoted by the others.

    It is called as `transformers` models are and returns a dict with `loss` where there are
    `labels`, so `Trainer` and `generality.lab.train(..., loss=None)` train it as it is. Where the
    backbone is frozen its features can be computed once and given as `hidden` (in the order of
    `layers`, pooled, not normalised), with `backbone=None` if it is not needed otherwise.

    Source: Roh et al. 2024, LEVI (arXiv 2402.04644). The paper's widths, layers and learning
    rates could not be recovered; those here are defaults, and one hidden layer a head is a choice.

    Args:
        backbone: a `transformers` model that gives hidden states, or None for given features.
        task_model: from (input_ids, attention_mask), or from pixel_values, to (batch, `task_dim`);
            None leaves it out (layer-wise heads only).
        layers: hidden states to read, counted as transformers does (0 are the embeddings, -1 is
            the last). None at all, `()`, is the small model alone with one head.
        num_outputs: classes, or values for "regression".
        task_dim: width of the task model's output; None: its attribute `dim`.
        hidden_size: width of the hidden states; needed without a backbone.
        head_hidden: width of a head's hidden layer.
        dropout: in the heads, in [0, 1).
        task_dropout: on the task model's output, in [0, 1), that it should not dominate.
        pooling: of tokens (of an image's patches), "mean", "last" or "cls".
        problem: "classification" (cross-entropy, mean of probabilities) or "regression" (squared
            error, mean of values).
        train_backbone: False keeps it frozen and in eval mode; "lora" adds low-rank updates of
            rank 8 on every linear layer; "full" trains all of it.

    Raises:
        ValueError: there is no view at all, a width is missing, or an option is unknown.

    >>> from generality.modules import TinyTextEncoder
    >>> ensemble = LayerwiseEnsemble(None, TinyTextEncoder(100, 8, 1, 2), [2, 4], 3, hidden_size=5)
    >>> output = ensemble(input_ids=torch.ones(4, 6, dtype=int), hidden=torch.randn(4, 2, 5),
    ...                   labels=torch.tensor([0, 1, 2, 0]))
    >>> list(output), output["logits"].shape, output.per_layer.shape
    (['loss', 'logits', 'per_layer'], torch.Size([4, 3]), torch.Size([4, 2, 3]))
    """

    def __init__(
        self,
        backbone: nn.Module | None,
        task_model: nn.Module | None,
        layers: Sequence[int],
        num_outputs: int,
        *,
        task_dim: int | None = None,
        hidden_size: int | None = None,
        head_hidden: int = 256,
        dropout: float = 0.1,
        task_dropout: float = 0.2,
        pooling: str = "mean",
        problem: Literal["classification", "regression"] = "classification",
        train_backbone: TrainBackbone = False,
    ) -> None:
        super().__init__()
        if not layers and task_model is None:
            raise ValueError("an ensemble needs layers to read, or a task model")
        if problem not in ("classification", "regression"):
            raise ValueError(f"problem is 'classification' or 'regression', not '{problem}'")
        if train_backbone not in get_args(TrainBackbone):
            raise ValueError(f"train_backbone is False, 'lora' or 'full', not '{train_backbone}'")
        if backbone is not None:
            config: Any = backbone.config
            hidden_size = config.hidden_size
        if hidden_size is None:
            raise ValueError("without a backbone, give hidden_size, the width of the features")
        own = getattr(task_model, "dim", None) if task_dim is None else task_dim
        if task_model is not None and not own:
            raise ValueError("give task_dim, the width of the task model's output")
        width = int(own or 0) if task_model is not None else 0
        self.layers, self.problem, self.train_backbone = tuple(layers), problem, train_backbone
        self.backbone, self.task_model = backbone, task_model
        self.pooler = HiddenStatePooler(pooling)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in layers)
        self.task_dropout = nn.Dropout(task_dropout)
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear((hidden_size if layers else 0) + width, head_hidden),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(head_hidden, num_outputs),
            )
            for _ in range(max(len(self.layers), 1))
        )
        if backbone is not None and train_backbone != "full":
            backbone.requires_grad_(False)
        if backbone is not None and train_backbone == "lora":
            from peft import LoraConfig

            config = LoraConfig(r=8, lora_alpha=8, target_modules="all-linear")
            cast(Any, backbone).add_adapter(config)

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"] | None = None,
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        hidden: Float[Tensor, "batch layers dim"] | None = None,
        labels: Int[Tensor, " batch"] | Float[Tensor, "batch outputs"] | None = None,
        pixel_values: Float[Tensor, "batch channels height width"] | None = None,
    ) -> LayerwiseOutput:
        """Heads' outputs, their mean and, given `labels` (class ids, soft labels, values), loss.

        Of texts give `input_ids`, of images `pixel_values`, as the backbone takes them.
        """
        if hidden is None and self.layers:
            hidden = self.hidden_states(input_ids, attention_mask, pixel_values)
        if hidden is not None and self.layers and hidden.shape[1:2] != (len(self.layers),):
            raise ValueError(
                f"hidden has shape (batch, {len(self.layers)} layers, dim), not "
                f"{tuple(hidden.shape)}"
            )
        views: list[list[Tensor]] = [[] for _ in self.heads]
        for k, norm in enumerate(self.norms):
            assert hidden is not None
            views[k].append(norm(hidden[:, k].float()))
        if self.task_model is not None:
            given = (input_ids, attention_mask) if pixel_values is None else (pixel_values,)
            task = self.task_dropout(self.task_model(*given))
            for view in views:
                view.append(task)
        outputs = [head(torch.cat(v, dim=-1)) for head, v in zip(self.heads, views, strict=True)]
        per_layer = torch.stack(outputs, dim=1)
        loss = None if labels is None else layerwise_loss(per_layer, labels, self.problem)
        return LayerwiseOutput(loss=loss, logits=self.combine(per_layer), per_layer=per_layer)

    def hidden_states(
        self,
        input_ids: Int[Tensor, "batch tokens"] | None,
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        pixel_values: Float[Tensor, "batch channels height width"] | None = None,
    ) -> Float[Tensor, "batch layers dim"]:
        """The backbone's pooled hidden states of the chosen layers, from one pass."""
        if self.backbone is None or (input_ids is None and pixel_values is None):
            raise ValueError(
                "without a backbone and its input_ids or pixel_values, give the features as "
                "`hidden`"
            )
        inputs = {"pixel_values": pixel_values}
        if pixel_values is None:
            assert input_ids is not None
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            inputs = {"input_ids": input_ids, "attention_mask": mask}
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.train_backbone)):
            states = self.backbone(**inputs, output_hidden_states=True).hidden_states
            if pixel_values is not None:
                mask = torch.ones(states[-1].shape[:2], device=states[-1].device)
            return torch.stack([self.pooler(states[layer], mask) for layer in self.layers], dim=1)

    def combine(
        self, per_layer: Float[Tensor, "batch views outputs"]
    ) -> Float[Tensor, "batch outputs"]:
        """The mean of the heads: of values, or (as its log) of probabilities, never of logits."""
        if self.problem == "regression":
            return per_layer.mean(1)
        return per_layer.log_softmax(-1).logsumexp(1) - math.log(per_layer.shape[1])

    @torch.inference_mode()
    def predict_proba(
        self, examples: Sequence[Mapping[str, Any]], *, batch_size: int = 512
    ) -> Float[np.ndarray, "examples classes"]:
        """The mean probability of each class, in eval mode.

        Args:
            examples: each with "input_ids" (tokens of one text) and, where features are given
                instead of a backbone, "hidden" (layers, dim).
            batch_size: examples at once, padded to the longest of them.
        """
        was_training = self.training
        self.eval()
        device = next(self.parameters()).device
        parts = []
        for start in range(0, len(examples), batch_size):
            batch = examples[start : start + batch_size]
            ids = [torch.as_tensor(example["input_ids"]) for example in batch]
            inputs: dict[str, Tensor] = {
                "input_ids": nn.utils.rnn.pad_sequence(ids, batch_first=True),
                "attention_mask": nn.utils.rnn.pad_sequence(
                    [torch.ones_like(row) for row in ids], batch_first=True
                ),
            }
            if "hidden" in batch[0]:
                inputs["hidden"] = torch.tensor(np.stack([each["hidden"] for each in batch]))
            output = self(**{name: tensor.to(device) for name, tensor in inputs.items()})
            parts.append(output.logits.softmax(-1).cpu().numpy())
        self.train(was_training)
        return np.concatenate(parts)

    def train(self, mode: bool = True) -> LayerwiseEnsemble:
        """Training mode, but never for a frozen backbone."""
        super().train(mode)
        if self.backbone is not None and not self.train_backbone:
            self.backbone.eval()
        return self


def layerwise_loss(
    per_layer: Float[Tensor, "batch views outputs"],
    labels: Int[Tensor, " batch"] | Float[Tensor, "batch outputs"] | Float[Tensor, " batch"],
    problem: str = "classification",
) -> Float[Tensor, ""]:
    """Mean over views and batch of each view's own loss: not the loss of the mean prediction.

    Cross-entropy in nats (labels are class ids, or probabilities of each class), or the squared
    error. Each head has to be right alone; the loss of the mean would let one do all the work.

    >>> logits = torch.tensor([[[0.9, 0.1], [0.4, 0.6]]]).log()
    >>> round(layerwise_loss(logits, torch.tensor([0])).item(), 6)  # −(ln .9 + ln .4) / 2
    0.510826
    """
    batch, views, outputs = per_layer.shape
    if problem == "regression":
        return F.mse_loss(per_layer, labels.reshape(batch, 1, outputs).expand_as(per_layer))
    each = labels[:, None].expand(batch, views, *labels.shape[1:])
    return F.cross_entropy(per_layer.flatten(0, 1), each.flatten(0, 1))
