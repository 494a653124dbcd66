"""Weak to strong on texts, where the weak model may read more than the strong one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from generality.benchmarks import TransferTask
from generality.lab import Lab
from generality.training.text_learner import TextLearner


class TextTransfer:
    """A weak supervisor, students of its labels and both bounds on one `TransferTask`.

    Args:
        lab: does the work, and keeps it.
        task: the texts, and each seed's halves.
        weak: the supervisor.
        strong: the student.

    >>> import tempfile
    >>> from pathlib import Path
    >>> lab = Lab(home=Path(tempfile.mkdtemp()), device="cpu", progress=False)
    >>> texts = ["good film", "bad film", "good book", "bad book", "so good", "so bad"]
    >>> labels, words = np.array([1, 0, 1, 0, 1, 0]), TextLearner("bag-of-words", epochs=2)
    >>> task = TransferTask(texts, labels, 2, 2, 2, np.array([4, 5]))
    >>> transfer = TextTransfer(lab, task, words, words)
    >>> weak = transfer.labels([f"{text} (a hint)" for text in texts[:4]], seed=0)
    >>> transfer.student(weak, seed=0).shape
    (2, 2)
    """

    def __init__(
        self, lab: Lab, task: TransferTask, weak: TextLearner, strong: TextLearner
    ) -> None:
        self.lab, self.task, self.weak, self.strong = lab, task, weak, strong
        self.texts = [task.texts[row] for row in task.train]
        self.held = [task.texts[row] for row in task.test]

    def labels(self, read: Sequence[str], seed: int) -> Float[np.ndarray, "transfer classes"]:
        """The supervisor's labels of the transfer half; it reads `read`, one for each text."""
        supervised, transfer = self.task.halves(seed)
        return self.weak.predict_proba(
            self.lab, [read[row] for row in supervised], self.task.one_hot(supervised),
            [read[row] for row in transfer], seed,
        )  # fmt: skip

    def student(
        self, labels: Float[np.ndarray, "transfer classes"], seed: int
    ) -> Float[np.ndarray, "test classes"]:
        """What the strong model says of the test texts after learning these labels."""
        _, transfer = self.task.halves(seed)
        texts = [self.texts[row] for row in transfer]
        return self.strong.predict_proba(self.lab, texts, labels, self.held, seed)

    def floor(self, seed: int) -> Float[np.ndarray, "test classes"]:
        """What the supervisor says of the test texts, having read nothing but texts."""
        supervised, _ = self.task.halves(seed)
        texts = [self.texts[row] for row in supervised]
        return self.weak.predict_proba(
            self.lab, texts, self.task.one_hot(supervised), self.held, seed
        )

    def ceiling(self, seed: int) -> Float[np.ndarray, "test classes"]:
        """What the strong model says of the test texts after learning true labels."""
        return self.student(self.task.one_hot(self.task.halves(seed)[1]), seed)
