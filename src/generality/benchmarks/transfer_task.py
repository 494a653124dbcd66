"""Classification where one half of the training data is labelled by truth, the other by a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from generality.benchmarks.benchmark import Benchmark, load_benchmark
from generality.benchmarks.binary_tasks import TASKS as BINARY_TASKS
from generality.benchmarks.sentiment import DOMAINS
from generality.errors import UserError, unknown


@dataclass(frozen=True)
class TransferTask:
    """Texts of a task in one list, those for training first.

    Attributes:
        texts: all texts.
        labels: their true classes.
        classes: how many there are.
        supervised: training texts whose true labels a supervisor may learn from, per seed.
        transfer: training texts that it labels for a student, per seed.
        test: rows of the test texts.
    """

    texts: list[str]
    labels: Int[np.ndarray, " texts"]
    classes: int
    supervised: int
    transfer: int
    test: Int[np.ndarray, " test"]

    @property
    def train(self) -> Int[np.ndarray, " train"]:
        """Rows of the training texts."""
        return np.arange(len(self.texts) - len(self.test))

    def halves(
        self, seed: int
    ) -> tuple[Int[np.ndarray, " supervised"], Int[np.ndarray, " transfer"]]:
        """Rows for the supervisor and rows it labels: disjoint, drawn anew by each seed."""
        rows = np.random.default_rng(seed).permutation(self.train)
        return rows[: self.supervised], rows[self.supervised :]

    def one_hot(self, rows: Int[np.ndarray, " *rows"]) -> Float[np.ndarray, "*rows classes"]:
        """True labels as distributions."""
        return np.eye(self.classes, dtype=np.float32)[self.labels[rows]]


def load_transfer_task(
    name: str,
    *,
    supervised: int,
    transfer: int,
    test: int,
    words: int | None = None,
    path: str | Path | None = None,
) -> TransferTask:
    """A task by name, cut to the numbers of texts asked for.

    Args:
        name: a sentiment domain ("movie", "amazon", "nyt", "tweets"), "bbc", "spam", or one of the
            binary tasks of the weak-to-strong paper ("sciq", …).
        supervised: training texts for the supervisor.
        transfer: training texts that it labels.
        test: test texts; fewer when the task has no more.
        words: texts of "bbc" and "spam" are cut to this many words.
        path: folder of local files, for the paper's tasks; None: the hub.

    Raises:
        UserError: an unknown task, or one with too few training texts.
    """
    benchmark = _load(name, words, path)
    train = benchmark.splits["train"].shuffle(seed=0)
    if len(train) < supervised + transfer:
        raise UserError(
            f"The task '{name}' has {len(train)} training texts; {supervised} supervised and "
            f"{transfer} transfer texts are asked for. Ask for fewer."
        )
    train = train.select(range(supervised + transfer))
    held_out = benchmark.splits["test"].shuffle(seed=0)
    held_out = held_out.select(range(min(test, len(held_out))))
    texts = [*train["text"][:], *held_out["text"][:]]
    labels = np.array([*train["label"][:], *held_out["label"][:]])
    rows = np.arange(len(train), len(texts))
    return TransferTask(texts, labels, len(benchmark.label_names), supervised, transfer, rows)


def _load(name: str, words: int | None, path: str | Path | None) -> Benchmark:
    if name in DOMAINS:
        return load_benchmark("sentiment", domain=name, balanced=True)
    if name in ("bbc", "spam"):
        return load_benchmark(name, words=words)
    if name in BINARY_TASKS:
        return load_benchmark(name, path=path)
    raise unknown("task", name, [*DOMAINS, "bbc", "spam", *BINARY_TASKS])
