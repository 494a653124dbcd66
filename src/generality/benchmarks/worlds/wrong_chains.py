"""Wrong solutions of chains: one slip, or nothing right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from generality.benchmarks.worlds.chain_programs import Chain, make_chain, solution


def slipped(chain: Chain, seed: int, *, style: str = "states", last: bool = False) -> str:
    """A solution with one wrong step, after which the work goes on correctly from what it gave.

    With operators + and − every value from the slip on is wrong, and so is the answer.

    Args:
        chain: the problem.
        seed: of which step slips and what it gives.
        style: of `generality.benchmarks.worlds.solution`.
        last: let the last step slip, so that as few values as possible are wrong.

    >>> chain = make_chain(3, [("+", 4), ("-", 2), ("+", 1)])
    >>> solution(chain), slipped(chain, seed=1), slipped(chain, seed=0, last=True)
    ('3 2 0 1 => 1', '3 2 3 4 => 4', '3 2 0 0 => 0')
    """
    generator = np.random.default_rng(seed)
    steps = len(chain.program)
    step = steps if last else int(generator.integers(1, steps + 1))
    given = (chain.values[step] + int(generator.integers(1, chain.modulus))) % chain.modulus
    rest = make_chain(given, chain.program[step:], modulus=chain.modulus)
    return _written(chain, (*chain.values[:step], *rest.values), style)


def scrambled(chain: Chain, seed: int, *, style: str = "states") -> str:
    """A solution in the right form whose values are drawn at random, the last one never right.

    The first value is the prompt's. The others are uniform, so that in between a step is right by
    chance as often as a guess would be.

    >>> scrambled(make_chain(3, [("+", 4), ("-", 2), ("+", 1)]), seed=0)
    '3 4 3 3 => 3'
    """
    generator = np.random.default_rng(seed)
    values = [chain.start, *generator.integers(chain.modulus, size=len(chain.program)).tolist()]
    shift = int(generator.integers(1, chain.modulus))
    values[-1] = (chain.values[-1] + shift) % chain.modulus
    return _written(chain, tuple(values), style)


def _written(chain: Chain, values: tuple[int, ...], style: str) -> str:
    return solution(replace(chain, values=values, answer=str(values[-1])), style)
