"""Right and wrong supervision of the same tasks, mixed to an exact error rate."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool


class SupervisionMixer:
    """Takes for an exact share of the tasks their wrong solution, for the others the right one.

    The tasks are the same at every rate, and the wrong ones are nested: those that are wrong at
    rate 0.1 are wrong at 0.3 too. Two rates then differ by nothing but the solutions in between.

    Source: He et al. 2024 (arXiv 2410.20533), the control of the outcome error rate.

    Args:
        right: a good solution of each task: a list of anything, or a `datasets.Dataset`.
        wrong: a bad solution of each of the same tasks, in the same order and of the same kind.
        seed: of the order in which tasks turn wrong.
        groups: of each task, such as its subject; every group has the exact rate. None: one group.

    Raises:
        ValueError: they differ in length, or there is nothing to mix.

    >>> mixer = SupervisionMixer(["2", "4", "6", "8"], ["3", "5", "7", "9"], seed=0)
    >>> [mixer.mix(rate) for rate in (0.0, 0.25, 0.5, 1.0)]
    [['2', '4', '6', '8'], ['2', '4', '7', '8'], ['3', '4', '7', '8'], ['3', '5', '7', '9']]
    """

    def __init__(
        self,
        right: Sequence[Any],
        wrong: Sequence[Any],
        *,
        seed: int = 0,
        groups: Sequence[Hashable] | None = None,
    ) -> None:
        if len(right) != len(wrong) or (groups is not None and len(groups) != len(right)):
            raise ValueError("right, wrong and groups are of the same tasks, so of equal length")
        if len(right) == 0:
            raise ValueError("there are no tasks to mix")
        self.right, self.wrong = right, wrong
        generator = np.random.default_rng(seed)
        members: dict[Hashable, list[int]] = {}
        for task, group in enumerate([None] * len(right) if groups is None else groups):
            members.setdefault(group, []).append(task)
        self._orders = [generator.permutation(tasks) for tasks in members.values()]

    def is_wrong(self, error_rate: float) -> Bool[np.ndarray, " tasks"]:
        """Which tasks have their wrong solution at this rate: in each group its share, rounded."""
        if not 0 <= error_rate <= 1:
            raise ValueError(f"an error rate is in [0, 1], not {error_rate}")
        flags = np.zeros(len(self.right), dtype=bool)
        for order in self._orders:
            flags[order[: math.floor(error_rate * len(order) + 0.5)]] = True
        return flags

    def mix(self, error_rate: float) -> Any:
        """The solutions at this rate, in the tasks' order.

        From two Datasets it is a Dataset, with the column "corrupted" for what is wrong.
        """
        flags = self.is_wrong(error_rate)
        if hasattr(self.right, "select") and hasattr(self.wrong, "select"):
            from datasets import concatenate_datasets

            both = concatenate_datasets([self.right, self.wrong])
            rows = np.arange(len(flags)) + len(flags) * flags
            return both.select(rows).add_column("corrupted", flags.tolist())
        return [self.wrong[i] if bad else self.right[i] for i, bad in enumerate(flags)]
