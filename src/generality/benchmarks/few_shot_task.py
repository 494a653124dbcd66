"""A classification task of which few examples, or few classes, may be learnt from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from generality.benchmarks.multi_domain import MultiDomain
from generality.benchmarks.splits import stratified


@dataclass(frozen=True, eq=False)
class FewShotTask:
    """Items, their classes, and which classes may be learnt from.

    Attributes:
        items: an array of n images or feature vectors, or a list of n texts.
        labels: of each item, an index into `names`.
        names: what the classes are called.
        base: classes that may be learnt from; all of them where none is new at the test.

    >>> birds = FewShotTask(np.eye(8), np.arange(8) % 2, ("owl", "gull"), base=(0,))
    >>> support, test = birds.draw(shots=1, seed=0)
    >>> len(support), len(test), birds.labels[support]
    (1, 4, array([0]))
    """

    items: np.ndarray | list[str]
    labels: Int[np.ndarray, " n"]
    names: tuple[str, ...]
    base: tuple[int, ...]

    def draw(
        self, shots: int, seed: int, episode: int = 0, *, most: int = 64
    ) -> tuple[Int[np.ndarray, " support"], Int[np.ndarray, " test"]]:
        """Support rows, `shots` of each class learnt from, and test rows of all classes.

        A class is halved at random, with at most `most` rows to draw the support from: the same
        way for every `shots`, and anew for every seed and episode.
        """
        rng = np.random.default_rng([seed, episode])
        support, test = [], []
        for label in range(len(self.names)):
            rows = rng.permutation(np.flatnonzero(self.labels == label))
            pool = min(most, len(rows) // 2)
            support += list(rows[: min(shots, pool)]) if label in self.base else []
            test += list(rows[pool:])
        return np.array(support), np.array(test)


def domain_task(data: MultiDomain, domain: str, *, per_class: int) -> FewShotTask:
    """One domain, at most `per_class` times its classes in items, every second class learnt from.

    >>> data = MultiDomain(np.eye(6), np.arange(6) % 3, np.zeros(6, int), tuple("abc"), ("only",))
    >>> domain_task(data, "only", per_class=1).base
    (0, 2)
    """
    rows = data.rows(domain)
    classes = len(data.label_names)
    rows = rows[stratified(data.labels[rows], min(len(rows), per_class * classes), 0)]
    drawn = data.take(rows)
    names = tuple(name.replace("_", " ") for name in data.label_names)
    return FewShotTask(drawn.inputs, drawn.labels, names, tuple(range(0, classes, 2)))
