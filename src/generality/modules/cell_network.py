"""An image classifier made of cells of one architecture, searched or given."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from generality.modules.darts_cell import DartsCell, Genotype, GenotypeCell, Operators
from generality.modules.mixed_op import Weighting


class CellNetwork(nn.Module):
    """3×3 stem of stride 2, cells, head; each cell reads the last two, halved after each third.

    Args:
        operators: of an edge, which keep `width` channels and the size.
        width: channels of every node.
        channels: of the image.
        classes: of the answer.
        cells: how many.
        nodes: of a cell that is searched.
        genotype: the cells' architecture; None: mixtures, whose logits all cells share.
        weighting: of the mixtures.

    Between cells DARTS' ReLU, 1×1 convolution and batch norm bring the joined nodes back to `width`
    (its batch norms have no scales while searching). DARTS' reduction cells are average pooling
    here: one kind of cell is searched.

    >>> import torch
    >>> from generality.modules import sharp_operators
    >>> net = CellNetwork(sharp_operators(8), 8, cells=3, nodes=2)
    >>> net(torch.zeros(2, 1, 14, 14)).shape, len(net.genotype())
    (torch.Size([2, 10]), 2)
    """

    def __init__(
        self,
        operators: Operators,
        width: int,
        *,
        channels: int = 1,
        classes: int = 10,
        cells: int = 1,
        nodes: int = 4,
        genotype: Genotype | None = None,
        weighting: Weighting = "softmax",
    ) -> None:
        super().__init__()
        self.stem = conv_stem(channels, width)
        self.cells, self.narrow = nn.ModuleList(), nn.ModuleList()
        joined = (nodes if genotype is None else len(genotype)) * width
        first: DartsCell | None = None
        for _ in range(cells):
            if genotype is None:
                cell = DartsCell(operators, nodes, weighting=weighting, like=first)
                first = first or cell
                self.cells.append(cell)
            else:
                self.cells.append(GenotypeCell(genotype, operators))
        for _ in range(cells - 1):
            self.narrow.append(_narrowed(joined, width, affine=genotype is not None))
        self.halved = {cells // 3, 2 * cells // 3} - {0}
        self.head = pooled_head(joined, classes)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits."""
        before = last = self.stem(x)
        joined = last
        for i, cell in enumerate(self.cells):
            if i in self.halved:
                before, last = (
                    nn.functional.avg_pool2d(state, 2, ceil_mode=True) for state in (before, last)
                )
            joined = cell(before, last)
            if i < len(self.narrow):
                before, last = last, self.narrow[i](joined)
        logits: Tensor = self.head(joined)
        return logits

    def searched(self) -> DartsCell:
        """The cell whose logits all share.

        Raises:
            ValueError: the architecture was given.
        """
        cell = self.cells[0]
        if not isinstance(cell, DartsCell):
            raise ValueError("this network has one architecture: nothing is searched")
        return cell

    def genotype(self, exclude: tuple[str, ...] = ("none",)) -> Genotype:
        """What the cells decode to; see `DartsCell.genotype`."""
        return self.searched().genotype(exclude=exclude)

    def follow(self, genotype: Genotype | None) -> None:
        """Compute one architecture with the weights there are; None: the mixtures again."""
        for cell in self.cells:
            assert isinstance(cell, DartsCell)
            cell.follow(genotype)


def _narrowed(joined: int, width: int, *, affine: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(joined, width, 1, bias=False), nn.BatchNorm2d(width, affine=affine)
    )


def conv_stem(channels: int, width: int) -> nn.Sequential:
    """3×3 convolution of stride 2, batch norm."""
    return nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width))


def pooled_head(width: int, classes: int) -> nn.Sequential:
    """ReLU, mean over places, classifier."""
    return nn.Sequential(
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )
