"""One network that holds every path of a search space, and the ensembles among its paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.measures.flops import flops
from generality.models.multi_head import MultiHead
from generality.modules.shared_trunk import shared_trunk_ensemble

Choices = Mapping[str, Callable[[], nn.Module]]
"""The operators that a block may be: by name, each called to build one."""
Combo = tuple[str, ...]
"""The operators of one block, one for each member."""


@dataclass(frozen=True)
class EnsembleArchitecture:
    """A trunk that all members share, and where it splits.

    Attributes:
        split: how many blocks are shared; all of them: the members differ in their heads only.
        combos: for each block the members' operators; a shared block has the first member's.

    >>> EnsembleArchitecture(1, (("conv", "skip"), ("conv", "skip"))).paths
    (('conv', 'conv'), ('conv', 'skip'))
    """

    split: int
    combos: tuple[Combo, ...]

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """Every member's operators, block by block."""
        members = len(self.combos[0])
        return tuple(
            tuple(combo[0 if block < self.split else m] for block, combo in enumerate(self.combos))
            for m in range(members)
        )

    def __eq__(self, other: object) -> bool:
        """Whether they are the same network: what shared blocks hold for others does not count."""
        return isinstance(other, EnsembleArchitecture) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, tuple[tuple[str, ...], ...]]:
        return self.split, self.paths


class Supernet(nn.Module):
    """Shared weights for all ensembles of `members` paths through a list of choice blocks.

    After the stem every block is one of its operators; the first `split` blocks are shared, then
    each member has its own. Members have weights of their own for every operator, and a head.

    Args:
        stem: builds what comes before the blocks.
        choices: the operators of each block; within a block they map one shape to one shape.
        head: builds a member's head, from the last block's output to logits.
        members: how many paths an ensemble has; 1 for single networks.

    Source: Chen et al. 2021 (NEAS, arXiv 2104.00597). Its search code was not released: that
    members do not share weights after the split is our reading.

    >>> blocks = [{"line": lambda: nn.Linear(4, 4), "skip": nn.Identity}] * 2
    >>> net = Supernet(lambda: nn.Linear(3, 4), blocks, lambda: nn.Linear(4, 2))
    >>> chosen = EnsembleArchitecture(1, (("line", "line"), ("line", "skip")))
    >>> net(torch.zeros(5, 3), chosen).shape
    torch.Size([2, 5, 2])
    >>> net.flops(chosen, net.costs(torch.zeros(1, 3)))  # a stem, two blocks, two heads
    120
    """

    def __init__(
        self,
        stem: Callable[[], nn.Module],
        choices: Sequence[Choices],
        head: Callable[[], nn.Module],
        members: int = 2,
    ) -> None:
        super().__init__()
        if not choices or members < 1:
            raise ValueError("a supernet has a block and a member")
        self.builds = stem, tuple(choices), head
        self.members = members
        self.stem = stem()
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleDict({name: build() for name, build in block.items()})
                for _ in range(members)
            )
            for block in choices
        )
        self.heads = nn.ModuleList(head() for _ in range(members))

    def forward(
        self, x: Float[Tensor, "batch ..."], architecture: EnsembleArchitecture
    ) -> Float[Tensor, "members batch classes"]:
        """The members' logits, with the shared weights."""
        logits: Tensor = self.network(architecture)(x)
        return logits

    def network(self, architecture: EnsembleArchitecture) -> MultiHead:
        """This ensemble as a module over the supernet's own weights; training it trains them."""
        return _assembled(architecture, self.stem, self._operator, list(self.heads))

    def fresh(
        self, architecture: EnsembleArchitecture, head: Callable[[], nn.Module] | None = None
    ) -> MultiHead:
        """This ensemble with new weights, to train alone; `head` builds other heads."""
        stem, choices, own = self.builds
        build = own if head is None else head
        heads = [build() for _ in architecture.paths]
        return _assembled(architecture, stem(), lambda b, m, op: choices[b][op](), heads)

    def costs(self, x: Float[Tensor, "batch ..."]) -> list[dict[str, int]]:
        """Floating-point operations for these inputs: of the stem, each block's operators, a head.

        The first entry is {"stem": …}, the last {"head": …}.
        """
        was = self.training
        self.eval()
        found = [{"stem": flops(self.stem, x)}]
        with torch.no_grad():
            x = self.stem(x)
            for block in range(len(self.blocks)):
                names = list(self.builds[1][block])
                found.append({op: flops(self._operator(block, 0, op), x) for op in names})
                x = self._operator(block, 0, names[0])(x)
        self.train(was)
        return [*found, {"head": flops(self.heads[0], x)}]

    def flops(self, architecture: EnsembleArchitecture, costs: Sequence[Mapping[str, int]]) -> int:
        """Of one ensemble, shared blocks once, from what `costs` says."""
        total = costs[0]["stem"] + len(architecture.paths) * costs[-1]["head"]
        for block, combo in enumerate(architecture.combos):
            used = combo[:1] if block < architecture.split else combo
            total += sum(costs[block + 1][op] for op in used)
        return total

    def same_inputs(
        self, x: Float[Tensor, "batch ..."], architecture: EnsembleArchitecture
    ) -> list[list[dict[str, Tensor]]]:
        """What every operator of every member makes of the same inputs: per block, per member.

        Each block reads what the first member's path gives.
        """
        with torch.no_grad():
            x = self.stem(x)
            found = []
            for block, combo in enumerate(architecture.combos):
                names = list(self.builds[1][block])
                outputs = [
                    {op: self._operator(block, m, op)(x) for op in names}
                    for m in range(self.members)
                ]
                found.append(outputs)
                x = outputs[0][combo[0]]
        return found

    def _operator(self, block: int, member: int, name: str) -> nn.Module:
        members = self.blocks[block]
        assert isinstance(members, nn.ModuleList)
        operators = members[member]
        assert isinstance(operators, nn.ModuleDict)
        return operators[name]


def _assembled(
    architecture: EnsembleArchitecture,
    stem: nn.Module,
    operator: Callable[[int, int, str], nn.Module],
    heads: Sequence[nn.Module],
) -> MultiHead:
    split, paths = architecture.split, architecture.paths
    trunk = nn.Sequential(stem, *(operator(b, 0, op) for b, op in enumerate(paths[0][:split])))
    members = [
        nn.Sequential(*(operator(b, m, op) for b, op in enumerate(path) if b >= split), heads[m])
        for m, path in enumerate(paths)
    ]
    return shared_trunk_ensemble(trunk, members)
