"""Chains of sums whose working is asked for in one of several formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from generality.benchmarks.worlds.chain_programs import Chain, ChainPrograms, solution
from generality.benchmarks.worlds.problem import ANSWER

Pairs = list[tuple[str, str]]
"""Prompts and their responses."""


def _barred(chain: Chain) -> str:
    return solution(chain, "full").replace(";", "|")


def _colons(chain: Chain) -> str:
    work = solution(chain, "full").split(f" {ANSWER} ")[0]
    return f"{work.replace('=', ':')} {ANSWER} {chain.answer}"


def _brackets(chain: Chain) -> str:
    work = solution(chain, "full").split(f" {ANSWER} ")[0]
    return f"( {work.replace(';', ') (')} ) {ANSWER} {chain.answer}"


FORMATS: dict[str, Callable[[Chain], str]] = {
    "barred": _barred,
    "colons": _colons,
    "brackets": _brackets,
}
"""Ways to set the working of "full" that differ in signs only; give the names to
`world_tokenizer` as `extra`."""


@dataclass(frozen=True)
class FormattedChains:
    """Tasks that ask for the same sums in other formats.

    A format's name opens its prompts. The task "full" is the usual working, asked for without a
    name: what a base would know. There is exactly one right response to each prompt.

    Args:
        steps: of the longest chain.
        examples: of a task, to tune on.
        validation: to choose by.
        test: the same for all seeds; none of them is in the other sets.

    >>> chains = FormattedChains(examples=2, validation=1, test=4)
    >>> chains.pairs("barred", 1, seed=0)[0][0]
    'barred : a = 3 ; b = a + 2 ; c = b + 1 ; c ?'
    >>> for task in chains.tasks:
    ...     print(chains.pairs(task, 1, seed=0)[0][1])
    a = 3 | b = 3 + 2 = 0 | c = 0 + 1 = 1 => 1
    a : 3 ; b : 3 + 2 : 0 ; c : 0 + 1 : 1 => 1
    ( a = 3 ) ( b = 3 + 2 = 0 ) ( c = 0 + 1 = 1 ) => 1
    a = 3 ; b = 3 + 2 = 0 ; c = 0 + 1 = 1 => 1
    """

    steps: int = 2
    examples: int = 400
    validation: int = 60
    test: int = 200

    seen: ClassVar[tuple[str, ...]] = tuple(FORMATS)
    tasks: ClassVar[tuple[str, ...]] = (*FORMATS, "full")

    def data(self, task: str, seed: int) -> dict[str, Pairs]:
        """`train`, `validation` and `test` of a task; the first two have no prompt twice."""
        test = self.pairs(task, self.test, -1)
        tested, count = {prompt for prompt, _ in test}, self.examples + self.validation
        drawn = dict(self.pairs(task, 4 * count, seed + 1))
        new = [pair for pair in drawn.items() if pair[0] not in tested][:count]
        return {
            "train": new[self.validation :], "validation": new[: self.validation], "test": test
        }  # fmt: skip

    def varied(self, count: int, seed: int, share: float) -> Pairs:
        """Prompts of "full" with their responses, a share of them in some format not asked for.

        What a base reads that has seen all formats, and does not know their names: it holds each
        for possible. Formats are drawn evenly; so is each chain as in `pairs`.

        >>> [(prompt, response)] = FormattedChains().varied(1, seed=0, share=1.0)
        >>> prompt
        'a = 3 ; b = a + 2 ; c = b + 1 ; c ?'
        >>> response
        '( a = 3 ) ( b = 3 + 2 = 0 ) ( c = 0 + 1 = 1 ) => 1'
        """
        rng = np.random.default_rng([seed, 1])
        tasks = np.where(rng.random(count) < share, rng.choice(self.seen, count), "full")
        usual = self.pairs("full", count, seed)
        others = {task: self.pairs(task, count, seed) for task in self.seen if task in tasks}
        return [
            (prompt, response if task == "full" else others[str(task)][place][1])
            for place, (task, (prompt, response)) in enumerate(zip(tasks, usual, strict=True))
        ]

    def pairs(self, task: str, count: int, seed: int) -> Pairs:
        """Prompts and responses of a task, drawn evenly from 1 to `steps` steps; −1: for tests."""
        chains = ChainPrograms().sample(count, (1, self.steps), 2**31 + seed if seed < 0 else seed)
        if task == "full":
            return [(chain.prompt, solution(chain, "full")) for chain in chains]
        return [(f"{task} : {chain.prompt}", FORMATS[task](chain)) for chain in chains]
