"""Hard chains of sums, with their easier parts, paraphrases and wrong solutions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from generality.benchmarks.worlds import Chain, ChainPrograms, solution, step_flags
from generality.benchmarks.worlds.wrong_chains import scrambled, slipped
from generality.selection.hard_material import HardMaterial, Supervised
from generality.selection.subtasks import (
    Solved,
    SubtaskBuilder,
    not_near_copy,
    paraphrase_augment,
)


@dataclass(frozen=True)
class HardChains:
    """A source of easy chains, hard ones, and all that is made of hard ones.

    Attributes:
        modulus: of the sums.
        easy_steps: of the longest easy chain.
        hard_steps: of every hard chain.
        part_steps: of the parts that are made of a hard chain, a part of each length; the last
            length is that of the one part that stands for the task.
        style: in which solutions are written, of `generality.benchmarks.worlds.solution`.

    >>> source = HardChains(hard_steps=3, part_steps=(2,))
    >>> [chain] = source.hard(1, seed=0)
    >>> material = source.material([chain], {"teacher": ["1 2 3 4 => 4"]}, seed=0)
    >>> chain.prompt
    'c = 4 ; l = c + 3 ; z = l + 2 ; v = z + 1 ; v ?'
    >>> [item.response for item in (material.right[0], material.wrong["slip"][0])]
    ['4 2 4 0 => 0', '4 2 1 2 => 2']
    >>> material.more_parts[0].prompt, material.again[0][0].prompt
    ('l = 2 ; z = l + 2 ; v = z + 1 ; v ?', 'z = 4 ; h = z + 3 ; r = h + 2 ; j = r + 1 ; j ?')
    """

    modulus: int = 5
    easy_steps: int = 2
    hard_steps: int = 3
    part_steps: tuple[int, ...] = (2,)
    style: str = "states"

    def easy(self, count: int) -> list[Chain]:
        """Chains of one to `easy_steps` steps."""
        return self._source.sample(count, (1, self.easy_steps), 0)

    def hard(self, count: int, seed: int, besides: Sequence[Chain] = ()) -> list[Chain]:
        """At most `count` hard chains, without those of `besides` whatever their names."""
        taken = {(chain.start, chain.program) for chain in besides}
        drawn = self._source.sample(count, self.hard_steps, seed)
        return [chain for chain in drawn if (chain.start, chain.program) not in taken]

    def solved(self, chain: Chain) -> str:
        """The right solution."""
        return solution(chain, self.style)

    def judged(self, chain: Chain, text: str) -> Supervised:
        """A solution of a chain and what is wrong in it."""
        return Supervised(chain.prompt, text, step_flags(chain, text), chain.check(text))

    def material(
        self, chains: Sequence[Chain], wrong: Mapping[str, Sequence[str]], seed: int
    ) -> HardMaterial:
        """What supervision sets are made of: these wrong solutions, slips and random work.

        Args:
            chains: hard ones.
            wrong: by teacher, a wrong solution of each.
            seed: of the slips, the random values, the parts and the names.
        """
        generator = np.random.default_rng(seed)
        seeds = generator.integers(2**31, size=len(chains)).tolist()
        pairs = list(zip(chains, seeds, strict=True))
        texts: dict[str, Sequence[str]] = {
            **wrong,
            "slip": [slipped(chain, s, style=self.style) for chain, s in pairs],
            "random": [scrambled(chain, s, style=self.style) for chain, s in pairs],
        }
        right = [self.judged(chain, self.solved(chain)) for chain in chains]
        faulty = {kind: list(map(self.judged, chains, said)) for kind, said in texts.items()}
        found = self._parts(chains, seed)
        one = dict(found)  # the last of each task
        parts = [one.get(i, chain.segment(0, 2)) for i, chain in enumerate(chains)]
        slips = [slipped(p, s, style=self.style) for p, s in zip(parts, seeds, strict=True)]
        renamed = {chain.prompt: chain.renamed(s).prompt for chain, s in pairs}

        def again(items: Sequence[Supervised]) -> list[Supervised]:
            said = [Solved(item.prompt, item.response) for item in items]
            twins = paraphrase_augment(said, lambda prompt, text: (renamed[prompt], text))
            return [
                replace(item, prompt=twin.prompt)
                for item, twin in zip(items, twins[len(items) :], strict=True)
            ]

        return HardMaterial(
            right=right,
            wrong=faulty,
            parts=(
                [self.judged(part, self.solved(part)) for part in parts],
                list(map(self.judged, parts, slips)),
            ),
            more_parts=[self.judged(part, self.solved(part)) for _, part in found],
            again=(again(right), again(next(iter(faulty.values())))),
        )

    def _parts(self, chains: Sequence[Chain], seed: int) -> list[tuple[int, Chain]]:
        """Segments of the chains, one of each length, with the place of the chain."""
        generator, known = np.random.default_rng(seed), {chain.prompt: chain for chain in chains}

        def segments(task: Solved) -> Iterator[tuple[str, str]]:
            whole = known[task.prompt]
            for length in self.part_steps:
                part = whole.segment(int(generator.integers(self.hard_steps - length + 1)), length)
                known[part.prompt] = part
                yield part.prompt, self.solved(part)

        tasks = [Solved(chain.prompt, self.solved(chain)) for chain in chains]
        built = SubtaskBuilder(segments, [not_near_copy(0.9)]).build(tasks)
        return [(part.source or 0, known[part.prompt]) for part in built]

    @property
    def _source(self) -> ChainPrograms:
        return ChainPrograms(self.modulus, rename=True)
