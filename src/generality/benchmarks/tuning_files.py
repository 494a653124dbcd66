"""A task to tune on and tasks that may be forgotten, from files of JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from generality.errors import UserError


class TuningFiles:
    """Your own data, in one folder.

    train.jsonl: `prompt`, `response` (gold), `reference` (its final answer). target.jsonl:
    `prompt`, `answer`. Every other .jsonl file, with the same two, is a task that may be forgotten.

    Args:
        folder: of the files.
        test: lines of each test that are used, the first ones.

    Attributes:
        tests: prompts and answers of "target" and of each other task, by its file's name.

    Raises:
        UserError: train.jsonl, target.jsonl or a third file is missing, or a line is not JSON.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("target", "history"):
    ...     _ = (folder / f"{name}.jsonl").write_text('{"prompt": "2 + 2?", "answer": "4"}')
    >>> line = '{"prompt": "1 + 2?", "response": "That is 3.", "reference": "3"}'
    >>> _ = (folder / "train.jsonl").write_text(line)
    >>> TuningFiles(folder).tests["history"]
    (['2 + 2?'], ['4'])
    """

    def __init__(self, folder: str | Path, *, test: int | None = None) -> None:
        found = {file.stem: _lines(file) for file in sorted(Path(folder).glob("*.jsonl"))}
        if not {"train", "target"} <= set(found) or len(found) < 3:
            raise UserError(f"{folder} needs train.jsonl, target.jsonl and one task more.")
        self._train = found.pop("train")
        self.tests = {
            name: ([row["prompt"] for row in rows[:test]], [row["answer"] for row in rows[:test]])
            for name, rows in found.items()
        }

    def examples(self, seed: int, count: int) -> Dataset:
        """At most `count` examples to tune on, in an order drawn by the seed."""
        order = np.random.default_rng(seed).permutation(len(self._train))[:count]
        return Dataset.from_list([self._train[i] for i in order])


def _lines(file: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    except ValueError as error:
        raise UserError(f"{file} is not JSON lines: {error}") from error
