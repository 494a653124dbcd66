"""Hard tasks and what teachers make of them: chains of sums, or your own files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from generality.benchmarks.worlds import Chain
from generality.errors import UserError
from generality.lab import Lab, TrainConfig
from generality.selection import (
    HardChains,
    HardMaterial,
    Judge,
    NumberMatch,
    WorldCheck,
    severity_ladder,
)
from generality.training.writer import Writer


class HardTasks(Protocol):
    """What a study of supervision for hard tasks needs.

    Attributes:
        writer: a model before it learned anything of this.
        judge: whether an answer is right.
    """

    writer: Writer
    judge: Judge

    @property
    def easy(self) -> list[tuple[str, str]]:
        """Prompts and solutions of easy tasks, for a first stage."""

    @property
    def test(self) -> tuple[list[str], list[str]]:
        """Prompts and answers of hard tasks."""

    def material(self, lab: Lab, base: Writer, plan: TrainConfig, seed: int) -> HardMaterial:
        """Solutions of other hard tasks, right and wrong, for a student that starts at `base`."""


@dataclass
class ChainTasks:
    """Chains of sums; the teachers are the student after a part of a training on hard tasks.

    Attributes:
        source: of the chains.
        writer: a tiny one.
        easy_tasks: of the first stage.
        tests: hard tasks that are tested on.
        lessons: hard tasks that the teachers learn from; no student sees them.
        tasks: hard tasks for which teachers are asked. Those that one of them got right in every
            sample drop out.
        teachers: by name, the share of the lessons after which it teaches, the first the one whose
            errors something is added to.
        samples: of each teacher, a task.
        temperature: of the samples.
        max_tokens: of a sample.

    >>> import tempfile
    >>> lab = Lab(home=Path(tempfile.mkdtemp()), device="cpu", progress=False)
    >>> world = ChainTasks(
    ...     HardChains(style="states"), Writer.tiny("0.05M"), easy_tasks=8, tests=4, lessons=16,
    ...     tasks=8, teachers={"early": 0.5}, samples=1, max_tokens=8,
    ... )
    >>> plan = TrainConfig(epochs=1, batch_size=4)
    >>> sorted(world.material(lab, world.writer, plan, seed=0).wrong)
    ['early', 'random', 'slip']
    """

    source: HardChains
    writer: Writer
    easy_tasks: int
    tests: int
    lessons: int
    tasks: int
    teachers: Mapping[str, float]
    samples: int = 3
    temperature: float = 1.0
    max_tokens: int = 32
    judge: Judge = field(default_factory=WorldCheck)

    @property
    def easy(self) -> list[tuple[str, str]]:
        """Prompts and solutions of easy chains."""
        return [(c.prompt, self.source.solved(c)) for c in self.source.easy(self.easy_tasks)]

    @property
    def test(self) -> tuple[list[str], list[str]]:
        """Prompts and answers of hard chains."""
        chains = self._shared[: self.tests]
        return [chain.prompt for chain in chains], [chain.answer for chain in chains]

    @cached_property
    def _shared(self) -> list[Chain]:
        return self.source.hard(self.tests + self.lessons, 0)

    def material(self, lab: Lab, base: Writer, plan: TrainConfig, seed: int) -> HardMaterial:
        """Of a seed's tasks that every teacher got wrong once, without those of the test."""
        lessons = self._shared[self.tests :]
        taught = base.tuned(
            lab, [c.prompt for c in lessons], [self.source.solved(c) for c in lessons],
            config=plan, keep=tuple(self.teachers.values()), seed=0,
        )  # fmt: skip
        chains = self.source.hard(self.tasks, seed + 1, besides=self._shared[: self.tests])
        samples = {
            name: taught.kept(share).write(
                lab, [c.prompt for c in chains], samples=self.samples, seed=seed,
                temperature=self.temperature, max_tokens=self.max_tokens,
            )
            for name, share in self.teachers.items()
        }  # fmt: skip
        ladder = severity_ladder(samples, lambda i, text: chains[i].check(text), seed=seed)
        return self.source.material([chains[task] for task in ladder.tasks], ladder.wrong, seed)


class FileTasks:
    """Your own tasks, from three files of JSON lines in one folder.

    easy.jsonl: `prompt`, `response`. test.jsonl: `prompt`, `answer`. hard.jsonl: see
    `HardMaterial.from_files`. The material is the same for every seed: what differs is which tasks
    are wrong, and the training.

    Args:
        folder: of the files.
        writer: the model.
        easy: lines of easy.jsonl that are used; None: all.

    Raises:
        UserError: a file is missing, or a line is not as it should be.
    """

    judge: Judge = NumberMatch()

    def __init__(self, folder: str | Path, writer: Writer, *, easy: int | None = None) -> None:
        self.writer, self._folder = writer, Path(folder)
        first, tests = (self._lines(name) for name in ("easy.jsonl", "test.jsonl"))
        try:
            self.easy = [(row["prompt"], row["response"]) for row in first[:easy]]
            self.test = [row["prompt"] for row in tests], [row["answer"] for row in tests]
        except KeyError as error:
            raise UserError(f"A line in {folder} lacks {error}: see the study's page.") from error

    def _lines(self, name: str) -> list[dict[str, str]]:
        try:
            lines = (self._folder / name).read_text().splitlines()
            return [json.loads(line) for line in lines if line.strip()]
        except OSError as error:
            raise UserError(f"{error.filename} is needed: see the study's page.") from error
        except ValueError as error:
            raise UserError(f"{self._folder / name} is not JSON lines: {error}") from error

    def material(self, lab: Lab, base: Writer, plan: TrainConfig, seed: int) -> HardMaterial:
        """What the folder holds."""
        return HardMaterial.from_files(self._folder)
