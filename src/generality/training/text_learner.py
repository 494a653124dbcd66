"""A text classifier by one call, whether it is a probe of frozen features or tuned whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from generality.estimators.soft_probe import moments, standardised
from generality.lab import Lab, TrainConfig
from generality.objectives import soft_cross_entropy


@dataclass(frozen=True)
class TextLearner:
    """A model that learns soft labels of texts and says what others are.

    A probe is a linear layer on features standardised over the texts it learns from; all seeds of
    a probe are the same, since it starts at zero and sees its texts in one order.

    Args:
        model: a name as in `lab.embed` (probe) or `lab.finetune`.
        tuning: "probe", "lora" or "full".
        epochs: over the texts.
        learning_rate: of Adam; constant for a probe.
        max_length: tokens of a text that a tuned model reads.

    >>> import tempfile
    >>> from pathlib import Path
    >>> lab = Lab(home=Path(tempfile.mkdtemp()), device="cpu", progress=False)
    >>> learner = TextLearner("bag-of-words", epochs=40, learning_rate=0.05)
    >>> said = learner.predict_proba(lab, ["good film", "bad film"], np.eye(2), ["so good"])
    >>> said.argmax(1)
    array([0])
    """

    model: str
    tuning: str = "probe"
    epochs: int = 10
    learning_rate: float = 5e-4
    max_length: int = 1024

    def predict_proba(
        self,
        lab: Lab,
        texts: Sequence[str],
        targets: Float[np.ndarray, "texts classes"],
        ask: Sequence[str],
        seed: int = 0,
    ) -> Float[np.ndarray, "asked classes"]:
        """Class probabilities of the texts asked about, after learning the others; kept."""
        if self.tuning != "probe":
            schedule = TrainConfig(epochs=self.epochs, learning_rate=self.learning_rate)
            return lab.finetune(
                self.model, texts, targets, objective=soft_cross_entropy, config=schedule,
                predict={"ask": ask}, seed=seed, tuning=self.tuning, max_length=self.max_length,
            ).probabilities["ask"]  # fmt: skip
        features = np.asarray(lab.embed(self.model, [*texts, *ask]))
        known = standardised(features, *moments(features[: len(texts)]))
        return lab.probe(
            known, np.arange(len(texts))[None], targets[None].astype(np.float32),
            epochs=self.epochs, learning_rate=self.learning_rate, optimizer="adam",
        )[0, len(texts) :]  # fmt: skip
