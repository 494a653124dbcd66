"""What a demonstration is worth to a student: how well it answers an exam after reading it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float

from generality.selection.judge import Judge

Student = Callable[[list[str]], Sequence[str]]
"""From prompts to one answer each, all at once; a prompt that is there twice is drawn twice."""


@dataclass(frozen=True)
class TeachingPair:
    """A problem with the teacher's rationale and answer: a demonstration, once it is shown.

    Attributes:
        problem: the question.
        rationale: how the teacher explains it; may be empty.
        answer: what the teacher answers; may be empty where the rationale ends with it.
    """

    problem: str
    rationale: str
    answer: str = ""


class ExamItem(Protocol):
    """A question with its known answer; a `Problem` of the procedural worlds is one."""

    @property
    def prompt(self) -> str:
        """The question."""

    @property
    def answer(self) -> str:
        """The right answer."""


@dataclass(frozen=True)
class Question:
    """An exam item of one's own."""

    prompt: str
    answer: str


Template = Callable[[TeachingPair, str], str]
"""From a demonstration and a question to what the student reads."""


def one_shot(demo: TeachingPair, question: str) -> str:
    """The demonstration, an empty line, the question.

    >>> print(one_shot(TeachingPair("2 + 2 ?", "Two and two.", "4"), "3 + 1 ?"))
    2 + 2 ?
    Two and two. 4
    <BLANKLINE>
    3 + 1 ?
    """
    shown = " ".join(part for part in (demo.rationale, demo.answer) if part)
    return f"{demo.problem}\n{shown}\n\n{question}"


def demonstration_value(
    student: Student,
    demo: TeachingPair,
    exam: Sequence[ExamItem],
    judge: Judge,
    *,
    repeats: int = 1,
    aggregate: Literal["mean", "sum"] = "mean",
    template: Template = one_shot,
) -> float:
    """How well the student answers the exam with this one demonstration before each question.

    The share (or number) of its answers that the judge takes. It is the score of learning by
    teaching (Ning et al. 2024, arXiv 2406.14629, section 3: `repeats=3`, a student that samples)
    and the preference score of ARTE (Liu et al. 2024, arXiv 2406.19227, step 2: one greedy answer).
    The right answer of the demonstration's own problem is never asked for.

    Args:
        student: answers a list of prompts; any model, pipeline or endpoint.
        demo: what it reads first.
        exam: questions with known answers, at least one.
        judge: of each answer, in [0, 1].
        repeats: answers per question, at least 1; more than one only makes sense of a student that
            samples.
        aggregate: "mean", in [0, 1], or "sum", at most len(exam) * repeats.
        template: what the student reads.

    >>> def student(prompts):  # does what the demonstration does
    ...     return [str(sum(map(int, p.split()[-4:-1:2]))) if "plus" in p else "?" for p in prompts]
    >>> exam = [Question("3 + 1 ?", "4"), Question("2 + 5 ?", "7")]
    >>> exact = lambda prompt, response, reference: float(response == reference)
    >>> demo = TeachingPair("2 + 2 ?", "two plus two", "4")
    >>> demonstration_value(student, demo, exam, exact)
    1.0
    """
    found = demonstration_values(
        student, [demo], [exam], judge, repeats=repeats, aggregate=aggregate, template=template
    )
    return float(found[0])


def demonstration_values(
    student: Student,
    demos: Sequence[TeachingPair],
    exams: Sequence[Sequence[ExamItem]],
    judge: Judge,
    *,
    repeats: int = 1,
    aggregate: Literal["mean", "sum"] = "mean",
    template: Template = one_shot,
) -> Float[np.ndarray, " demos"]:
    """`demonstration_value` of many demonstrations, in one call of the student.

    Demonstrations that read the same before the same question are asked about once and share
    their answers.

    Args:
        exams: one exam for each demonstration.

    Raises:
        ValueError: an empty exam, not one exam per demonstration, fewer than 1 repeat, an unknown
            aggregate, or a student that does not give one answer per prompt.
    """
    if len(demos) != len(exams) or not all(exams):
        raise ValueError("every demonstration needs an exam of one question or more")
    if repeats < 1 or aggregate not in ("mean", "sum"):
        raise ValueError("repeats is at least 1, and aggregate 'mean' or 'sum'")
    prompts = [
        [template(demo, item.prompt) for item in exam]
        for demo, exam in zip(demos, exams, strict=True)
    ]
    asked = list(dict.fromkeys(prompt for exam in prompts for prompt in exam))
    said = list(student([prompt for prompt in asked for _ in range(repeats)]))
    if len(said) != repeats * len(asked):
        raise ValueError(f"the student answered {len(said)} of {repeats * len(asked)} prompts")
    answers = {
        prompt: said[place * repeats : (place + 1) * repeats] for place, prompt in enumerate(asked)
    }
    values = []
    for exam, shown in zip(exams, prompts, strict=True):
        scores = [
            judge(prompt, answer, item.answer)
            for item, prompt in zip(exam, shown, strict=True)
            for answer in answers[prompt]
        ]
        values.append(np.mean(scores) if aggregate == "mean" else np.sum(scores))
    return np.array(values, dtype=float)
