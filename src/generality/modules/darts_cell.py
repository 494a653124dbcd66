"""A cell of a network as a graph, whose edges are mixtures of candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.modules.mixed_op import MixedOp, Searchable, Weighting

Operators = Mapping[str, Callable[[], nn.Module]]
Genotype = tuple[tuple[tuple[int, str], ...], ...]
"""For each node its edges, as (source, operator); sources are the cell's inputs, then nodes."""


class DartsCell(Searchable):
    """Every node sums a mixture of candidates over each input and earlier node; nodes are joined.

    Args:
        operators: candidates of an edge by name, each called to build one; they keep the shape.
        nodes: how many.
        inputs: how many tensors the cell takes; DARTS' takes the last two cells' outputs.
        weighting: of the mixtures.
        like: share this cell's logits, so that both have one architecture.

    Source: Liu, Simonyan and Yang 2019 (DARTS, arXiv 1806.09055), section 2.1.

    >>> from generality.modules import Zero
    >>> cell = DartsCell({"none": Zero, "line": lambda: nn.Conv2d(3, 3, 1)}, nodes=2)
    >>> x = torch.zeros(1, 3, 4, 4)
    >>> cell(x, x).shape, len(cell.edges)
    (torch.Size([1, 6, 4, 4]), 5)
    """

    def __init__(
        self,
        operators: Operators,
        nodes: int = 4,
        *,
        inputs: int = 2,
        weighting: Weighting = "softmax",
        like: DartsCell | None = None,
    ) -> None:
        super().__init__()
        self.nodes, self.inputs = nodes, inputs
        places = [f"{source}-{inputs + node}" for node in range(nodes)
                  for source in range(inputs + node)]  # fmt: skip
        self.edges = nn.ModuleDict()
        for place in places:
            alpha = None if like is None else like.edge(place).alpha
            candidates = {name: build() for name, build in operators.items()}
            self.edges[place] = MixedOp(candidates, weighting, alpha)

    def edge(self, place: str) -> MixedOp:
        """The mixture on the edge "source-node"."""
        found = self.edges[place]
        assert isinstance(found, MixedOp)
        return found

    def architecture_parameters(self) -> list[nn.Parameter]:
        """None of its own: its edges have them."""
        return []

    def forward(
        self, *inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch joined height width"]:
        """The nodes' outputs, channels after channels."""
        states = list(inputs)
        for node in range(self.inputs, self.inputs + self.nodes):
            states.append(
                torch.stack([self.edges[f"{s}-{node}"](x) for s, x in enumerate(states)]).sum(0)
            )
        return torch.cat(states[self.inputs :], 1)

    def genotype(self, keep: int = 2, exclude: Sequence[str] = ("none",)) -> Genotype:
        """For each node the `keep` edges whose best candidate, `exclude` aside, is heaviest.

        DARTS excludes "none" by hand; without that (`exclude=()`) an edge may decode to "none",
        which shows how far the search leans to it.
        """
        found = []
        for node in range(self.inputs, self.inputs + self.nodes):
            edges = []
            for source in range(node):
                mixture = self.edge(f"{source}-{node}")
                name = mixture.heaviest(list(exclude))
                edges.append((mixture.weights()[name], source, name))
            best = sorted(edges, key=lambda edge: -edge[0])[:keep]
            found.append(
                tuple((source, name) for _, source, name in sorted(best, key=lambda e: e[1]))
            )
        return tuple(found)

    def follow(self, genotype: Genotype | None) -> None:
        """Compute this architecture alone, with the weights there are; None: the mixtures again.

        Edges that a genotype leaves out give zeros: there must be a candidate "none".
        """
        for place, mixture in self.edges.items():
            source, node = map(int, place.split("-"))
            kept = {} if genotype is None else dict(genotype[node - self.inputs])
            assert isinstance(mixture, MixedOp)
            mixture.only = None if genotype is None else kept.get(source, "none")


class GenotypeCell(nn.Module):
    """A cell of one architecture, with new weights.

    >>> cell = GenotypeCell((((0, "line"), (1, "line")),), {"line": lambda: nn.Conv2d(3, 3, 1)})
    >>> cell(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)).shape
    torch.Size([1, 3, 4, 4])
    """

    def __init__(self, genotype: Genotype, operators: Operators, *, inputs: int = 2) -> None:
        super().__init__()
        self.genotype, self.inputs = genotype, inputs
        self.nodes = nn.ModuleList(
            nn.ModuleList(operators[name]() for _, name in edges) for edges in genotype
        )

    def forward(
        self, *inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch joined height width"]:
        """The nodes' outputs, channels after channels."""
        states = list(inputs)
        for edges, ops in zip(self.genotype, self.nodes, strict=True):
            assert isinstance(ops, nn.ModuleList)
            sums = [op(states[source]) for (source, _), op in zip(edges, ops, strict=True)]
            states.append(torch.stack(sums).sum(0))
        return torch.cat(states[self.inputs :], 1)
