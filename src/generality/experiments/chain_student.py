"""A tiny decoder that solves chains of sums in the manner of a demonstration."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from generality.benchmarks.worlds import Problem, answer_of, world_tokenizer
from generality.benchmarks.worlds.chain_lessons import BETWEEN
from generality.lab import Lab, TrainConfig
from generality.models import tiny_decoder
from generality.selection import Draft, TeachingPair

Weights = Mapping[str, Tensor]


class ChainStudent:
    """A student with some ability to learn from its context, and to be tuned.

    It is pretrained on `chain_lessons`: it solves a question in the style of the solved one before,
    if there is one. Ten checkpoints of it stand for students of different ability.

    Args:
        lab: does the work, and keeps it.
        size: of `tiny_decoder`.
        lessons: prompts and responses.
        rate: of Adam, batches of 32, cosine to 0.
        max_tokens: of an answer.
        seed: of its first weights and the order of lessons.

    >>> import tempfile
    >>> from generality.benchmarks.worlds.chain_lessons import chain_lessons
    >>> lab = Lab(home=tempfile.mkdtemp(), device="cpu", progress=False)
    >>> lessons = chain_lessons(8, 1, seed=0)
    >>> student = ChainStudent(lab, "0.05M", lessons, rate=1e-3, max_tokens=4, seed=0)
    >>> len(student.answers(["a = 1 ; b = a + 1 ; b ?"]))
    1
    """

    def __init__(
        self, lab: Lab, size: str, lessons: tuple[Sequence[str], Sequence[str]], *, rate: float,
        max_tokens: int, seed: int,
    ) -> None:  # fmt: skip
        self.lab, self.max_tokens, self.tokenizer = lab, max_tokens, world_tokenizer()
        self.network = functools.partial(tiny_decoder, size, vocabulary=len(self.tokenizer))
        tuned = lab.sft(
            self.network, *lessons, tokenizer=self.tokenizer, seed=seed,
            config=TrainConfig(epochs=1, batch_size=32, learning_rate=rate, warmup=0.05,
                               max_grad_norm=1.0),
            keep=tuple(round(0.1 * tenth, 1) for tenth in range(1, 10)),
        )  # fmt: skip
        self.weights: Weights = tuned.weights
        self.checkpoints: list[Weights] = [*tuned.kept.values(), tuned.weights]

    def tuned(self, drafts: Sequence[Draft], *, rate: float, seed: int) -> Weights:
        """Weights after one epoch on these drafts: Adam, batches of 16, linear decay."""
        schedule = TrainConfig(epochs=1, batch_size=16, learning_rate=rate, schedule="linear",
                               warmup=0.03, max_grad_norm=1.0)  # fmt: skip
        return self.lab.sft(
            self.network, [draft.question for draft in drafts],
            [draft.rationale for draft in drafts], tokenizer=self.tokenizer, config=schedule,
            weights=self.weights, seed=seed,
        ).weights  # fmt: skip

    def answers(self, prompts: Sequence[str], weights: Weights | None = None) -> list[str]:
        """Greedy answers."""
        said = self.lab.generate(
            self.network, prompts, weights=self.weights if weights is None else weights,
            tokenizer=self.tokenizer, max_tokens=self.max_tokens, batch_size=256, chunk=8192,
        )  # fmt: skip
        return [texts[0] for texts in said]

    def right(
        self, problems: Sequence[Problem], weights: Weights | None = None, shot: str = ""
    ) -> Bool[NDArray, " problems"]:
        """Which problems it solves, after `shot` (a solved one as `shown` writes it) or none."""
        texts = self.answers([f"{shot}{problem.prompt}" for problem in problems], weights)
        return np.array([answer_of(t) == p.answer for t, p in zip(texts, problems, strict=True)])


def shown(demo: TeachingPair, question: str) -> str:
    """What a student reads: a solved question as in its lessons, then the question it is asked.

    >>> shown(TeachingPair("a = 1 ; a ?", "=> 1"), "a = 2 ; a ?")
    'a = 1 ; a ? => 1 | a = 2 ; a ?'
    """
    return f"{demo.problem} {demo.rationale}{BETWEEN}{question}"
