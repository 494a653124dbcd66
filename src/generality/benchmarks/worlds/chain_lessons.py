"""Lessons that teach a tiny decoder to solve chains in the manner of a demonstration."""

from __future__ import annotations

from collections.abc import Container, Sequence

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
    avoid: Container[str] = (),
    shown_steps: int | tuple[int, int] | None = None,
) -> tuple[list[str], list[str]]:
    """Prompts and responses: a question and its solution, every other one after a solved chain.

    Who learns from them solves a question, in the style of the solved one before if there is one.
    The solved chain belongs to the prompt, so that nothing is learned from predicting questions,
    which cannot be predicted: with questions in the loss, a decoder of 0.25M parameters had hardly
    learned single sums after 24,000 lessons.

    Args:
        count: lessons, before those to avoid are left out.
        steps: of every chain, as `ChainPrograms.sample` takes them.
        seed: of chains and styles.
        styles: names among `STYLES`, drawn evenly; one that is there twice comes twice as often.
        source: of the chains.
        avoid: questions that no lesson solves, such as those of a test.
        shown_steps: of the solved chains before questions; None: as `steps`. Give one range to all
            lessons that are mixed: where long chains are only shown before long questions, who
            learns from them takes the length of its answer from the example, not the question.

    >>> for prompt, response in zip(*chain_lessons(2, 1, seed=0), strict=True):
    ...     print(prompt, "->", response)
    a = 1 ; b = a + 1 ; b ? -> b 2 , a 1 => 2
    a = 0 ; b = a + 0 ; b ? => 0 | a = 4 ; b = a - 3 ; b ? -> => 1
    """
    source = source or ChainPrograms()
    chains = source.sample(2 * count, steps, seed)
    if shown_steps is not None:
        apart = np.random.SeedSequence([seed, 1]).generate_state(1).item()
        chains[::2] = source.sample(count, shown_steps, apart)
    drawn = np.random.default_rng(seed).choice(list(styles), size=count).tolist()
    prompts, responses = [], []
    for place, style in enumerate(drawn):
        shown, asked = chains[2 * place : 2 * place + 2]
        if shown.prompt in avoid or asked.prompt in avoid:
            continue
        before = f"{shown.prompt} {solution(shown, style)}{BETWEEN}" if place % 2 else ""
        prompts.append(before + asked.prompt)
        responses.append(solution(asked, style))
    return prompts, responses
