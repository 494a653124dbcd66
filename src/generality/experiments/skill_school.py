"""Tiny decoders that go on from one checkpoint with data of any variety, at equal steps."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from generality.benchmarks.worlds import (
    SKILLS,
    NoisySolvers,
    SkewedGenerator,
    SkillMixture,
    answer_of,
)
from generality.lab import Lab, TrainConfig
from generality.measures import GVendi, MeanStates
from generality.selection import MajorityAgreement, SparseClusterFilter, SynthesisLoop
from generality.selection.synthesis_loop import AcceptAtRandom
from generality.training.writer import Writer

Record = Mapping[str, Any]
"""`prompt`, `response` and `skill`, as `SkillMixture` makes them."""


class SkillSchool:
    """Students of string tasks, all from one checkpoint and all with as many steps.

    The checkpoint has had a brief look at all skills, at lists of 2 and 3. What its students learn
    from is yours; they are tested on all skills evenly, over all letters, on lists of 4 and of 5.

    Args:
        lab: does the work, and keeps it.
        size: of the decoders, see `tiny_decoder`.
        pretrain: examples of all skills that a checkpoint reads, once.
        pretrain_rate: Adam's, batches of 32, cosine to 0.
        items: examples of a usual data set; one of another size gets as many steps.
        epochs: over a usual data set.
        learning_rate: Adam's, likewise.
        test: examples of each of the two tests.

    >>> import tempfile
    >>> from pathlib import Path
    >>> lab = Lab(home=Path(tempfile.mkdtemp()), device="cpu", progress=False)
    >>> school = SkillSchool(lab, size="0.05M", pretrain=32, items=32, epochs=1, test=8)
    >>> sorted(school.student(SkillMixture().sample(32, seed=0), seed=0))
    ['even', 'even_rare', 'longer', 'longer_rare', 'score']
    """

    def __init__(
        self,
        lab: Lab,
        *,
        size: str,
        pretrain: int,
        pretrain_rate: float = 3e-3,
        items: int,
        epochs: float = 3.0,
        learning_rate: float = 1e-3,
        test: int = 256,
    ) -> None:
        self.lab, self.size, self.pretrain, self.pretrain_rate = lab, size, pretrain, pretrain_rate
        self.items, self.epochs, self.learning_rate, self.test = items, epochs, learning_rate, test
        self._checkpoints: dict[str, Writer] = {}

    def untrained(self, size: str | None = None) -> Writer:
        """A decoder as it is drawn, of another size if one is named."""
        return Writer.tiny(size or self.size, SKILLS, context=48)

    def checkpoint(self, size: str | None = None) -> Writer:
        """The decoder after its brief look at all skills."""
        name = size or self.size
        if name not in self._checkpoints:
            ds = SkillMixture(length=(2, 3)).sample(self.pretrain, seed=0)
            writer = self._taught(self.untrained(name), ds, 1, self.pretrain_rate, 0)
            self._checkpoints[name] = writer
        return self._checkpoints[name]

    def student(self, ds: Sequence[Record], seed: int) -> dict[str, float]:
        """What the checkpoint is worth after learning from these examples; see `scores`."""
        epochs = self.epochs * self.items / len(ds)
        return self.scores(self._taught(self.checkpoint(), ds, epochs, self.learning_rate, seed))

    def scores(self, writer: Writer) -> dict[str, float]:
        """Accuracies in [0, 1]: on lists of 4 ("even") and 5 ("longer"), and their mean, "score".

        Those ending in "_rare" are of the last four of `SKILLS`. A response is right word for word.
        """
        found = {}
        for name, length in (("even", 4), ("longer", 5)):
            ds = SkillMixture(length=length).sample(self.test, seed=0)
            right = np.array(writer.matches(self.lab, *_columns(ds)))
            rare = [record["skill"] in SKILLS[4:] for record in ds]
            found[name] = float(right.mean(dtype=np.float32))
            found[f"{name}_rare"] = float(right[rare].mean(dtype=np.float32))
        return {"score": (found["even"] + found["longer"]) / 2, **found}

    def _taught(
        self, writer: Writer, ds: Sequence[Record], epochs: float, rate: float, seed: int
    ) -> Writer:
        config = TrainConfig(epochs=epochs, learning_rate=rate)
        return writer.tuned(self.lab, *_columns(ds), config=config, seed=seed)


def _columns(ds: Sequence[Record]) -> tuple[list[str], list[str]]:
    return [record["prompt"] for record in ds], [record["response"] for record in ds]


def grown_pool(
    proxy: Writer,
    accept: Literal["naive", "random", "embedding", "prismatic"],
    *,
    batch: int,
    start: int,
    size: int,
    clusters: float,
    keep: float,
    dim: int,
    seed: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A pool that a skewed generator and solvers that err have filled, and what each round did.

    Args:
        proxy: whose gradients, or for "embedding" states, show where the pool is thin.
        accept: what the filter lets through: everything, 40 % at random, or what lies in sparse
            clusters of the proxy's states or gradients.
        batch: candidates of a round.
        start: examples to begin with.
        size: examples in the end.
        clusters: as a share of the pool.
        keep: share of clusters that count as sparse.
        dim: numbers of a projected gradient.
        seed: of everything.

    Source: Jung et al. 2025 (arXiv 2505.20161), section 4.

    >>> pool, rounds = grown_pool(
    ...     Writer.tiny("0.05M", SKILLS), "naive", batch=8,
    ...     start=4, size=8, clusters=0.5, keep=0.5, dim=8, seed=0,
    ... )
    >>> len(pool), rounds[-1]["pool"], "truth" in pool[0]
    (8, 8, True)
    """
    model, generator = proxy.model(), SkewedGenerator()
    accepts: Any = SparseClusterFilter(clusters, keep, seed=seed)
    if accept in ("naive", "random"):
        accepts = AcceptAtRandom({"naive": 1.0, "random": 0.4}[accept], seed)
    states, gradients = MeanStates, functools.partial(GVendi, dim=dim, side=64)
    synthesis = SynthesisLoop(
        generator=generator, solver=NoisySolvers(), judge=MajorityAgreement(answer_of),
        proxy=(states if accept == "embedding" else gradients)(model, proxy.tokenizer),
        filter=accepts, batch=batch, seed=seed,
    )  # fmt: skip
    rounds = [vars(done) for done in synthesis.run(generator([], start, seed), size)]
    return [dict(record) for record in synthesis.records], rounds
