"""What tuning on one skill gains there and costs elsewhere, checkpoint by checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class CapabilityLedger:
    """Scores of every checkpoint on the skill that is tuned and on all that should stay.

    Attributes:
        evals: from a model to a score (higher is better), by name. Ask in the same prompt format
            before and after, or a change of format is booked as forgetting.
        target: the evals of the skill that is tuned.
        history: of each checkpoint its scores, in the order of recording; the first is the base.
        names: of the checkpoints.

    >>> ledger = CapabilityLedger({"sums": lambda m: m[0], "copying": lambda m: m[1]}, ["sums"])
    >>> for name, model in {"base": (0.2, 0.9), "early": (0.6, 0.7), "late": (0.5, 0.1)}.items():
    ...     _ = ledger.record(name, model)
    >>> [(name, round(gain, 2), round(price, 2)) for name, gain, price in ledger.balance()]
    [('base', 0.0, 0.0), ('early', 0.4, 0.2), ('late', 0.3, 0.8)]
    >>> ledger.pareto()
    ['base', 'early']
    """

    evals: Mapping[str, Callable[[Any], float]]
    target: Sequence[str]
    history: list[dict[str, float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        lacking = set(self.target) - set(self.evals)
        if lacking or not self.target or len(self.target) == len(self.evals):
            raise ValueError("target names some of the evals, and others stay to show the price")

    def record(self, name: str, model: Any) -> dict[str, float]:
        """Evaluate a checkpoint and enter its scores."""
        scores = {task: float(evaluate(model)) for task, evaluate in self.evals.items()}
        self.names.append(name)
        self.history.append(scores)
        return scores

    def balance(self) -> list[tuple[str, float, float]]:
        """Of each checkpoint its name, the gain on the target and the price elsewhere.

        Both are means over evals, against the first checkpoint.
        """
        generic = [task for task in self.evals if task not in self.target]

        def mean_change(scores: Mapping[str, float], tasks: Sequence[str]) -> float:
            return sum(scores[task] - self.history[0][task] for task in tasks) / len(tasks)

        return [
            (name, mean_change(scores, self.target), 0 - mean_change(scores, generic))
            for name, scores in zip(self.names, self.history, strict=True)
        ]

    def pareto(self) -> list[str]:
        """Checkpoints that no other beats on gain or price without losing on the other."""
        entries = self.balance()
        return [
            name
            for name, gain, price in entries
            if not any(
                other[1] >= gain and other[2] <= price and other[1:] != (gain, price)
                for other in entries
            )
        ]


@dataclass(frozen=True)
class Selected:
    """A choice among checkpoints.

    Attributes:
        index: of the checkpoint chosen.
        score: its mean on what counts.
        regret: how much better the best checkpoint is there, ≥ 0.
    """

    index: int
    score: float
    regret: float


def select_checkpoint(
    history: Sequence[Mapping[str, float]], *, by: Sequence[str], on: Sequence[str]
) -> Selected:
    """The checkpoint with the best mean on `by` (the first of equals), and its regret on `on`.

    Source: Fu et al. 2023 (arXiv 2301.12726): validation on what is tuned does not pick the
    checkpoint that is best elsewhere; small validation sets from elsewhere do. `by` names
    validation scores and `on` test scores: one name in both would make the regret too small.

    Args:
        history: the scores of each checkpoint, by name; higher is better.
        by: the scores it is chosen by.
        on: the scores that count.

    Raises:
        ValueError: no checkpoints, no names, or a name in both.

    >>> history = [
    ...     {"val": 0.7, "ood_val": 0.6, "ood": 0.6},
    ...     {"val": 0.8, "ood_val": 0.3, "ood": 0.4},
    ... ]
    >>> print(select_checkpoint(history, by=["val"], on=["ood"]))
    Selected(index=1, score=0.4, regret=0.2)
    >>> select_checkpoint(history, by=["ood_val"], on=["ood"]).regret
    0.0
    """
    if not history or not by or not on or set(by) & set(on):
        raise ValueError("select_checkpoint needs checkpoints, and different names in by and on")

    def mean(scores: Mapping[str, float], names: Sequence[str]) -> float:
        return sum(scores[name] for name in names) / len(names)

    index = max(range(len(history)), key=lambda place: mean(history[place], by))
    worth = [mean(scores, on) for scores in history]
    return Selected(index, worth[index], round(max(worth) - worth[index], 12))
