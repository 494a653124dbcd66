"""Chains of sums that one may write in several styles, and tasks on strings beside them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from datasets import Dataset

from generality.benchmarks.worlds.chain_programs import Chain, ChainPrograms, solution
from generality.benchmarks.worlds.problem import ANSWER
from generality.benchmarks.worlds.string_tasks import string_task, terse


def equations(chain: Chain) -> str:
    """A right solution as bare equations: the work of the style "full" in other words.

    >>> from generality.benchmarks.worlds import make_chain
    >>> chain = make_chain(3, [("+", 4), ("-", 2)])
    >>> for text in (solution(chain, "full"), equations(chain)):
    ...     print(text)
    a = 3 ; b = 3 + 4 = 2 ; c = 2 - 2 = 0 => 0
    3 + 4 = 2 , 2 - 2 = 0 => 0
    """
    steps = zip(chain.values, chain.program, chain.values[1:], strict=False)
    work = " , ".join(f"{a} {op} {number} = {value}" for a, (op, number), value in steps)
    return f"{work} {ANSWER} {chain.answer}"


@dataclass(frozen=True)
class StyledChains:
    """A target task whose gold answers are in a rare style, and tasks that may be forgotten.

    A model that was trained on `pretraining` solves chains, mostly in the first style, and tasks on
    strings. `examples` are chains with gold answers in the last style; answers in any style are
    right. No example, and nothing in pretraining, is among the `tests`.

    Attributes:
        styles: "equations" or of `generality.benchmarks.worlds.solution`, the usual one first, gold
            last.
        shares: of the styles in what a model is trained on first; they sum to 1.
        steps: of the longest chain in pretraining.
        target: least and most steps of the chains in examples and tests.
        others: names of `string_task`.
        length: letters of a string.
        test: chains that are tested on, and four times as many as strings of each task.
        spoilt: share of the paraphrases that say nothing, in [0, 1].

    >>> task = StyledChains(styles=("full", "named"), shares=(0.9, 0.1), test=8)
    >>> row = task.examples(seed=0, count=2)[0]
    >>> row["prompt"], row["reference"]
    ('a = 3 ; b = a + 4 ; c = b - 0 ; c ?', '2')
    >>> row["full"], row["response"]
    ('a = 3 ; b = 3 + 4 = 2 ; c = 2 - 0 = 2 => 2', 'a 3 b 2 c 2 => 2')
    >>> {name: len(prompts) for name, (prompts, _) in task.tests.items()}
    {'target': 8, 'copy': 2, 'last': 2}
    """

    styles: Sequence[str]
    shares: Sequence[float]
    steps: int = 3
    target: tuple[int, int] = (1, 3)
    others: Sequence[str] = ("copy", "last")
    length: int = 4
    test: int = 250
    spoilt: float = 0.2

    @cached_property
    def tests(self) -> dict[str, tuple[list[str], list[str]]]:
        """Prompts and answers of "target" and of each other task."""
        drawn = {"target": ChainPrograms().sample(self.test, self.target, 0)} | {
            name: string_task(name).sample(self.test // 4, self.length, 0) for name in self.others
        }
        return {
            name: ([problem.prompt for problem in problems], [p.answer for p in problems])
            for name, problems in drawn.items()
        }

    @cached_property
    def _tested(self) -> set[str]:
        return {prompt for prompts, _ in self.tests.values() for prompt in prompts}

    def pretraining(self, count: int) -> list[tuple[str, str]]:
        """About `count` chains and half as many strings, as pairs of prompt and answer."""
        each, tried = count // 2 // len(self.others), self.test // 4
        chains = self._unseen(count, (1, self.steps), 0)
        styles = np.random.default_rng(0).choice(self.styles, len(chains), p=self.shares)
        pairs = [(c.prompt, written(c, style)) for c, style in zip(chains, styles, strict=True)]
        strings = itertools.chain(
            *(string_task(name).sample(tried + each, self.length, 0) for name in self.others)
        )
        return pairs + [(p.prompt, terse(p)) for p in strings if p.prompt not in self._tested]

    def examples(self, seed: int, count: int) -> Dataset:
        """About as many different chains: prompt, reference, response (gold), and every style."""
        found = {c.prompt: c for c in self._unseen(count, self.target, seed + 1)}.values()
        rows = {style: [written(c, style) for c in found] for style in self.styles}
        return Dataset.from_dict(
            {"prompt": [c.prompt for c in found], "reference": [c.answer for c in found],
             "response": rows[self.styles[-1]], **rows}
        )  # fmt: skip

    def paraphrases(self, data: Dataset) -> dict[str, str]:
        """By prompt, the gold answer in the usual style; a share, the same always, is spoilt."""
        said = {}
        for row in data:
            draw = np.random.default_rng(list(row["prompt"].encode())).random()
            text = row[self.styles[0]]
            said[row["prompt"]] = f"{text} =>" if draw < self.spoilt else text
        return said

    def _unseen(self, count: int, steps: int | tuple[int, int], seed: int) -> list[Chain]:
        chains = ChainPrograms().sample(count, steps, seed)
        return [chain for chain in chains if chain.prompt not in self._tested]


def written(chain: Chain, style: str) -> str:
    """A right solution in the style "equations" or one of `solution`'s."""
    return equations(chain) if style == "equations" else solution(chain, style)
