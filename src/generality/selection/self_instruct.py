"""Prompts that a generator writes from examples, kept where they are new."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


def rouge_l(first: str, second: str) -> float:
    """F1 of the longest common subsequence of words (lower-cased letters and digits), in [0, 1].

    Source: Lin 2004; as in the package rouge-score without stemming, but that letters of every
    alphabet count, and not only a to z.

    >>> round(rouge_l("the cat sat", "The cat was on it"), 3)
    0.5
    """
    a, b = (re.findall(r"[^\W_]+", text.lower()) for text in (first, second))
    if not a or not b:
        return 0.0
    last = [0] * (len(b) + 1)
    for word in a:
        row = [0]
        for place, other in enumerate(b, 1):
            best = last[place - 1] + 1 if word == other else max(last[place], row[-1])
            row.append(best)
        last = row
    return 2 * last[-1] / (len(a) + len(b))


@dataclass
class SelfInstructPool:
    """A pool of prompts that grows from a few, by any generator.

    Each request shows `shots` prompts drawn from the seeds and what was accepted so far and takes
    up to `per_request` new ones; one is accepted when no prompt of the pool is nearer to it than
    `max_rouge_l`.

    Args:
        seeds: prompts of the user's, at least one.
        generate: from the prompts that are shown to new ones; a language model, a grammar.
        max_rouge_l: `rouge_l` up to which two prompts are different.
        per_request: new prompts read of each answer.
        shots: prompts shown.
        seed: of which are shown.

    Source: Wang et al. 2022 (arXiv 2212.10560); Li et al. 2024 (arXiv 2403.06952), section 3.1.

    >>> numbers = iter(range(100))
    >>> def generate(shown):
    ...     return [f"picture {next(numbers)} of a cat"] + shown
    >>> SelfInstructPool(["a dog"], generate, max_rouge_l=0.8).grow(2)
    ['picture 0 of a cat', 'picture 1 of a cat']
    """

    seeds: Sequence[str]
    generate: Callable[[list[str]], Sequence[str]]
    max_rouge_l: float = 0.8
    per_request: int = 20
    shots: int = 3
    seed: int = 0
    accepted: list[str] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("a pool grows from one prompt or more")
        self._rng = np.random.default_rng(self.seed)

    def grow(self, n: int, *, patience: int = 50) -> list[str]:
        """The accepted prompts, once there are `n`, or after `patience` requests without a new one.

        The seeds are not among them.
        """
        idle = 0
        while len(self.accepted) < n and idle < patience:
            pool = [*self.seeds, *self.accepted]
            drawn = self._rng.choice(len(pool), min(self.shots, len(pool)), replace=False)
            before = len(self.accepted)
            for prompt in list(self.generate([pool[i] for i in drawn]))[: self.per_request]:
                if len(self.accepted) < n:
                    self._offer(prompt.strip())
            idle = 0 if len(self.accepted) > before else idle + 1
        return list(self.accepted)

    def _offer(self, prompt: str) -> None:
        known = (*self.seeds, *self.accepted)
        new = prompt and prompt not in known  # signs alone have no words to compare
        if new and all(rouge_l(prompt, other) <= self.max_rouge_l for other in known):
            self.accepted.append(prompt)
        else:
            self.refused += 1
