"""Draft training examples of a teacher, scored by what they do for a student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from generality.selection.demonstration_worth import (
    ExamItem,
    Student,
    TeachingPair,
    Template,
    demonstration_values,
    one_shot,
)
from generality.selection.judge import Judge


@dataclass(frozen=True)
class Draft:
    """A question with one way of explaining it.

    Attributes:
        question: what the teacher asks.
        rationale: how it explains the answer, which it ends with.
        kind: of question, if the teacher says so.
        technique: of explanation, if the teacher says so.
        score: the student's share of right exam answers with this draft before them; NaN before
            `DraftPool.score`.
    """

    question: str
    rationale: str
    kind: str = ""
    technique: str = ""
    score: float = float("nan")


class DraftPool:
    """Questions, each with several rationales, and what they are worth to a student.

    A question's score is the mean of its rationales' scores.

    Source: Liu et al. 2024 (arXiv 2406.19227), sections 3.1 to 3.3.

    Args:
        drafts: grouped here by their question.

    >>> scores = (0.51, 0.43, 0.37, 0.40)
    >>> pool = DraftPool([Draft("q", f"r{i}", score=score) for i, score in enumerate(scores)])
    >>> round(pool.question_scores()["q"], 4), pool.best()[0].rationale
    (0.4275, 'r0')
    >>> [pair] = pool.preference_pairs("rationale", prompt="Explain step by step: {question}")
    >>> pair["prompt"], pair["chosen"], pair["rejected"]
    ('Explain step by step: q', 'r0', 'r2')
    """

    def __init__(self, drafts: Sequence[Draft]) -> None:
        self.questions: dict[str, list[Draft]] = {}
        for draft in drafts:
            self.questions.setdefault(draft.question, []).append(draft)

    def __iter__(self) -> Iterator[Draft]:
        return (draft for drafts in self.questions.values() for draft in drafts)

    def __len__(self) -> int:
        return sum(map(len, self.questions.values()))

    def score(
        self,
        student: Student,
        exam: Sequence[ExamItem],
        judge: Judge,
        *,
        template: Template = one_shot,
    ) -> DraftPool:
        """The same drafts with their scores, from one greedy answer per draft and question.

        A question of the exam that is a draft's own is left out for that draft. Exam items must
        not be test items.
        """
        drafts = list(self)
        values = demonstration_values(
            student,
            [TeachingPair(draft.question, draft.rationale) for draft in drafts],
            [[item for item in exam if item.prompt != draft.question] for draft in drafts],
            judge,
            template=template,
        )
        scored = zip(drafts, values.tolist(), strict=True)
        return DraftPool([replace(draft, score=value) for draft, value in scored])

    def question_scores(self) -> dict[str, float]:
        """The mean score of each question's rationales."""
        return {
            question: float(np.mean([draft.score for draft in drafts]))
            for question, drafts in self.questions.items()
        }

    def best(self) -> list[Draft]:
        """The best-scoring rationale of each question; the first of equal ones."""
        return [max(drafts, key=lambda draft: draft.score) for drafts in self.questions.values()]

    def preference_pairs(
        self,
        level: Literal["question", "rationale"],
        *,
        prompt: str,
        count: int | None = None,
        top: float = 0.25,
        bottom: float = 0.25,
        seed: int = 0,
    ) -> list[dict[str, Any]]:
        """Pairs for preference optimisation of the teacher, as `trl`'s DPOTrainer reads them.

        "question": chosen among the best quarter of questions, rejected among the worst, each pair
        drawn once. "rationale": a question's best rationale against its worst. Pairs with equal
        scores are left out. Beside the texts, each row has the scores, the two drafts' kind and
        technique, and their lengths in words: a teacher that only learns to be brief shows there.

        Args:
            level: what differs within a pair.
            prompt: what the teacher was asked: for questions as it is, for rationales with
                "{question}" where the question goes.
            count: at most this many; None: one per question.
            top: share of questions that may be chosen, in (0, 0.5].
            bottom: share of questions that may be rejected.
            seed: of the draws.

        Raises:
            ValueError: drafts without scores, an unknown level, shares out of range.
        """
        if any(np.isnan(draft.score) for draft in self):
            raise ValueError("score the drafts first")
        if not 0 < top <= 0.5 or not 0 < bottom <= 0.5:
            raise ValueError("top and bottom are shares in (0, 0.5]")
        rng = np.random.default_rng(seed)
        if level == "rationale":
            pairs = [
                (max(drafts, key=_score), min(drafts, key=_score))
                for drafts in self.questions.values()
            ]
            rows = [
                _row(prompt.replace("{question}", good.question), good, bad, "rationale")
                for good, bad in (pairs[place] for place in rng.permutation(len(pairs)))
                if good.score > bad.score
            ]
            return rows[:count]
        if level != "question":
            raise ValueError(f"level is 'question' or 'rationale', not '{level}'")
        scores = self.question_scores()
        ranked = sorted(scores, key=lambda question: -scores[question])
        good_ones = ranked[: max(1, int(top * len(ranked)))]
        bad_ones = ranked[-max(1, int(bottom * len(ranked))) :]
        firsts = {q: replace(self.questions[q][0], score=scores[q]) for q in ranked}
        order = rng.permutation(len(good_ones) * len(bad_ones))
        drawn = (divmod(int(place), len(bad_ones)) for place in order)
        rows = [
            _row(prompt, firsts[good_ones[i]], firsts[bad_ones[j]], "question")
            for i, j in drawn
            if scores[good_ones[i]] > scores[bad_ones[j]]
        ]
        return rows[: len(ranked) if count is None else count]


def best_of_each(
    drafts: Sequence[Draft], of: int, worth: Mapping[tuple[str, str], float]
) -> list[Draft]:
    """Of every `of` drafts the one whose (kind, technique) is worth most; the first of equals.

    For more questions than can be scored: `worth` is what a pool of a few said about their likes.

    >>> drafts = [Draft("q", "long", "sum", "full"), Draft("q", "short", "sum", "terse")]
    >>> best_of_each(drafts, 2, {("sum", "full"): 0.4, ("sum", "terse"): 0.7})[0].rationale
    'short'
    """
    groups = (drafts[place : place + of] for place in range(0, len(drafts), of))
    return [max(some, key=lambda draft: worth[draft.kind, draft.technique]) for some in groups]


def _score(draft: Draft) -> float:
    return draft.score


def _row(
    prompt: str, good: Draft, bad: Draft, field: Literal["question", "rationale"]
) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": prompt, "level": field}
    for name, draft in (("chosen", good), ("rejected", bad)):
        text: str = getattr(draft, field)
        row[name] = text
        row[f"{name}_score"] = draft.score
        row[f"{name}_words"] = len(text.split())
        row[f"{name}_kind"], row[f"{name}_technique"] = draft.kind, draft.technique
    return row
