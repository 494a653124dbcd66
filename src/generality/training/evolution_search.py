"""A search by mutation and crossover, for anything that can be drawn, changed and scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

Candidate = TypeVar("Candidate")


def evolution_search(
    *,
    draw: Callable[[np.random.Generator], Candidate],
    mutate: Callable[[Candidate, np.random.Generator], Candidate],
    cross: Callable[[Candidate, Candidate, np.random.Generator], Candidate],
    fitness: Callable[[Candidate], float],
    allowed: Callable[[Candidate], bool] = lambda candidate: True,
    population: int = 50,
    generations: int = 20,
    parents: int = 10,
    seed: int = 0,
) -> list[tuple[Candidate, float]]:
    """Every candidate that was scored, best first.

    The first generation is drawn; each later one is half mutants of the best `parents` found so
    far and half crossings of two of them, filled up with draws where too few are new and allowed.
    Nothing is scored twice.

    Args:
        draw: a candidate at random, hashable.
        mutate, cross: a candidate from one or two.
        fitness: larger is better.
        allowed: whether a candidate is within the limits; others are not scored.
        population: candidates in a generation.
        generations: how many, the first included.
        parents: how many of the best are parents.
        seed: of everything random but the fitness.

    Source: as in Chen et al. 2021 (NEAS, arXiv 2104.00597): 50 candidates, 20 generations, 10
    parents.

    >>> near = evolution_search(
    ...     draw=lambda rng: int(rng.integers(1000)), fitness=lambda n: -abs(n - 700),
    ...     mutate=lambda n, rng: n + int(rng.integers(-30, 31)),
    ...     cross=lambda a, b, rng: (a + b) // 2, population=20, generations=8)
    >>> abs(near[0][0] - 700) < 15
    True
    """
    if min(population, generations, parents) < 1:
        raise ValueError("population, generations and parents are at least 1")
    rng = np.random.default_rng(seed)
    scored: dict[Candidate, float] = {}
    for generation in range(generations):
        best = sorted(scored, key=lambda c: -scored[c])[:parents]
        wanted = len(scored) + population
        for attempt in range(20 * population):
            if len(scored) >= wanted:
                break
            if generation == 0 or attempt >= 10 * population:
                new = draw(rng)
            elif attempt % 2:
                new = mutate(best[rng.integers(len(best))], rng)
            else:
                a, b = rng.integers(len(best), size=2)
                new = cross(best[a], best[b], rng)
            if new not in scored and allowed(new):
                scored[new] = float(fitness(new))
        if not scored:
            raise ValueError("no candidate is allowed: widen the limits")
    return sorted(scored.items(), key=lambda item: -item[1])
