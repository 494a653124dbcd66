"""Weak to strong where the supervision is text: a weak model writes what a strong one learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from generality.lab import Lab, TrainConfig
from generality.measures.outcome_metrics import TextScorer
from generality.training.writer import Writer


class WeakToStrongLM:
    """The ladder of weak to strong for generation.

    The weak writer learns from prompts with right continuations and continues other prompts; the
    strong one learns from these continuations alone. Ceiling: the strong one on right
    continuations of the same prompts.

    Args:
        lab: where the work is done and kept.
        weak: the supervisor.
        strong: the student.
        config: of each tuning.
        max_tokens: of a continuation.
        temperature: at which continuations are drawn; 0 is greedy.
        top_p: share of probability they are drawn from.

    Source: Ye et al. 2024 (arXiv 2410.12621), the track on toxicity: temperature 0.7, top-p 0.95
    (their top-k of 50 and ban on repeated bigrams are left out).
    """

    def __init__(
        self,
        lab: Lab,
        weak: Writer,
        strong: Writer,
        *,
        config: TrainConfig,
        max_tokens: int = 32,
        temperature: float = 0.7,
        top_p: float = 0.95,
    ) -> None:
        self.lab, self.weak, self.strong, self.config = lab, weak, strong, config
        self.options: dict[str, Any] = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
        }

    def tune(
        self, writer: Writer, prompts: Sequence[str], texts: Sequence[str], seed: int
    ) -> Writer:
        """The writer after learning these continuations."""
        return writer.tuned(self.lab, prompts, texts, config=self.config, seed=seed)

    def write(
        self, writer: Writer, prompts: Sequence[str], *, samples: int, seed: int
    ) -> list[list[str]]:
        """Continuations of each prompt, drawn."""
        return writer.write(self.lab, prompts, samples=samples, seed=seed, **self.options)

    def supervision(
        self,
        supervisor: Writer,
        prompts: Sequence[str],
        *,
        seed: int,
        samples: int = 1,
        scorer: TextScorer | None = None,
    ) -> list[str]:
        """What the supervisor writes for each prompt; with a scorer, the least harmful sample.

        The scorer should not be the one that judges the outcome.
        """
        drawn = self.write(supervisor, prompts, samples=samples, seed=seed)
        if scorer is None:
            return [texts[0] for texts in drawn]
        scores = np.asarray(scorer([text for texts in drawn for text in texts]))
        best = scores.reshape(len(drawn), samples).argmin(1)
        return [texts[row] for texts, row in zip(drawn, best, strict=True)]
