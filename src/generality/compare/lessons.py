"""What each method teaches a student: a loss, and targets for its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from generality.compare.bootstrap import Bootstrap
from generality.compare.methods import METHODS
from generality.compare.students import Students
from generality.objectives import soft_cross_entropy


@dataclass(frozen=True)
class Lessons:
    """From weak labels to what is learned from them.

    Attributes:
        students: who learn; those of naive training are a teacher of updates.
        bootstrap: the models that labels may come through.
        epochs: of a student's training.
        old: what the old model says of every row, where there is one.
    """

    students: Students
    bootstrap: Bootstrap
    epochs: int
    old: Float[np.ndarray, "rows classes"] | None = None

    def of(
        self,
        name: str,
        rows: Int[np.ndarray, "seeds n"],
        weak: Float[np.ndarray, "seeds n classes"],
    ) -> tuple[Callable[..., Any], Float[np.ndarray, "seeds n columns"]]:
        """The loss of a method and its targets for each seed's rows."""
        method = METHODS[name]
        if method.via:
            weak = self.bootstrap.labels(rows, weak)
        teachers: tuple[np.ndarray, ...] = ()
        if method.update is not None:
            assert self.old is not None
            plain = self.students.predict(soft_cross_entropy, rows, weak, rows)
            teachers = (self.old[rows], plain)
        return method.lesson(weak, epochs=self.epochs, teachers=teachers)
