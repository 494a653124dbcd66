"""All settings of a network at once, as a layered graph whose heaviest path is the answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from generality.modules.mixed_op import (
    Searchable,
    Weighting,
    check_weighting,
    mixing_coefficients,
)

Path = tuple[tuple[Hashable, str], ...]
"""For each stage the value it ends in and the operator that leads there."""


@dataclass(frozen=True)
class Stage:
    """One step of the grid.

    Attributes:
        values: settings of what comes out, such as widths; anything hashable.
        operators: names of the ways to get there.
        build: (value before, value after, operator) → a module.
    """

    values: Sequence[Any]
    operators: Sequence[str]
    build: Callable[[Any, Any, str], nn.Module]


class DifferentiableGrid(Searchable):
    """Differentiable grid search (HyperCuboid): every value of every stage, trained together.

    A node is a value of a stage. It sums, over the values before and the operators, the module
    between them times its coefficient; the coefficients of a whole stage come from one softmax. The
    last stage has one value, the output. Any discrete settings can be stages: widths, kernels,
    depths, ways to pool.

    Args:
        start: the value of the input.
        stages: in order; the last has one value.
        weighting: "softmax" (DARTS), "max_w" (sharpDARTS) or "gumbel"; the maximum of Max-W is
            over a stage.

    Attributes:
        only: compute this path alone, each module with coefficient 1; None: the whole grid.

    Source: Hundt, Jain and Hager 2019 (sharpDARTS, arXiv 1903.09900), section 3.4. The released
    code may skip modules of weight below 1/N²; here all are computed.

    Raises:
        ValueError: no stage, an empty one, a last stage of several values, an unknown weighting.

    >>> widths = Stage((2, 4), ("linear", "square"), lambda a, b, op: nn.Linear(a, b))
    >>> last = Stage((1,), ("out",), lambda a, b, op: nn.Linear(a, b))
    >>> grid = DifferentiableGrid(3, [widths, widths, last])
    >>> grid(torch.zeros(5, 3)).shape, len(grid.modules_by_edge)
    (torch.Size([5, 1]), 14)
    >>> grid.network(((4, "linear"), (2, "square"), (1, "out")))
    Sequential(
      (0): Linear(in_features=3, out_features=4, bias=True)
      (1): Linear(in_features=4, out_features=2, bias=True)
      (2): Linear(in_features=2, out_features=1, bias=True)
    )
    """

    def __init__(
        self, start: Any, stages: Sequence[Stage], *, weighting: Weighting = "softmax"
    ) -> None:
        super().__init__()
        check_weighting(weighting)
        if not stages or any(not (s.values and s.operators) for s in stages):
            raise ValueError("a grid has stages, each with values and operators")
        if len(stages[-1].values) != 1:
            raise ValueError("the last stage has one value: what the network gives")
        self.stages, self.weighting = tuple(stages), weighting
        self.before = [[start], *(list(stage.values) for stage in stages[:-1])]
        self.modules_by_edge = nn.ModuleDict(
            {
                f"{i}-{a}-{b}-{o}": stage.build(first, second, op)
                for i, stage in enumerate(stages)
                for a, first in enumerate(self.before[i])
                for b, second in enumerate(stage.values)
                for o, op in enumerate(stage.operators)
            }
        )
        self.alphas = nn.ParameterList(
            1e-3 * torch.randn(len(before), len(stage.values), len(stage.operators))
            for before, stage in zip(self.before, stages, strict=True)
        )
        self.only: Path | None = None

    def architecture_parameters(self) -> list[nn.Parameter]:
        """The logits of every stage, (values before, values after, operators)."""
        return list(self.alphas)

    def forward(self, x: Tensor) -> Tensor:
        """The whole grid's output, or that of the path `only`."""
        if self.only is not None:
            return self._along(x, self.only)
        nodes = [x]
        for i, alpha in enumerate(self.alphas):
            shares = mixing_coefficients(alpha, self.weighting, training=self.training)
            nodes = [
                torch.stack(
                    [
                        shares[a, b, o] * self.modules_by_edge[f"{i}-{a}-{b}-{o}"](node)
                        for a, node in enumerate(nodes)
                        for o in range(alpha.shape[2])
                    ]
                ).sum(0)
                for b in range(alpha.shape[1])
            ]
        return nodes[0]

    def decode(
        self, how: Literal["longest_path", "greedy", "greedy_backward"] = "longest_path"
    ) -> Path:
        """One path: of the largest sum of weights, or the heaviest step from the front or the back.

        Weights are those of a stage's softmax.
        """
        weights = [alpha.detach().flatten().softmax(0).view_as(alpha) for alpha in self.alphas]
        if how == "greedy":
            found, at = [], 0
            for weight in weights:
                at, o = divmod(int(weight[at].argmax()), weight.shape[2])
                found.append((at, o))
            return self._named(found)
        if how == "greedy_backward":
            found, at = [], 0
            for weight in reversed(weights):
                a, o = divmod(int(weight[:, at].argmax()), weight.shape[2])
                found, at = [(at, o), *found], a
            return self._named(found)
        if how != "longest_path":
            raise ValueError(f"how is longest_path, greedy or greedy_backward, not '{how}'")
        best: list[tuple[float, list[tuple[int, int]]]] = [(0.0, [])]  # of each node
        for weight in weights:
            heavy, ops = weight.max(2)
            best = [
                max(
                    (
                        (length + float(heavy[a, b]), [*steps, (b, int(ops[a, b]))])
                        for a, (length, steps) in enumerate(best)
                    ),
                    key=lambda path: path[0],
                )
                for b in range(weight.shape[1])
            ]
        return self._named(best[0][1])

    def network(self, path: Path) -> nn.Sequential:
        """The network of one path, with new weights.

        Raises:
            ValueError: a path with a value or an operator that its stage has not.
        """
        self._indices(path)
        values = [self.before[0][0], *(value for value, _ in path)]
        return nn.Sequential(
            *(
                stage.build(a, b, op)
                for stage, a, b, (_, op) in zip(
                    self.stages, values[:-1], values[1:], path, strict=True
                )
            )
        )

    def paths(self) -> int:
        """How many there are."""
        count = 1
        for stage in self.stages:
            count *= len(stage.values) * len(stage.operators)
        return count

    def _along(self, x: Tensor, path: Path) -> Tensor:
        at = 0
        for i, (b, o) in enumerate(self._indices(path)):
            x = self.modules_by_edge[f"{i}-{at}-{b}-{o}"](x)
            at = b
        return x

    def _indices(self, path: Path) -> list[tuple[int, int]]:
        if len(path) != len(self.stages):
            raise ValueError(f"a path of {len(path)} steps through {len(self.stages)} stages")
        return [
            (list(stage.values).index(value), list(stage.operators).index(op))
            for stage, (value, op) in zip(self.stages, path, strict=True)
        ]

    def _named(self, steps: Sequence[tuple[int, int]]) -> Path:
        return tuple(
            (stage.values[b], stage.operators[o])
            for stage, (b, o) in zip(self.stages, steps, strict=True)
        )
