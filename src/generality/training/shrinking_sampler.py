"""Draws ensembles from a search space that loses its worst combinations of operators."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from generality.measures.operator_diversity import Distance, operator_diversity
from generality.modules.supernet import Combo, EnsembleArchitecture, Supernet

Fits = Callable[[EnsembleArchitecture], bool]


class ShrinkingSampler:
    """A space of ensembles: for every block the combinations of operators that are left.

    Train a supernet on what `sample` draws and tell each loss to `observe`; from time to time
    `shrink` drops, in every block, the combinations of least potentiality plus diversity.
    Potentiality is minus the mean loss of ensembles in which the block was split and had that
    combination; both are standardised within the block.

    Args:
        operators: names of each block's operators.
        members: operators in a combination.

    Source: Chen et al. 2021 (NEAS, arXiv 2104.00597), section 3.3. The search code was not
    released: the score is a reconstruction of its idea, with features at the time of shrinking, on
    the same inputs, instead of a mean over training.

    >>> space = ShrinkingSampler([["conv", "skip"]] * 3, members=2)
    >>> rng = np.random.default_rng(0)
    >>> for _ in range(60):
    ...     drawn = space.sample(rng)
    ...     space.observe(drawn, loss=drawn.paths[0].count("skip"))
    >>> space.shrink(drop=0.5)
    >>> [len(block) for block in space.combos]
    [2, 2, 2]
    """

    def __init__(self, operators: Sequence[Sequence[str]], members: int = 2) -> None:
        self.combos: list[list[Combo]] = [
            list(itertools.product(names, repeat=members)) for names in operators
        ]
        self._losses: list[dict[Combo, list[float]]] = [{} for _ in operators]

    @classmethod
    def common(cls, spaces: Sequence[ShrinkingSampler]) -> ShrinkingSampler:
        """What is left in all of these spaces.

        Raises:
            ValueError: they have nothing in common at some block.
        """
        space = cls([[]] * len(spaces[0].combos))
        space.combos = [
            sorted(set.intersection(*map(set, blocks)))
            for blocks in zip(*(each.combos for each in spaces), strict=True)
        ]
        if not all(space.combos):
            raise ValueError("at some block these spaces have no combination in common")
        return space

    def sample(
        self, rng: np.random.Generator, *, split: int | None = None, fits: Fits | None = None
    ) -> EnsembleArchitecture:
        """One at random: a split point, 0 to all blocks (or the given one), a combination a block.

        Raises:
            ValueError: none of 10,000 draws `fits`.
        """
        for _ in range(10_000):
            at = int(rng.integers(len(self.combos) + 1)) if split is None else split
            drawn = EnsembleArchitecture(
                at, tuple(block[rng.integers(len(block))] for block in self.combos)
            )
            if fits is None or fits(drawn):
                return drawn
        raise ValueError("no ensemble of this space fits the limit; allow more")

    def mutate(
        self,
        parent: EnsembleArchitecture,
        rng: np.random.Generator,
        rate: float = 0.1,
        *,
        split: int | None = None,
    ) -> EnsembleArchitecture:
        """The split point and every block drawn anew with probability `rate`."""
        other = self.sample(rng, split=split)
        combos = tuple(
            new if rng.random() < rate else old
            for old, new in zip(parent.combos, other.combos, strict=True)
        )
        at = other.split if rng.random() < rate else parent.split
        return EnsembleArchitecture(at, combos)

    def cross(
        self, a: EnsembleArchitecture, b: EnsembleArchitecture, rng: np.random.Generator
    ) -> EnsembleArchitecture:
        """Every gene from one of the two."""
        combos = tuple(
            x if rng.random() < 0.5 else y for x, y in zip(a.combos, b.combos, strict=True)
        )
        return EnsembleArchitecture((a if rng.random() < 0.5 else b).split, combos)

    def observe(self, architecture: EnsembleArchitecture, loss: float) -> None:
        """Note the loss of an ensemble, for the combinations of its split blocks."""
        for block in range(architecture.split, len(self.combos)):
            self._losses[block].setdefault(architecture.combos[block], []).append(loss)

    def potentiality(self, block: int) -> dict[Combo, float]:
        """Minus the mean loss of each combination left; that of the block where none was seen."""
        seen = self._losses[block]
        every = [loss for losses in seen.values() for loss in losses]
        usual = float(np.mean(every)) if every else 0.0
        return {
            combo: -float(np.mean(seen[combo])) if combo in seen else -usual
            for combo in self.combos[block]
        }

    def shrink(
        self,
        drop: float = 0.25,
        diversity: Sequence[Mapping[Combo, float]] | None = None,
        weight: float = 1.0,
    ) -> None:
        """Drop the lowest-scored share of every block's combinations; each keeps at least one.

        Losses noted so far are forgotten: what comes was trained in another space.

        Args:
            drop: share in [0, 1).
            diversity: of every block's combinations, see `combo_diversity`; None: by potentiality
                alone.
            weight: of diversity.
        """
        if not 0 <= drop < 1:
            raise ValueError(f"drop is a share in [0, 1), not {drop}")
        for block, combos in enumerate(self.combos):
            worth = self.potentiality(block)
            score = _standardised([worth[c] for c in combos])
            if diversity is not None:
                score = score + weight * _standardised([diversity[block][c] for c in combos])
            keep = max(1, len(combos) - int(drop * len(combos)))
            best = sorted(np.argsort(-score, kind="stable")[:keep])
            self.combos[block] = [combos[i] for i in best]
        self._losses = [{} for _ in self.combos]

    def single(self) -> ShrinkingSampler:
        """The space of single paths: every operator that a first member may still have."""
        alone = ShrinkingSampler([[] for _ in self.combos], members=1)
        alone.combos = [[(op,) for op in dict.fromkeys(c[0] for c in block)]
                        for block in self.combos]  # fmt: skip
        return alone


def combo_diversity(
    supernet: Supernet,
    sampler: ShrinkingSampler,
    inputs: Float[Tensor, "batch ..."],
    rng: np.random.Generator,
    *,
    how: Distance = "cosine",
    draws: int = 4,
) -> list[dict[Combo, float]]:
    """Mean pairwise distance of the features of a combination's operators, on the same inputs.

    Averaged over `draws` random paths that lead to the block.
    """
    totals: list[dict[Combo, float]] = [dict.fromkeys(block, 0.0) for block in sampler.combos]
    was = supernet.training
    supernet.train()  # the batch's own statistics: running ones mean nothing for a path
    state = {name: buffer.clone() for name, buffer in supernet.named_buffers()}
    for _ in range(draws):
        outputs = supernet.same_inputs(inputs, sampler.sample(rng))
        for block, members in enumerate(outputs):
            for combo in sampler.combos[block]:
                pairs = itertools.combinations(range(len(combo)), 2)
                apart = [
                    operator_diversity(members[i][combo[i]], members[j][combo[j]], how)
                    for i, j in pairs
                ]
                totals[block][combo] += float(np.mean(apart)) / draws
    with torch.no_grad():
        for name, buffer in supernet.named_buffers():
            buffer.copy_(state[name])
    supernet.train(was)
    return totals


def _standardised(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    spread = array.std()
    return (array - array.mean()) / spread if spread > 0 else np.zeros_like(array)
