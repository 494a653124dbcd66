"""A teacher of sums aligned to a real model: which way of answering does it learn from?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from generality.claims import Row
from generality.experiments.sum_school import SumSchool, after_solved
from generality.selection import Draft, DraftPool, Question, SoftmaxDrafter, TeachingPair

WAYS = ("worked", "short", "slipped")
"""Every step and the answer; the answer alone; every step with a wrong one, and its answer."""


def tailored_rows(
    school: SumSchool, lessons: int, test: int, *, exam: int, drafts: int, seed: int
) -> Iterator[Row]:
    """Is what a way of answering is worth in context what tuning on it gains? On a real model.

    ARTE with one kind of question and rationale alignment alone. The teacher answers sums in one of
    `WAYS`, drawn. Some of its answers, in every way, are shown to the model as the only example
    before the questions of an exam; a draft is worth the share of these that it gets right; the
    teacher is tuned to the preferences between the ways (`SoftmaxDrafter.aligned`), and answers the
    same sums again. All arms tune the model on equally many answers to the same sums.

    Rows: `vanilla`, the model as it is; `original-random`, the floor; `rationale-only`, after
    alignment; `oracle`, the ceiling, the way whose tuned model was best at the exam. And of each
    way `cell-…`, with its worth as `proxy` and what tuning on it gained on the test as `gain`.

    Args:
        school: of the model.
        lessons: sums that are answered.
        test: others, of the score.
        exam: others, of worth and oracle.
        drafts: sums whose answers are drafts; each is answered in every way.
        seed: of sums, draws and tuning.

    Source: Liu et al. 2024 (arXiv 2406.19227).

    >>> import tempfile
    >>> from generality.lab import Lab
    >>> school = SumSchool(Lab(home=tempfile.mkdtemp(), progress=False), "0.05M", max_tokens=4)
    >>> rows = tailored_rows(school, 4, 2, exam=2, drafts=1, seed=0)
    >>> [row["method"] for row in rows][:4]
    ['cell-worked', 'cell-short', 'cell-slipped', 'vanilla']
    """
    asked, others = school.sums(lessons, exam + test, seed=seed)
    examined, tested = others[:exam], others[exam:]
    by_prompt = {each.prompt: each for each in asked}
    teacher = SoftmaxDrafter(
        {"sum": lambda _: asked[0].prompt},
        {
            "worked": lambda question, _: by_prompt[question].worked,
            "short": lambda question, _: by_prompt[question].short,
            "slipped": lambda question, _: by_prompt[question].slipped(seed),
        },
    )
    questions = [Draft(each.prompt, "", kind="sum") for each in asked]

    def judge(prompt: str, response: str, reference: Any) -> float:
        return float(by_exam[reference].check(response))

    by_exam = {each.expression: each for each in examined}
    pool = DraftPool(teacher.rationales(questions[:drafts], len(WAYS), seed)).score(
        lambda prompts: [
            text
            for (text,) in school.start.write(school.lab, prompts, max_tokens=school.max_tokens)
        ],
        [Question(each.prompt, each.expression) for each in examined],
        judge,
        template=_shown,
    )
    pairs = pool.preference_pairs("rationale", prompt="{question}", seed=seed)
    aligned = teacher.aligned(pairs, seed)
    data = {way: teacher.only("sum", way).rationales(questions, 1, seed) for way in WAYS}
    data["original-random"] = teacher.rationales(questions, 1, seed)
    data["rationale-only"] = aligned.rationales(questions, 1, seed, greedy=True)
    tuned = {
        arm: school.taught([(draft.question, draft.rationale) for draft in written], seed)
        for arm, written in data.items()
    }
    at_exam = {way: school.share_right(tuned[way], examined) for way in WAYS}
    score = {arm: school.share_right(writer, tested) for arm, writer in tuned.items()}
    score["vanilla"] = school.share_right(school.start, tested)
    score["oracle"] = score[max(WAYS, key=at_exam.__getitem__)]
    for way in WAYS:
        worth = [draft.score for draft in pool if draft.technique == way]
        yield Row(method=f"cell-{way}", seed=seed, score=score[way], floor=score["vanilla"],
                  ceiling=None, gain=score[way] - score["vanilla"],
                  proxy=float(np.mean(worth)))  # fmt: skip
    for arm in ("vanilla", "original-random", "rationale-only", "oracle"):
        words = [len(draft.rationale.split()) for draft in data.get(arm, [])]
        yield Row(
            method=arm, seed=seed, score=score[arm], floor=score["original-random"],
            ceiling=score["oracle"], words=float(np.mean(words)) if words else None,
        )  # fmt: skip


def _shown(demo: TeachingPair, question: str) -> str:
    return after_solved(demo.problem, demo.rationale, question)
