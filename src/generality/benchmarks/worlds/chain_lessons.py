"""Lessons that teach a tiny decoder to solve chains in the manner of a demonstration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from generality.benchmarks.worlds.chain_programs import ChainPrograms, solution

BETWEEN = " | "
"""Stands between a solved chain and the next question."""


def chain_lessons(
    count: int,
    steps: int | tuple[int, int],
    seed: int,
    *,
    styles: Sequence[str] = ("full", "terse", "reversed"),
    source: ChainPrograms | None = None,
) -> tuple[list[str], list[str]]:
    """Prompts and responses: a question; its solution, another question, solved in the same style.

    Who learns from them answers in the style of the solved question before, and can be read up to
    the `BETWEEN` that it goes on with.

    Args:
        count: lessons.
        steps: of every chain, as `ChainPrograms.sample` takes them.
        seed: of chains and styles.
        styles: names among `STYLES`, drawn evenly.
        source: of the chains.

    >>> prompts, responses = chain_lessons(1, 1, seed=0)
    >>> print(prompts[0], responses[0], sep="\\n")
    """
    chains = (source or ChainPrograms()).sample(2 * count, steps, seed)
    drawn = np.random.default_rng(seed).choice(list(styles), size=count).tolist()
    pairs = list(zip(chains[:count], chains[count:], drawn, strict=True))
    return [shown.prompt for shown, _, _ in pairs], [
        f"{solution(shown, style)}{BETWEEN}{asked.prompt} {solution(asked, style)}"
        for shown, asked, style in pairs
    ]
