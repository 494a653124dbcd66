"""A softmax teacher of chains of sums: kinds of questions, ways of explaining them."""

from __future__ import annotations

import functools
from collections.abc import Container

from generality.benchmarks.worlds import Chain, ChainPrograms, make_chain, solution
from generality.benchmarks.worlds.wrong_chains import slipped
from generality.selection.softmax_drafter import SoftmaxDrafter

TECHNIQUES = ("full", "terse", "reversed", "noisy")
"""Every step written out; none; the last step first; written out with one wrong step."""


def chain_drafter(
    *,
    lengths: tuple[int, ...] = (1, 2, 3),
    operators: tuple[str, ...] = ("+", "+-"),
    modulus: int = 5,
    avoid: Container[str] = (),
) -> SoftmaxDrafter:
    """A teacher that draws a kind of chain (its length and operators) and a way to explain it.

    Args:
        lengths: steps of a chain.
        operators: sets of operators that a chain draws from.
        modulus: of all values.
        avoid: questions it must not write: those of validation and test.

    >>> teacher = chain_drafter()
    >>> [draft] = teacher.rationales(teacher.questions(1, seed=0), 1, seed=0)
    >>> print(draft.kind, draft.technique, draft.question, draft.rationale, sep=" | ")
    2 +- | terse | a = 0 ; b = a - 1 ; c = b - 4 ; c ? | => 0
    """
    kinds = {
        f"{length} {signs}": functools.partial(
            _question, ChainPrograms(modulus, signs), length, avoid
        )
        for length in lengths
        for signs in operators
    }
    ways = {name: functools.partial(_explained, name=name, modulus=modulus) for name in TECHNIQUES}
    return SoftmaxDrafter(kinds, ways)


def read_chain(prompt: str, modulus: int = 5) -> Chain:
    """The chain that a prompt asks about.

    >>> read_chain("a = 3 ; b = a + 4 ; b ?").answer
    '2'
    """
    first, *steps = prompt.split(" ; ")[:-1]
    program = [(words[3], int(words[4])) for words in map(str.split, steps)]
    names = "".join(line[0] for line in (first, *steps))
    return make_chain(int(first.split()[-1]), program, modulus=modulus, names=names)


def _question(source: ChainPrograms, length: int, avoid: Container[str], seed: int) -> str:
    for drawn in source.sample(20, length, seed):
        if drawn.prompt not in avoid:
            return drawn.prompt
    raise ValueError(f"no chain of {length} steps is left beside those to avoid")


def _explained(question: str, seed: int, *, name: str, modulus: int) -> str:
    chain = read_chain(question, modulus)
    return slipped(chain, seed, style="full") if name == "noisy" else solution(chain, name)
