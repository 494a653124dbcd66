"""A task with one right answer that a program can check."""

from __future__ import annotations

from dataclasses import dataclass

ANSWER = "=>"
"""The word that opens the final answer in every response."""


@dataclass(frozen=True)
class Problem:
    """One problem of a procedural world.

    Attributes:
        task: what kind it is.
        prompt: the question, as words of `world_tokenizer`.
        states: what comes out after each step of the task's algorithm, as words.
        answer: the last of it, as words.
    """

    task: str
    prompt: str
    states: tuple[str, ...]
    answer: str

    def check(self, response: str) -> bool:
        """Whether what follows the response's last `=>` is the answer.

        >>> problem = Problem("copy", "copy : b a ?", ("b a",), "b a")
        >>> problem.check("b a => b a"), problem.check("=> a b"), problem.check("b a")
        (True, False, False)
        """
        return answer_of(response) == self.answer


def answer_of(response: str) -> str | None:
    """The words after the last `=>`, one space apart; None where there is none.

    >>> answer_of("3 + 4 = 2 =>  2"), answer_of("3 + 4 = 2")
    ('2', None)
    """
    words = response.split()
    if ANSWER not in words:
        return None
    last = len(words) - 1 - words[::-1].index(ANSWER)
    return " ".join(words[last + 1 :])
