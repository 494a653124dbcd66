"""A language model pruned for a domain: every weight's score, by general text, the domain, both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from generality.lab.train import TrainConfig, train
from generality.measures.weight_importance import (
    Scores,
    activation_importance,
    dual_importance,
    hessian_importance,
    linear_layers,
    magnitude_importance,
    taylor_importance,
)
from generality.objectives.ewc_anchor import EWCAnchor
from generality.training.layer_by_layer import prune_sparsegpt
from generality.training.token_batches import mean_loss, token_batches
from generality.weights.prune import Scope, prune

Texts = Sequence[Sequence[int]]
Calibration = Literal["general", "domain", "both"]


@dataclass(frozen=True)
class DomainPruning:
    """Scores of a causal language model's weights, from tokens of general and of domain texts.

    D-Pruner and what it is compared with, on the same texts. All but `sparsegpt` say which weights
    go; those that stay are the original ones (`pruned`).

    Args:
        model: of transformers, with Llama-like names; is not changed.
        general: tokens of general texts.
        domain: tokens of texts of the domain.
        tuning: of the domain training that Taylor scores come after; None: no training.
        strength: λ of D-Pruner's regulariser and of its working form, the anchor.
        batch_size: texts of a calibration batch; Taylor scores take texts one by one.
        seed: of the order of texts in the domain training.
        progress: told of that training's steps.
    """

    model: nn.Module
    general: Texts
    domain: Texts
    tuning: TrainConfig | None
    strength: float = 0.1
    batch_size: int = 8
    seed: int = 0
    progress: Callable[[int, int, dict[str, Any]], None] | None = None

    def pruned(
        self, scores: Scores, sparsity: float, *, scope: Scope = "matrix"
    ) -> dict[str, Tensor]:
        """The original weights without the lowest-scored share; Wanda counts it by "row"."""
        return prune(self.model.state_dict(), scores, sparsity, scope=scope)

    def magnitude(self) -> Scores:
        """|w|."""
        return magnitude_importance(self.model)

    def random(self) -> Scores:
        """Uniform numbers of the seed: what any score must beat."""
        drawn = torch.Generator().manual_seed(self.seed)
        layers = linear_layers(self.model)
        return {
            f"{n}.weight": torch.rand(m.weight.shape, generator=drawn) for n, m in layers.items()
        }

    def wanda(self, on: Calibration = "general") -> Scores:
        """|w| times the norm of its input."""
        return activation_importance(self.model, self._batches(on))

    def sparsegpt(self, sparsity: float, on: Calibration = "general") -> dict[str, Tensor]:
        """Weights cut and adjusted by SparseGPT."""
        return prune_sparsegpt(self.model, self._batches(on), sparsity)

    @cached_property
    def general_scores(self) -> Scores:
        """D-Pruner's step 1: what matters to general text."""
        return hessian_importance(self.model, self._batches("general"))

    def domain_scores(
        self, form: Literal["plain", "anchored", "released"] = "plain", *, cubic: bool = False
    ) -> Scores:
        """D-Pruner's steps 2 and 3: Taylor scores of the model trained on the domain.

        Args:
            form: "plain" without a regulariser: the domain alone. "released": the regulariser as
                the paper's code computes it, which is inert. "anchored": trained with λ Σ G (w −
                w₀)², whose gradient is part of the scores' too: what the regulariser means.
            cubic: add the released code's w³.
        """
        trained = self._held if form == "anchored" else self._plain
        anchor = self._anchor if form == "anchored" else None
        rate = 0.0 if self.tuning is None else self.tuning.learning_rate

        def loss(model: nn.Module, batch: Any) -> Tensor:
            return mean_loss(model, batch) + (0 if anchor is None else anchor(model))

        return taylor_importance(
            trained, token_batches(self.domain, 1), loss,
            general=self.general_scores if form == "released" else None,
            strength=self.strength, learning_rate=rate, cubic=cubic,
        )  # fmt: skip

    def released_share(self) -> float:
        """The most that the released regulariser adds to a weight's gradient, as a share of it.

        2 λ α² G |g| / n, with |g| from the domain's plain scores. In float32 a share below 6e-8
        changes nothing at all, so the difference of scores is often exactly zero.
        """
        if self.tuning is None:
            return 0.0
        rate, weights, n = self.tuning.learning_rate, self._plain.state_dict(), len(self.domain)
        plain = self.domain_scores("plain")
        shares = [
            2 * self.strength * rate**2 * self.general_scores[name] * scores
            / weights[name].abs().clamp_min(1e-12) / n**2
            for name, scores in plain.items()
        ]  # fmt: skip
        return max(float(share.max()) for share in shares)

    def dual_scores(self, form: Literal["plain", "anchored"] = "anchored") -> Scores:
        """General and domain scores joined by rank."""
        return dual_importance(self.general_scores, self.domain_scores(form), "rank")

    @cached_property
    def _anchor(self) -> EWCAnchor:
        return EWCAnchor(self.general_scores, dict(self.model.named_parameters()), self.strength)

    @cached_property
    def _plain(self) -> nn.Module:
        return self._trained(None)

    @cached_property
    def _held(self) -> nn.Module:
        return self._trained(self._anchor)

    def _trained(self, anchor: EWCAnchor | None) -> nn.Module:
        model = copy.deepcopy(self.model)
        if self.tuning is not None:
            examples = [{"input_ids": [*text], "labels": [*text]} for text in self.domain]
            place = str(next(model.parameters()).device.type)
            train(
                model if anchor is None else _Anchored(model, anchor), examples, None, self.tuning,
                seed=self.seed, device=place, progress=self.progress,
            )  # fmt: skip
        return model

    def _batches(self, on: Calibration) -> list[dict[str, Tensor]]:
        texts = {"general": self.general, "domain": self.domain}
        both = [*self.domain, *self.general]
        return token_batches(both if on == "both" else texts[on], self.batch_size)


class _Anchored(nn.Module):
    """A language model whose own loss has the anchor's penalty in it."""

    def __init__(self, model: nn.Module, anchor: EWCAnchor) -> None:
        super().__init__()
        self.model, self.anchor = model, anchor

    def forward(self, **batch: Tensor) -> Tensor:
        return self.model(**batch).loss + self.anchor(self.model)
