"""Strong students of a weak supervisor that have a second goal of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from generality.estimators.probe_ladder import Labels, Predictions, ProbeLadder
from generality.lab.replicate import zero_head
from generality.objectives import ConflictLoss, conflict_targets, soft_cross_entropy
from generality.selection import filter_weak_labels

Rows = Int[np.ndarray, "seeds rows"]


class ConflictedStudents:
    """Probes of one model that learn weak labels of the transfer half, and perhaps more.

    The second goal is at odds with the truth (`student` with an alpha) or is another task's
    (`beside`). It needs true labels: to study deception by, not to train with.

    Args:
        ladder: with the model among its rungs.
        model: the student.
        epochs: over the labels.

    Source: Yang et al. 2025 (arXiv 2406.11431), explicit and implicit conflicts.
    """

    def __init__(self, ladder: ProbeLadder, model: str, epochs: int) -> None:
        self.ladder, self.model, self.epochs = ladder, model, epochs

    def student(self, labels: Labels, alpha: float = 0.0, rows: Rows | None = None) -> Predictions:
        """What the student says of every text, rewarded by `alpha` for contradicting the truth.

        `rows` are those that the labels are of; None: the transfer half.
        """
        ladder, rows = self.ladder, self.ladder.transfer if rows is None else rows
        if not alpha:
            return ladder.train(self.model, rows, labels, self.epochs)
        truth = ladder.task.labels[rows]
        features = ladder.features[self.model]
        return ladder.lab.replicate(
            zero_head(features.shape[1], ladder.task.classes), features,
            conflict_targets(torch.from_numpy(labels), torch.from_numpy(truth)), rows=rows,
            loss=ConflictLoss(alpha=alpha), seeds=ladder.lab.seeds(len(rows)),
            epochs=self.epochs, learning_rate=ladder.learning_rate, optimizer="adam",
        ).predict_proba(features).numpy()  # fmt: skip

    def confident(self, labels: Labels, threshold: float) -> tuple[Rows, Labels]:
        """Rows whose weak label is sure, and these, repeated to as many as there were.

        So trainings take as many steps; a seed without a sure label keeps all.
        """
        chosen = []
        for each in labels:
            sure = filter_weak_labels(each, tau=threshold, per_class=False)
            chosen.append(np.resize(sure if len(sure) else np.arange(len(each)), len(each)))
        kept = np.stack(chosen)
        return (
            np.take_along_axis(self.ladder.transfer, kept, 1),
            np.take_along_axis(labels, kept[..., None], 1),
        )

    def noised(self, labels: Labels, share: float) -> Predictions:
        """What it says after learning labels of which a random `share` is turned round.

        The control of a conflict: it goes wrong as often and serves no goal. A label turned round
        is that of the next class; which ones depends on the seed alone.
        """
        count = round(share * labels.shape[1])
        turned = labels.copy()
        for seed, each in zip(self.ladder.lab.seeds(len(labels)), turned, strict=True):
            rows = np.random.default_rng(seed).permutation(len(each))[:count]
            each[rows] = np.roll(each[rows], 1, axis=-1)
        return self.student(turned)

    def beside(
        self,
        labels: Labels,
        texts: Sequence[str],
        goal: Float[np.ndarray, "texts classes"],
        *,
        layer: int,
        max_length: int,
    ) -> Predictions:
        """What the student says of every text of the task, taught another task's texts beside it.

        Args:
            labels: weak ones, of the transfer half.
            texts: of the other task.
            goal: what they should be called, as distributions.
            layer: as of the ladder.
            max_length: likewise, in tokens.
        """
        ladder, task = self.ladder, self.ladder.task
        own, other = (
            ladder.lab.embed(self.model, each, layer=layer, max_length=max_length)
            for each in (task.texts, texts)
        )
        mean, scale = own[task.train].mean(0), own[task.train].std(0) + 1e-6
        both = np.concatenate([own, other]).astype(np.float32)
        seeds = len(ladder.transfer)
        added = np.tile(len(own) + np.arange(len(texts)), (seeds, 1))
        targets = np.concatenate([labels, np.tile(goal, (seeds, 1, 1))], axis=1)
        return ladder.lab.probe(
            (both - mean) / scale, np.concatenate([ladder.transfer, added], axis=1),
            targets.astype(np.float32), loss=soft_cross_entropy, epochs=self.epochs,
            learning_rate=ladder.learning_rate, optimizer="adam",
        )[:, : len(own)]  # fmt: skip
