"""Weights of a layer-wise merge, searched by what the merged model can do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from generality.errors import import_extra
from generality.weights.merge_recipe import group_of
from generality.weights.merging import merge
from generality.weights.tensor_pieces import specs_of


@dataclass(frozen=True)
class MergeSearch:
    """What a search found.

    Attributes:
        groups: group → one weight for each expert; of `Recipe.groups`.
        score: the best fitness.
        uniform: the fitness of equal weights, where the search began.
        scores: fitness of every merge that was tried, in order.
        tensors: the best merge.
    """

    groups: dict[str, list[float]]
    score: float
    uniform: float
    scores: Float[np.ndarray, " evaluations"]
    tensors: dict[str, Tensor]


def search_merge(
    experts: Sequence[Mapping[str, Tensor]],
    base: Mapping[str, Tensor],
    fitness: Callable[[dict[str, Tensor]], float],
    *,
    method: str = "task-arithmetic",
    granularity: str = "block",
    budget: int = 100,
    sigma: float = 1 / 6,
    seed: int = 0,
    **settings: Any,
) -> MergeSearch:
    """Weights for each group of tensors and expert under which a merge scores best, by CMA-ES.

    The search begins at equal weights, which are tried first, so that its result is never worse
    than they are on the data that `fitness` looks at. Those data must not be what is reported
    later: a search over-fits small ones. Weights are not negative. Densities are not searched, as
    mergekit's are: the one that is given is that of all groups.

    Source: the search of mergekit's evolutionary merging (Akiba et al. 2024, arXiv 2403.13187),
    which is what "Unconstrained Model Merging" (arXiv 2410.13699) applies to its homogeneous
    experts; Hansen 2016 (arXiv 1604.00772) for CMA-ES, in the package `cma`.

    Args:
        experts: state dicts of one architecture.
        base: what they were tuned from.
        fitness: of merged tensors; higher is better, must be finite.
        method: what is applied in each group: task-arithmetic, ties, dare or dare-ties.
        granularity: "block" (attention, mlp and the rest of each layer), "layer" or "tensor".
        budget: merges to try.
        sigma: the first step size, in weights.
        seed: of the search.
        settings: of `Recipe`: density, lam, variant, seed is the search's.

    Raises:
        UserError: the package `cma` is missing.
        ValueError: a budget below 1, no experts, a fitness that is not finite, and what `merge`
            raises.

    >>> import torch
    >>> base = {"layers.0.mlp.w": torch.zeros(1), "layers.1.mlp.w": torch.zeros(1)}
    >>> experts = [{name: torch.tensor([x]) for name in base} for x in (1.0, 3.0)]
    >>> def fitness(state):  # the first layer should be like the first expert, the second not
    ...     first, second = state.values()
    ...     return -float((first - 1) ** 2 + (second - 3) ** 2)
    >>> found = search_merge(experts, base, fitness, budget=150)
    >>> round(found.uniform, 2), found.score > -0.05
    (-2.0, True)
    """
    if budget < 1:
        raise ValueError(f"budget is at least 1 merge, not {budget}")
    if not experts:
        raise ValueError("there is nothing to merge")
    cma = import_extra("cma", "merge")
    names = sorted({group_of(name, granularity) for name in specs_of(base)})
    average = 1.0 if method in ("ties", "dare-ties") else 1 / len(experts)
    scores: list[float] = []
    best: tuple[float, dict[str, list[float]], dict[str, Tensor]] = (-math.inf, {}, {})

    def attempt(x: np.ndarray) -> float:
        nonlocal best
        weights = np.abs(x).reshape(len(names), len(experts)).tolist()
        groups = dict(zip(names, weights, strict=True))
        state = merge(
            experts, "layerwise", base=base, inner=method, groups=groups, granularity=granularity,
            seed=seed, **settings,
        )  # fmt: skip
        score = float(fitness(state))
        if not math.isfinite(score):
            raise ValueError(f"the fitness of merge {len(scores) + 1} is {score}, not finite")
        scores.append(score)
        if score > best[0]:
            best = (score, groups, state)
        return -score

    start = np.full(len(names) * len(experts), average)
    attempt(start)
    rng = np.random.default_rng(seed)  # it would seed numpy's global generator
    options = {"randn": lambda *shape: rng.standard_normal(shape), "verbose": -9}
    search = cma.CMAEvolutionStrategy(start, sigma, options)
    while len(scores) < budget:
        asked = search.ask()[: budget - len(scores)]
        if len(asked) < search.popsize:
            for x in asked:  # too few to learn from, but perhaps the best yet
                attempt(x)
            break
        search.tell(asked, [attempt(x) for x in asked])
        if search.stop():
            break
    return MergeSearch(best[1], best[0], scores[0], np.array(scores), best[2])
