"""Students of every kind of tuning, behind one interface."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from generality.compare.winner import save_probe, save_tuned
from generality.errors import UserError, unknown
from generality.estimators.soft_probe import moments, standardised
from generality.lab import Lab, TrainConfig
from generality.lab.replicate import zero_head
from generality.models import TextClassifier, fetch_model
from generality.models.hidden_states import Pooling
from generality.models.identity import model_identity

TUNINGS = ("probe", "lora", "full")
_EPOCHS = {"probe": 10, "lora": 2, "full": 2}
_LEARNING_RATES = {"probe": 5e-4, "lora": 5e-4, "full": 5e-5}  # Adam, batch 32


@dataclass(frozen=True)
class Recipe:
    """What the student is and how it is trained; the same for every method and the ceiling.

    Attributes:
        model: name, `hf:org/name` or path of the backbone.
        tuning: "probe" (linear, on frozen standardised features), "lora" or "full".
        layer: hidden state read; None is the last.
        pooling: "mean", "last", "cls" or None for the model's own.
        epochs: passes over the training rows; None is 10 for probes and 2 otherwise.
        max_length: tokens of a text that are read.
    """

    model: str
    tuning: str = "probe"
    layer: int | None = None
    pooling: str | None = None
    epochs: int | None = None
    max_length: int = 256

    @property
    def passes(self) -> int:
        """Epochs."""
        return self.epochs or _EPOCHS[self.tuning]

    @property
    def learning_rate(self) -> float:
        """At its highest."""
        return _LEARNING_RATES[self.tuning]

    def check(self) -> None:
        """Raise a `UserError` for a recipe that cannot be followed, before anything is computed."""
        if self.tuning not in TUNINGS:
            raise unknown("tuning", self.tuning, TUNINGS)
        if self.model == "bag-of-words" and self.tuning != "probe":
            raise UserError("bag-of-words has no weights to tune; use --tuning probe.")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"--epochs {self.epochs}: train for at least one.")
        if self.max_length < 1:
            raise UserError(f"--max-length {self.max_length}: read at least one token.")
        if self.pooling is not None and self.pooling not in get_args(Pooling):
            raise unknown("pooling", self.pooling, get_args(Pooling))
        model_identity(self.model)
        if self.model != "bag-of-words":
            self._check_backbone(fetch_model(self.model))

    def _check_backbone(self, folder: Path) -> None:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except (ValueError, KeyError, OSError) as error:
            raise UserError(f"'{self.model}' is no model that reads text.") from error
        depth = getattr(config, "num_hidden_layers", None)
        if self.layer is not None and depth and not -depth - 1 <= self.layer <= depth:
            raise UserError(
                f"--layer {self.layer}: '{self.model}' has hidden states 0 to {depth} (the last, "
                f"also -1)."
            )


class Students(Protocol):
    """One student per seed, or one to keep."""

    def predict(
        self,
        objective: Callable[..., Any],
        rows: Int[np.ndarray, "seeds n"],
        targets: Float[np.ndarray, "seeds n classes"],
        ask: Int[np.ndarray, "seeds m"],
    ) -> Float[np.ndarray, "seeds m classes"]:
        """Train student s on rows[s] towards targets[s] with seed s; its answers for ask[s]."""

    def save(
        self,
        folder: Path,
        objective: Callable[..., Any],
        rows: Int[np.ndarray, " n"],
        targets: Float[np.ndarray, "n classes"],
        about: dict[str, Any],
    ) -> None:
        """Train one student with seed 0 and keep it in `folder`."""


def make_students(lab: Lab, texts: list[str], recipe: Recipe, classes: int) -> Students:
    """The students for a recipe, on these texts; targets may have further columns than classes."""
    if recipe.tuning == "probe":
        return ProbeStudents(lab, texts, recipe, classes)
    return TunedStudents(lab, texts, recipe, classes)


class ProbeStudents:
    """Linear probes: features once, all seeds of an arm trained together.

    A loss that remembers (`SelfDistillation`) trains one seed after another, in the same steps.
    Features are standardised with the moments of all texts (inputs only; no label is used).
    """

    def __init__(self, lab: Lab, texts: list[str], recipe: Recipe, classes: int) -> None:
        self.lab, self.recipe, self.classes = lab, recipe, classes
        features = lab.embed(
            recipe.model,
            texts,
            layer=recipe.layer,
            pooling=recipe.pooling,
            max_length=recipe.max_length,
        )
        self.mean, self.scale = moments(features)
        self.features = standardised(features, self.mean, self.scale)

    def predict(
        self,
        objective: Callable[..., Any],
        rows: Int[np.ndarray, "seeds n"],
        targets: Float[np.ndarray, "seeds n classes"],
        ask: Int[np.ndarray, "seeds m"],
    ) -> Float[np.ndarray, "seeds m classes"]:
        """See `Students`."""
        weights = self._train(objective, rows, targets)
        said = (torch.as_tensor(self.features) @ weights.mT).softmax(-1).numpy()
        return np.take_along_axis(said, ask[..., None], axis=1)

    def save(
        self,
        folder: Path,
        objective: Callable[..., Any],
        rows: Int[np.ndarray, " n"],
        targets: Float[np.ndarray, "n classes"],
        about: dict[str, Any],
    ) -> None:
        """See `Students`."""
        weights = self._train(objective, rows[None], targets[None])
        tensors = {
            "weight": weights[0],
            "mean": torch.from_numpy(self.mean.astype(np.float32)),
            "scale": torch.from_numpy(self.scale.astype(np.float32)),
        }
        save_probe(folder, tensors, about)

    def _train(
        self, objective: Callable[..., Any], rows: np.ndarray, targets: np.ndarray
    ) -> Float[Tensor, "seeds classes dim"]:
        """The weights of each seed's probe."""
        dim, epochs, rate = self.features.shape[1], self.recipe.passes, self.recipe.learning_rate
        if not (isinstance(objective, torch.nn.Module) and list(objective.buffers())):
            trained = self.lab.replicate(
                zero_head(dim, self.classes),
                self.features,
                targets,
                rows=rows,
                loss=objective,
                seeds=range(len(rows)),
                learning_rate=rate,
                epochs=epochs,
                optimizer="adam",
            )
            return trained.parameters["weight"]
        fitted = [
            self.lab.fit(
                functools.partial(_head, dim=dim, classes=self.classes),
                self.features[rows[seed]],
                targets[seed],
                objective=objective,
                config=TrainConfig(epochs=epochs, learning_rate=rate, schedule="constant"),
                seed=seed,
                predict={},
                keep_weights=True,
            )
            for seed in range(len(rows))
        ]
        return torch.stack([each.weights["weight"] for each in fitted])


class TunedStudents:
    """Backbones whose weights learn, one training per seed, wherever the lab runs them."""

    def __init__(self, lab: Lab, texts: list[str], recipe: Recipe, classes: int) -> None:
        self.lab, self.texts, self.recipe, self.classes = lab, texts, recipe, classes

    def predict(
        self,
        objective: Callable[..., Any],
        rows: Int[np.ndarray, "seeds n"],
        targets: Float[np.ndarray, "seeds n classes"],
        ask: Int[np.ndarray, "seeds m"],
    ) -> Float[np.ndarray, "seeds m classes"]:
        """See `Students`."""
        items = [
            (
                self.recipe,
                self._texts(rows[s]),
                targets[s],
                objective,
                self._texts(ask[s]),
                s,
                self.classes,
            )
            for s in range(len(rows))
        ]
        return np.stack(list(self.lab.map(_tuned, items, description="Tuning students")))

    def save(
        self,
        folder: Path,
        objective: Callable[..., Any],
        rows: Int[np.ndarray, " n"],
        targets: Float[np.ndarray, "n classes"],
        about: dict[str, Any],
    ) -> None:
        """See `Students`."""
        recipe = self.recipe
        tuned = _finetune(
            self.lab,
            recipe,
            self._texts(rows),
            targets,
            objective,
            {},
            0,
            self.classes,
            keep_weights=True,
        )
        classifier = TextClassifier.from_name(
            recipe.model,
            self.classes,
            pooling=recipe.pooling,
            layer=-1 if recipe.layer is None else recipe.layer,
            tuning=recipe.tuning,
            device=self.lab.device,
        )
        with torch.no_grad():
            for name, parameter in classifier.named_parameters():
                if name in tuned.weights:
                    parameter.copy_(tuned.weights[name])
        save_tuned(folder, classifier, about)

    def _texts(self, rows: np.ndarray) -> list[str]:
        return [self.texts[row] for row in rows]


def _head(seed: int, dim: int, classes: int) -> torch.nn.Module:
    return zero_head(dim, classes)


def _tuned(lab: Lab, item: tuple[Any, ...]) -> Float[np.ndarray, "m classes"]:
    recipe, texts, targets, objective, ask, seed, classes = item
    tuned = _finetune(lab, recipe, texts, targets, objective, {"ask": ask}, seed, classes)
    return tuned.probabilities["ask"]


def _finetune(
    lab: Lab,
    recipe: Recipe,
    texts: list[str],
    targets: np.ndarray,
    objective: Callable[..., Any],
    predict: dict[str, list[str]],
    seed: int,
    classes: int,
    **options: Any,
) -> Any:
    return lab.finetune(
        recipe.model,
        texts,
        targets,
        objective=objective,
        config=TrainConfig(epochs=recipe.passes, learning_rate=recipe.learning_rate),
        predict=predict,
        seed=seed,
        tuning=recipe.tuning,
        pooling=recipe.pooling,
        layer=-1 if recipe.layer is None else recipe.layer,
        max_length=recipe.max_length,
        classes=classes,
        **options,
    )
