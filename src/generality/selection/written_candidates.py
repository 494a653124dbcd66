"""New problems like those of which the data have few, written and solved by a teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from generality.errors import UserError
from generality.lab import Lab
from generality.models.chat import Message
from generality.selection.distillation import STEPS
from generality.selection.record_screen import words_and_signs
from generality.selection.solution_steps import final_answer
from generality.selection.synthesis_loop import MajorityAgreement
from generality.selection.teacher import PROBLEMS, Answer, Teacher
from generality.selection.training_files import check_output, write_records

ASKED = (
    "Here are problems of one kind.\n\n{shown}\n\nWrite one new problem of this kind that differs "
    "from all of these. Write the problem alone, without its solution."
)


@dataclass
class CandidateWriter:
    """Writes problems after demonstrations, solves each several times, keeps what agrees.

    One round of generating and solving of Jung et al. 2025 (arXiv 2505.20161, section 4): 5
    demonstrations a call, 3 solutions of which 2 must have one final answer. A call asks for one
    problem instead of two. Every answer of the teacher is kept by the lab.

    Args:
        teacher: who writes and solves.
        lab: where answers are kept.
        path: of the file written: records of `prompt` and `completion`.
        count: problems asked for.
        demonstrations: problems shown in a call, at most.
        agreement: which solution counts.
        max_tokens: of an answer.
        temperature: of all answers.
        seed: of what is shown, and of the answers.

    Attributes:
        fates: what became of the problems asked for, by kind.
    """

    teacher: Teacher
    lab: Lab
    path: Path
    count: int
    demonstrations: int = 5
    agreement: MajorityAgreement = field(default_factory=lambda: MajorityAgreement(final_answer))
    max_tokens: int = 512
    temperature: float = 0.8
    seed: int = 0
    fates: Counter[str] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is at least 1, not {self.count}")
        check_output(self.path)

    def write(self, prompts: Sequence[str]) -> Path:
        """The file of new problems like these.

        Raises:
            UserError: there is nothing to show, or nothing that was written can be used.
        """
        if not prompts:
            raise UserError("No region has few examples: there is nothing to write more of.")
        known = {words_and_signs(prompt) for prompt in prompts}
        problems = []
        for answer in self._ask([_asked(shown) for shown in self._drawn(prompts)], self.seed):
            form = words_and_signs(answer.text)
            if answer.problem:
                self.fates[f"not written: {PROBLEMS[answer.problem]}"] += 1
            elif form in known:
                self.fates["left out: written before"] += 1
            else:
                known.add(form)
                problems.append(answer.text)
        tries = [self._ask([_solve(p) for p in problems], self.seed + k)
                 for k in range(self.agreement.n)]  # fmt: skip
        records = []
        for problem, *solutions in zip(problems, *tries, strict=True):
            self.fates.update(
                f"a solution lost: {PROBLEMS[each.problem]}" for each in solutions if each.problem
            )
            said = ["" if each.problem else each.text for each in solutions]
            if (kept := self.agreement({}, said)) is None:
                self.fates["left out: its solutions do not agree"] += 1
                continue
            self.fates["written and solved"] += 1
            records.append({"prompt": problem, "completion": kept})
        if not records:
            told = ", ".join(f"{number} {fate}" for fate, number in self.fates.items())
            raise UserError(f"The teacher wrote nothing that can be used: {told}.")
        write_records(self.path, records)
        return self.path

    def table(self) -> dict[str, Any]:
        """What became of the problems asked for, for a report."""
        return {
            "title": "What the teacher wrote",
            "columns": ["What became of them", "Number"],
            "rows": [[fate, str(number)] for fate, number in self.fates.most_common()],
            "note": f"{self.count} asked for; those written and solved are in {self.path.name}.",
        }

    def _drawn(self, prompts: Sequence[str]) -> list[list[str]]:
        rng = np.random.default_rng(self.seed)
        size = min(self.demonstrations, len(prompts))
        return [[prompts[row] for row in rng.choice(len(prompts), size, replace=False)]
                for _ in range(self.count)]  # fmt: skip

    def _ask(self, asked: list[list[Message]], seed: int) -> list[Answer]:
        return self.teacher.answer(
            self.lab, asked, max_tokens=self.max_tokens, temperature=self.temperature, seed=seed
        )


def _asked(shown: Sequence[str]) -> list[Message]:
    listed = "\n\n".join(f"{place}. {prompt}" for place, prompt in enumerate(shown, 1))
    return [{"role": "user", "content": ASKED.replace("{shown}", listed)}]


def _solve(problem: str) -> list[Message]:
    return [{"role": "user", "content": f"{problem}\n\n{STEPS}"}]
