"""Training sets whose variety is known: mixtures of string tasks over more or fewer letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from generality.benchmarks.worlds.string_tasks import (
    LETTERS,
    mistaken,
    string_task,
    terse,
)

SKILLS = ("copy", "reverse", "sort", "successor", "swap", "dedupe", "last", "max")
"""Tasks over lists of letters; give them to `world_tokenizer` as `extra`."""

Record = dict[str, Any]
"""`prompt`, `response` and `skill`."""


@dataclass(frozen=True)
class SkillMixture:
    """A source of examples: skills in given shares, lists over given letters.

    Args:
        shares: of each of `SKILLS`, adding up to 1.
        letters: that lists are made of, each a character.
        length: symbols in a list: a number, or the least and the most.

    >>> SkillMixture((0, 1, 0, 0, 0, 0, 0, 0), letters="ab", length=3).sample(1, seed=0)
    [{'prompt': 'reverse : a b a ?', 'response': '=> a b a', 'skill': 'reverse'}]
    """

    shares: tuple[float, ...] = (1 / len(SKILLS),) * len(SKILLS)
    letters: str = LETTERS
    length: int | tuple[int, int] = (2, 4)

    def sample(self, count: int, seed: int) -> list[Record]:
        """Examples with right answers, in an order of chance; the same for the same arguments."""
        rng = np.random.default_rng(seed)
        counts = dict(zip(SKILLS, rng.multinomial(count, self.shares), strict=True))
        found = [
            {"prompt": problem.prompt, "response": terse(problem), "skill": skill}
            for skill, share in counts.items()
            for problem in string_task(skill, letters=self.letters).sample(
                int(share), self.length, int(rng.integers(2**31))
            )
        ]
        return [found[row] for row in rng.permutation(len(found))]


def drawn_mixture(seed: int | Sequence[int], **options: Any) -> SkillMixture:
    """A mixture of any variety: shares from a Dirichlet distribution, 3 to 8 letters.

    The distribution's concentration is drawn from 0.1 (one or two skills) to 10 (nearly even).

    >>> sorted(drawn_mixture(0).letters)
    ['a', 'c', 'd']
    """
    rng = np.random.default_rng(seed)
    concentration = 10 ** rng.uniform(-1, 1)
    shares = rng.dirichlet(np.full(len(SKILLS), concentration))
    letters = rng.choice(list(LETTERS), rng.integers(3, len(LETTERS) + 1), replace=False)
    return SkillMixture(tuple(shares / shares.sum()), "".join(letters), **options)


@dataclass(frozen=True)
class SkewedGenerator:
    """A generator for `SynthesisLoop` that, left alone, writes the same few things.

    A candidate's skill is that of a random demonstration with probability `follow`, else drawn with
    shares proportional to 1 / rank ** `skew` in the order of `SKILLS`; its letters are a, b and c
    with probability `narrow`, else all. `response` is right, and a solver's to replace; `truth`
    stays in the record for an audit.
    """

    skew: float = 2.0
    narrow: float = 0.8
    follow: float = 0.5
    length: int | tuple[int, int] = (2, 4)

    @property
    def shares(self) -> Float[np.ndarray, " skills"]:
        """Of skills, without demonstrations."""
        weights = 1.0 / np.arange(1, len(SKILLS) + 1) ** self.skew
        return weights / weights.sum()

    def __call__(self, shown: Sequence[Mapping[str, Any]], count: int, seed: int) -> list[Record]:
        """`count` candidates."""
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(count):
            skill = str(rng.choice(SKILLS, p=self.shares))
            if shown and rng.random() < self.follow:
                skill = shown[int(rng.integers(len(shown)))]["skill"]
            letters = LETTERS[:3] if rng.random() < self.narrow else LETTERS
            task = string_task(skill, letters=letters)
            [problem] = task.sample(1, self.length, int(rng.integers(2**31)))
            right = terse(problem)
            found.append(
                {"prompt": problem.prompt, "response": right, "truth": right, "skill": skill}
            )
        return found


@dataclass(frozen=True)
class NoisySolvers:
    """Several solvers for `SynthesisLoop`, each of which errs in a share of its answers.

    A wrong answer has taken one wrong step, so that solvers who err seldom agree.
    """

    error: float = 0.1
    solvers: int = 3

    def __call__(self, candidates: Sequence[Mapping[str, Any]], seed: int) -> list[list[str]]:
        """Each solver's response to each candidate."""
        rng = np.random.default_rng(seed)
        said = []
        for candidate in candidates:
            wrong = rng.random(self.solvers) < self.error
            slips = rng.integers(2**31, size=self.solvers)
            said.append(
                [
                    _wrong(candidate, int(slip)) if errs else candidate["response"]
                    for errs, slip in zip(wrong, slips, strict=True)
                ]
            )
        return said


def _wrong(candidate: Mapping[str, Any], seed: int) -> str:
    task = string_task(candidate["skill"])
    symbols, letter = task.read(candidate["prompt"])
    return terse(mistaken(task.problem(symbols, letter), seed))
