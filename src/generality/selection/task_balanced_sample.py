"""Drawing queries so that small tasks are not drowned by large ones."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def task_balanced_sample(
    tasks: Mapping[str, Sequence[Item]], n: int, seed: int, *, most: int | None = None
) -> list[tuple[str, Item]]:
    """n queries with their tasks, without replacement: each time a task, evenly, then a query.

    A task is drawn among those that have queries left, so small tasks are used up and the large
    ones share the rest evenly, whatever their sizes. (Drawing from all queries at once would give
    the largest task nearly everything.)

    Source: Mukherjee et al. 2023 (arXiv 2306.02707), algorithm 1.

    Args:
        tasks: the queries of each.
        n: how many to draw in all; all of them when there are fewer.
        seed: of the draws.
        most: of one task; the paper takes at most 300 queries per task of Super-NaturalInstructions
            and a million per task of Flan 2021.

    >>> pools = {"small": range(10), "middle": range(100), "large": range(1000)}
    >>> drawn = [task for task, _ in task_balanced_sample(pools, 90, seed=0)]
    >>> [drawn.count(task) for task in pools]
    [10, 38, 42]
    """
    names = [name for name, queries in tasks.items() for _ in queries]
    starts, total = {}, 0
    for name, queries in tasks.items():
        starts[name], total = total, total + len(queries)
    rows = task_balanced_rows(names, n, seed, most=most)
    return [(names[row], tasks[names[row]][row - starts[names[row]]]) for row in rows]


def task_balanced_rows(
    tasks: Sequence[Hashable], n: int, seed: int, *, most: int | None = None
) -> list[int]:
    """As `task_balanced_sample`, from a column of tasks to row numbers.

    For a `datasets.Dataset`: `data.select(task_balanced_rows(data["task"], 5000, seed=0))`.

    Raises:
        ValueError: n is negative, or `most` below 1.

    >>> sorted(task_balanced_rows(["a", "b", "b", "b", "c"], 3, seed=0))
    [0, 2, 3]
    """
    if n < 0 or (most is not None and most < 1):
        raise ValueError("n is at least 0 and most at least 1")
    rng = random.Random(seed)
    by_task: dict[Hashable, list[int]] = {}
    for row, task in enumerate(tasks):
        by_task.setdefault(task, []).append(row)
    left = []
    for rows in by_task.values():
        rng.shuffle(rows)
        left.append(rows[:most])
    drawn: list[int] = []
    while left and len(drawn) < n:
        place = rng.randrange(len(left))
        drawn.append(left[place].pop())
        if not left[place]:
            left[place] = left[-1]
            left.pop()
    return drawn
