"""Several tasks of prompts and responses, from files of JSON lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from generality.errors import UserError


@dataclass(frozen=True)
class TaskFiles:
    """Your own tasks: <task>.train.jsonl and <task>.test.jsonl, lines of `prompt` and `response`.

    A task without a train file is one that nothing was tuned on.

    Args:
        folder: of the files.
        examples: of a task, to tune on, at most.
        validation: to choose by, taken from the train file too.
        test: lines of each test file that are used, the first ones.

    Raises:
        UserError: there are not two tasks with train files and one without, or a line is no pair.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a.train", "a.test", "b.train", "b.test", "c.test"):
    ...     _ = (folder / f"{name}.jsonl").write_text('{"prompt": "2 + 2?", "response": "4"}')
    >>> TaskFiles(folder).seen, TaskFiles(folder).tasks
    (('a', 'b'), ('a', 'b', 'c'))
    """

    folder: str | Path
    examples: int = 1000
    validation: int = 0
    test: int = 1000

    @cached_property
    def _read(self) -> dict[str, list[tuple[str, str]]]:
        read = {}
        for file in sorted(Path(self.folder).glob("*.t*.jsonl")):
            try:
                lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
                read[file.stem] = [(line["prompt"], line["response"]) for line in lines]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file} is not lines of prompt and response: {error}") from error
        return read

    @property
    def seen(self) -> tuple[str, ...]:
        """Tasks that can be tuned on."""
        return tuple(name for name in self._named if f"{name}.train" in self._read)

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks, those that can be tuned on first."""
        tasks = (*self.seen, *(name for name in self._named if name not in self.seen))
        if len(self.seen) < 2 or len(tasks) == len(self.seen):
            raise UserError(
                f"{self.folder} needs two tasks with train and test files, one with a test."
            )
        return tasks

    @property
    def _named(self) -> list[str]:
        return [name.removesuffix(".test") for name in self._read if name.endswith(".test")]

    def data(self, task: str, seed: int) -> dict[str, list[tuple[str, str]]]:
        """`train`, `validation` and `test` of a task, the first two drawn by the seed."""
        pairs = self._read.get(f"{task}.train", [])
        order = np.random.default_rng(seed).permutation(len(pairs))
        chosen = [pairs[i] for i in order[: self.examples + self.validation]]
        return {
            "train": chosen[self.validation :], "validation": chosen[: self.validation],
            "test": self._read[f"{task}.test"][: self.test],
        }  # fmt: skip
