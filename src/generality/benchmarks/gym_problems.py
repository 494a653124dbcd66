"""Problems of reasoning-gym, with its own verifiers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from generality.errors import UserError, import_extra

ASK = "Write the final answer between <answer> and </answer>."
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True)
class GymProblem:
    """One problem.

    Attributes:
        task: its name in reasoning-gym.
        prompt: the question, and how to mark the answer.
        answer: a right one.
        entry: what the verifier needs.
        source: the data set that it is of.
    """

    task: str
    prompt: str
    answer: str
    entry: dict[str, Any] = field(repr=False)
    source: Any = field(repr=False, compare=False)

    def reward(self, response: str) -> float:
        """The verifier's score of what is marked (else of the last line), in [0, 1]."""
        marked = _ANSWER.findall(response)
        lines = response.strip().splitlines()
        said = marked[-1] if marked else lines[-1] if lines else ""
        return float(self.source.score_answer(said.strip(), self.entry))

    def check(self, response: str) -> bool:
        """Whether the verifier is content."""
        return self.reward(response) >= 1.0


def gym_problems(task: str, count: int, seed: int, **options: Any) -> list[GymProblem]:
    """Problems of a task of reasoning-gym; the same for the same arguments.

    Args:
        task: such as "chain_sum" or "letter_counting".
        count: how many.
        seed: of the draws. reasoning-gym draws problem i by seed + i, so seeds less than `count`
            apart share problems.
        options: of the task, as reasoning-gym names them.

    Raises:
        UserError: the package is not there, or has no such task.

    >>> (problem,) = gym_problems("chain_sum", 1, 0)
    >>> problem.check(f"I add up. <answer>{problem.answer}</answer>"), problem.check("none")
    (True, False)
    """
    gym: Any = import_extra("reasoning_gym", "llm")
    try:
        source = gym.create_dataset(task, size=count, seed=seed, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(
            f"reasoning-gym has no task '{task}' with these options: {error}"
        ) from error
    return [
        GymProblem(task, f"{entry['question']}\n{ASK}", str(entry["answer"]), entry, source)
        for entry in (source[place] for place in range(count))
    ]
