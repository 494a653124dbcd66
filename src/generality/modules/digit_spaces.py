"""Two spaces for differentiable search on small images: a cell, and a grid of widths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from torch import nn

from generality.modules.cell_network import CellNetwork, conv_stem, pooled_head
from generality.modules.darts_cell import Genotype
from generality.modules.differentiable_grid import DifferentiableGrid, Path, Stage
from generality.modules.mixed_op import Weighting, Zero
from generality.modules.sharp_sep_conv import ResizablePool, SharpSepConv


class SearchSpace(Protocol):
    """Architectures that a search can choose among; each is nested tuples."""

    def mixture(self, weighting: Weighting) -> Any:
        """All architectures at once, to be searched."""

    def network(self, architecture: Any) -> nn.Module:
        """One architecture with new weights."""

    def follow(self, mixture: Any, architecture: Any) -> None:
        """Let a searched mixture compute one architecture."""

    def decoded(self, mixture: Any) -> Any:
        """The architecture that a mixture favours."""

    def random(self, count: int, seed: int) -> list[Any]:
        """Architectures at random."""

    def by_hand(self) -> Any:
        """What one would build without a search."""


@dataclass(frozen=True)
class CellSpace:
    """A network of equal cells, whose edges are nothing, a skip, pooling or separable convolutions.

    Attributes:
        width: channels of every node.
        nodes: of a cell.
        cells: of the network.

    >>> space = CellSpace(width=4, nodes=1)
    >>> space.by_hand(), space.random(1, seed=0)
    ((((0, 'skip'), (1, 'sep3')),), [(((0, 'sep3'), (1, 'pool')),)])
    """

    width: int = 8
    nodes: int = 2
    cells: int = 1

    def operators(self, *, affine: bool) -> dict[str, Callable[[], nn.Module]]:
        """What an edge may be; batch norms have scales of their own if `affine`."""
        width = self.width
        return {
            "none": Zero,
            "skip": nn.Identity,
            "pool": partial(ResizablePool, width, width, kind="average", affine=affine),
            "sep3": partial(SharpSepConv, width, width, 3, affine=affine),
            "sep5": partial(SharpSepConv, width, width, 5, affine=affine),
        }

    def mixture(self, weighting: Weighting) -> CellNetwork:
        """All cells at once."""
        return CellNetwork(
            self.operators(affine=False), self.width, cells=self.cells, nodes=self.nodes,
            weighting=weighting,
        )  # fmt: skip

    def network(self, architecture: Any) -> CellNetwork:
        """One cell, with new weights."""
        return CellNetwork(
            self.operators(affine=True), self.width, cells=self.cells, nodes=self.nodes,
            genotype=_as_tuples(architecture),
        )  # fmt: skip

    def follow(self, mixture: CellNetwork, architecture: Genotype) -> None:
        """Compute one cell with the shared weights."""
        mixture.follow(architecture)

    def decoded(self, mixture: CellNetwork, *, none: bool = False) -> Genotype:
        """The cell that a mixture favours; if `none`, an edge may be nothing."""
        return mixture.genotype(exclude=()) if none else mixture.genotype()

    def none_weight(self, mixture: CellNetwork) -> float:
        """Mean weight of doing nothing over the edges, in [0, 1]."""
        cell = mixture.searched()
        return float(np.mean([cell.edge(place).weights()["none"] for place in cell.edges]))

    def random(self, count: int, seed: int) -> list[Genotype]:
        """Cells at random; none of their edges is nothing."""
        rng = np.random.default_rng(seed)
        names = [name for name in self.operators(affine=True) if name != "none"]
        return [
            tuple(
                tuple(
                    (int(source), str(rng.choice(names)))
                    for source in sorted(rng.choice(node + 2, size=2, replace=False))
                )
                for node in range(self.nodes)
            )
            for _ in range(count)
        ]

    def by_hand(self) -> Genotype:
        """A convolution beside a skip at every node."""
        return tuple(((node, "skip"), (node + 1, "sep3")) for node in range(self.nodes))


@dataclass(frozen=True)
class GridSpace:
    """Layers of which each has one of several widths, and is a pooling or a separable convolution.

    Attributes:
        widths: channels that a layer may have; the stem has the first.
        strides: of the layers, one each.
        classes: of the answer.

    >>> space = GridSpace(widths=(2, 4), strides=(2,))
    >>> space.by_hand()
    ((2, 'sep'), ('digit', 'linear'))
    """

    widths: Sequence[int] = (4, 8, 16)
    strides: Sequence[int] = (1, 2, 1)
    classes: int = 10

    def mixture(self, weighting: Weighting) -> nn.Sequential:
        """Stem, then all widths and operators of every layer, then the head."""

        def layer(stride: int) -> Stage:
            def make(before: int, after: int, op: str) -> nn.Module:
                block = SharpSepConv if op == "sep" else ResizablePool
                return block(before, after, stride=stride)

            return Stage(self.widths, ("pool", "sep"), make)

        head = lambda before, after, op: pooled_head(before, self.classes)  # noqa: E731
        stages = [*map(layer, self.strides), Stage(("digit",), ("linear",), head)]
        start = self.widths[0]
        return nn.Sequential(
            conv_stem(1, start), DifferentiableGrid(start, stages, weighting=weighting)
        )

    def network(self, architecture: Any) -> nn.Sequential:
        """One path, with new weights."""
        mixture = self.mixture("softmax")
        return nn.Sequential(mixture[0], _grid(mixture).network(_as_tuples(architecture)))

    def follow(self, mixture: nn.Sequential, architecture: Path) -> None:
        """Compute one path with the shared weights."""
        _grid(mixture).only = architecture

    def decoded(self, mixture: nn.Sequential) -> Path:
        """The path that a mixture favours."""
        return _grid(mixture).decode()

    def random(self, count: int, seed: int) -> list[Path]:
        """Paths at random."""
        rng = np.random.default_rng(seed)
        end = ("digit", "linear")
        return [
            (
                *((int(rng.choice(self.widths)), str(rng.choice(["pool", "sep"])))
                  for _ in self.strides),
                end,
            )
            for _ in range(count)
        ]  # fmt: skip

    def by_hand(self) -> Path:
        """Convolutions, wider at every layer."""
        layers = range(len(self.strides))
        wider = [(self.widths[min(i, len(self.widths) - 1)], "sep") for i in layers]
        return (*wider, ("digit", "linear"))


def _grid(mixture: nn.Sequential) -> DifferentiableGrid:
    grid = mixture.get_submodule("1")
    assert isinstance(grid, DifferentiableGrid)
    return grid


def _as_tuples(architecture: Any) -> Any:
    """An architecture as it was before JSON made lists of its tuples."""
    if isinstance(architecture, list | tuple):
        return tuple(map(_as_tuples, architecture))
    return architecture
