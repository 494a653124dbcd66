"""A teacher whose choices are a softmax over kinds of questions and ways of explaining."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import expit
from torch import Tensor

from generality.selection.draft_pool import Draft


@dataclass(frozen=True)
class SoftmaxDrafter:
    """Draws a kind of question, then a technique given the kind: a policy of few logits.

    It stands for a language model where none is: its log-probabilities are closed-form, so direct
    preference optimisation of it is exact and takes a second. It starts uniform. The probability of
    a question within its kind, and of a rationale within its technique, does not depend on the
    logits and cancels against the reference.

    Args:
        kinds: from a kind's name to a function of a seed that writes a question of it.
        techniques: from a technique's name to a function of (question, seed) that explains it.
        kind_logits: (kinds,); zeros where not given.
        technique_logits: (kinds, techniques).
        beta: of direct preference optimisation, above 0.
        steps: of Adam.
        learning_rate: of Adam.

    >>> teacher = SoftmaxDrafter(
    ...     {"short": lambda seed: f"{seed} ?", "long": lambda seed: f"{seed} + 1 ?"},
    ...     {"plain": lambda question, seed: "so", "none": lambda question, seed: "?"})
    >>> pair = {"level": "rationale", "chosen_kind": "long", "rejected_kind": "long",
    ...         "chosen_technique": "plain", "rejected_technique": "none"}
    >>> tuned = teacher.aligned([pair], seed=0)
    >>> [round(p, 2) for p in tuned.technique_probabilities[:, 0].tolist()]
    [0.5, 1.0]
    """

    kinds: Mapping[str, Callable[[int], str]] = field(repr=False)
    techniques: Mapping[str, Callable[[str, int], str]] = field(repr=False)
    kind_logits: Tensor | None = field(default=None, repr=False)
    technique_logits: Tensor | None = field(default=None, repr=False)
    beta: float = 0.1
    steps: int = 200
    learning_rate: float = 0.1
    question_prompt: str = "Write a question."
    rationale_prompt: str = "{question}"

    @property
    def kind_probabilities(self) -> Float[Tensor, " kinds"]:
        """Of each kind of question."""
        return self._logits()[0].softmax(-1)

    @property
    def technique_probabilities(self) -> Float[Tensor, "kinds techniques"]:
        """Of each technique, given the kind."""
        return self._logits()[1].softmax(-1)

    def questions(self, count: int, seed: int) -> list[Draft]:
        """Questions of drawn kinds; equal ones may come."""
        rng = np.random.default_rng([seed, 0])
        names = list(self.kinds)
        drawn = rng.choice(len(names), size=count, p=_exact(self.kind_probabilities))
        seeds = rng.integers(1 << 31, size=count).tolist()
        return [
            Draft(self.kinds[names[kind]](each), "", kind=names[kind])
            for kind, each in zip(drawn, seeds, strict=True)
        ]

    def rationales(
        self, questions: Sequence[Draft], count: int, seed: int, *, greedy: bool = False
    ) -> list[Draft]:
        """Techniques drawn without putting any back while there are some, or the likeliest."""
        rng = np.random.default_rng([seed, 1])
        kinds, names = list(self.kinds), list(self.techniques)
        found = []
        for draft in questions:
            chances = _exact(self.technique_probabilities[kinds.index(draft.kind)])
            if greedy:
                drawn = np.argsort(-chances, kind="stable")[:count]
            else:  # Gumbel's top k: without replacement
                noisy = np.log(chances + 1e-300) + rng.gumbel(size=len(names))
                drawn = np.argsort(-noisy)[:count]
            for technique in drawn:
                name = names[int(technique)]
                text = self.techniques[name](draft.question, int(rng.integers(1 << 31)))
                found.append(replace(draft, rationale=text, technique=name))
        return found

    def only(self, kind: str, technique: str) -> SoftmaxDrafter:
        """A teacher that asks one kind of question and explains it one way.

        >>> teacher = SoftmaxDrafter({"a": str, "b": str}, {"plain": lambda question, seed: "so"})
        >>> [draft.kind for draft in teacher.only("b", "plain").questions(2, seed=0)]
        ['b', 'b']
        """
        return replace(
            self, kinds={kind: self.kinds[kind]}, kind_logits=None,
            techniques={technique: self.techniques[technique]}, technique_logits=None,
        )  # fmt: skip

    def aligned(self, pairs: Sequence[Mapping[str, Any]], seed: int) -> SoftmaxDrafter:
        """The policy after direct preference optimisation on all pairs at once; none: as it is."""
        if not pairs:
            return self
        kinds, names = list(self.kinds), list(self.techniques)
        first, second = (part.numpy().astype(float) for part in self._logits())
        start = np.concatenate([first, second.ravel()])

        def place(pair: Mapping[str, Any], side: str) -> int:
            kind = kinds.index(pair[f"{side}_kind"])
            if pair["level"] == "question":
                return kind
            technique = names.index(pair[f"{side}_technique"])
            return len(kinds) + kind * len(names) + technique

        sides = np.array([[place(pair, side) for side in ("chosen", "rejected")] for pair in pairs])
        (good, bad), counts = (part.T for part in np.unique(sides, axis=0, return_counts=True))
        share = counts / counts.sum()

        def gradient(logits: np.ndarray) -> np.ndarray:
            """Of the mean loss; both sides of a pair are in one softmax, so its sum cancels."""
            margin = (logits - start)[good] - (logits - start)[bad]
            pull = -self.beta * share * expit(-self.beta * margin)
            return np.bincount(good, pull, len(logits)) - np.bincount(bad, pull, len(logits))

        logits = _adam(gradient, start, self.steps, self.learning_rate)
        return replace(
            self,
            kind_logits=torch.tensor(logits[: len(kinds)]),
            technique_logits=torch.tensor(logits[len(kinds) :]).view(len(kinds), len(names)),
        )

    def _logits(self) -> tuple[Tensor, Tensor]:
        rows, columns = len(self.kinds), len(self.techniques)
        first = torch.zeros(rows) if self.kind_logits is None else self.kind_logits
        second = (
            torch.zeros(rows, columns) if self.technique_logits is None else self.technique_logits
        )
        return first, second


def _exact(probabilities: Tensor) -> np.ndarray:
    values = probabilities.double().numpy()
    return np.asarray(values / values.sum())


def _adam(
    gradient: Callable[[np.ndarray], np.ndarray], start: np.ndarray, steps: int, rate: float
) -> np.ndarray:
    """Adam with torch's defaults."""
    x, mean, square = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, steps + 1):
        slope = gradient(x)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        scale = np.sqrt(square / (1 - 0.999**step)) + 1e-8
        x -= rate * mean / (1 - 0.9**step) / scale
    return x
