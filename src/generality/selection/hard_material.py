"""Which supervision of hard tasks: solutions with errors, clean parts, or both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generality.errors import UserError
from generality.measures import ArithmeticSteps
from generality.selection.supervision_mixer import SupervisionMixer


@dataclass(frozen=True)
class Supervised:
    """One example of supervision, and what a judge found in it.

    Attributes:
        prompt: the problem.
        response: a solution of it.
        flags: of its steps, True for a wrong one; None where they cannot be read.
        right: whether its answer is.
    """

    prompt: str
    response: str
    flags: list[bool] | None
    right: bool


@dataclass(frozen=True)
class HardMaterial:
    """Solutions of hard tasks, right and wrong, and what else can be made of the tasks.

    Attributes:
        right: a right solution of each task.
        wrong: by kind of error, a wrong one of each of the same tasks. The first kind is the one
            that something is added to.
        parts: one easier part of each task, right and wrong.
        more_parts: all parts of the tasks, right.
        again: each task in other words, right and wrong.
    """

    right: list[Supervised]
    wrong: Mapping[str, list[Supervised]]
    parts: tuple[list[Supervised], list[Supervised]]
    more_parts: list[Supervised]
    again: tuple[list[Supervised], list[Supervised]]

    @classmethod
    def from_files(cls, folder: str | Path) -> HardMaterial:
        """From `hard.jsonl` in a folder; steps are judged by recomputing their equations.

        Each line has `prompt`, `right`, `wrong` (of each kind of error a solution), and `subtask`
        and `paraphrase`, each with prompt, right, wrong.

        Raises UserError without the file, or without one of these.
        """
        judge = ArithmeticSteps()

        def items(rows: list[dict[str, Any]], which: str) -> list[Supervised]:
            return [
                Supervised(row["prompt"], row[which], judge(row[which]), which == "right")
                for row in rows
            ]

        try:
            lines = (Path(folder) / "hard.jsonl").read_text().splitlines()
            hard = [json.loads(line) for line in lines if line.strip()]
            wrong = {
                kind: items([{**row, "wrong": row["wrong"][kind]} for row in hard], "wrong")
                for kind in hard[0]["wrong"]
            }
            parts, again = (
                (items(rows, "right"), items(rows, "wrong"))
                for rows in ([row[name] for row in hard] for name in ("subtask", "paraphrase"))
            )
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"{folder}/hard.jsonl needs lines with prompt, right, wrong, subtask and "
                f"paraphrase ({type(error).__name__}: {error})."
            ) from error
        return cls(items(hard, "right"), wrong, parts, parts[0], again)


def supervision_sets(
    material: HardMaterial,
    *,
    error_rates: Sequence[float],
    added_to: float,
    added: float,
    length: Callable[[Supervised], int],
    seed: int,
) -> dict[str, tuple[list[Supervised], float]]:
    """Of each supervision set its examples, and how often to read them.

    "hard-00" is right, "hard-90-slip" has 90 % of its solutions wrong by a "slip", and so on;
    "subtasks" are clean parts, read so often that they are as many tokens as the hard tasks.
    "hard+subtasks", "hard+paraphrases" and "hard-doubled" begin with the hard tasks wrong at one
    rate and add a part of each, each in other words, or nothing but a second reading.

    Args:
        material: what the sets are made of.
        error_rates: of the answers, in [0, 1]; wrong tasks at a lower rate are wrong at a higher.
        added_to: error rate of the hard tasks that something is added to.
        added: error rate of the added subtasks. Paraphrases have that of what they say again.
        length: tokens of an example.
        seed: of which tasks are wrong.

    Source: He et al. 2024 (arXiv 2410.20533).

    >>> right = Supervised("a ?", "=> 1", [False], True)
    >>> slip = Supervised("a ?", "=> 2", [True], False)
    >>> four = [right] * 4, [slip] * 4
    >>> material = HardMaterial(four[0], {"slip": four[1]}, four, four[0], four)
    >>> sets = supervision_sets(
    ...     material, error_rates=[0.75], added_to=0.5, added=0.25, length=lambda _: 4, seed=0
    ... )
    >>> {name: (sum(not item.right for item in items), len(items), epochs)
    ...  for name, (items, epochs) in sets.items()}
    {'hard-00': (0, 4, 1.0), 'subtasks': (0, 4, 1.0), 'hard-75-slip': (3, 4, 1.0), \
'hard+subtasks': (3, 8, 1.0), 'hard+paraphrases': (4, 8, 1.0), 'hard-doubled': (2, 4, 2.0)}
    """

    def mixed(
        rate: float, right: Sequence[Supervised], wrong: Sequence[Supervised]
    ) -> list[Supervised]:
        found: list[Supervised] = SupervisionMixer(right, wrong, seed=seed).mix(rate)
        return found

    right, parts = material.right, material.more_parts
    share = sum(map(length, right)) / sum(map(length, parts))
    sets = {"hard-00": (right, 1.0), "subtasks": (parts, share)}
    for kind, wrong in material.wrong.items():
        for rate in error_rates:
            sets[f"hard-{100 * rate:02.0f}-{kind}"] = mixed(rate, right, wrong), 1.0
    hard = mixed(added_to, right, next(iter(material.wrong.values())))
    sets["hard+subtasks"] = hard + mixed(added, *material.parts), 1.0
    sets["hard+paraphrases"] = hard + mixed(added_to, *material.again), 1.0
    sets["hard-doubled"] = hard, 2.0
    return sets
