"""Questions of several papers in their smallest form, each asked of a real model that learns sums.

Every function takes a `SumSchool`, whose model is SmolLM2-135M unless another is named, and gives
rows with floor and ceiling for one seed; a study adds its columns.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from generality.benchmarks.worked_sums import WorkedSum, final_number
from generality.claims import Row
from generality.experiments.sum_school import SumSchool, after_solved
from generality.selection.answer_rules import Rule, select_answer
from generality.selection.self_to_supervised import PARAPHRASE, SelfToSupervised
from generality.training.writer import Writer

RULES: tuple[Rule, ...] = ("sum", "max", "avg")


def explanation_rows(
    school: SumSchool, lessons: int, test: int, *, seed: int, more: int = 2
) -> Iterator[Row]:
    """Explanations against answers, on a real model: the question of Orca in its smallest form.

    Arms: `answers` to so many sums; `answers-tokens`, answers to other sums besides, in all as
    many tokens as the explanations have; `explanations` of the sums; and `more` times as many of
    these, the ceiling. Floor: `answers`.

    Source: Mukherjee et al. 2023 (arXiv 2306.02707).

    >>> import tempfile
    >>> from generality.lab import Lab
    >>> school = SumSchool(Lab(home=tempfile.mkdtemp(), progress=False), "0.05M", max_tokens=4)
    >>> [row["method"] for row in explanation_rows(school, 4, 2, seed=0)]
    ['start', 'answers', 'answers-tokens', 'explanations', 'ceiling']
    """
    asked, held = school.sums(more * lessons, test, seed=seed)
    short = [(each.prompt, each.short) for each in asked]
    worked = [(each.prompt, each.worked) for each in asked]
    arms = {
        "answers": short[:lessons],
        "answers-tokens": school.as_long(short, worked[:lessons]),
        "explanations": worked[:lessons],
        "ceiling": worked,
    }
    rows = list(school.compare(arms, held, seed))
    edge = {row["method"]: row["score"] for row in rows}
    for row in rows:
        yield Row(row, floor=edge["answers"], ceiling=edge["ceiling"])


def error_rows(
    school: SumSchool, lessons: int, test: int, *, seed: int, wrong: float = 0.9
) -> Iterator[Row]:
    """Hard tasks with errors against easier ones without: hard supervision in its smallest form.

    Arms: `parts`, every step of the sums as a right sum of two numbers, read over again until they
    are as many tokens as the sums; `slips`, the sums, of which a share is `wrong` by one slip that
    the rest of the work follows from; `clean`, the sums all right, the ceiling. Floor: the model as
    it is.

    Source: He et al. 2024 (arXiv 2410.20533).

    >>> import tempfile
    >>> from generality.lab import Lab
    >>> school = SumSchool(Lab(home=tempfile.mkdtemp(), progress=False), "0.05M", max_tokens=4)
    >>> [row["method"] for row in error_rows(school, 4, 2, seed=0)]
    ['start', 'parts', 'slips', 'clean']
    """
    asked, held = school.sums(lessons, test, seed=seed)
    clean = [(each.prompt, each.worked) for each in asked]
    parts = [(part.prompt, part.worked) for each in asked for part in each.parts()]
    bad = set(np.random.default_rng(seed).permutation(lessons)[: round(wrong * lessons)].tolist())
    slips = [
        (each.prompt, each.slipped(seed) if place in bad else each.worked)
        for place, each in enumerate(asked)
    ]
    arms = {"parts": school.as_long(parts, clean), "slips": slips, "clean": clean}
    rows = list(school.compare(arms, held, seed))
    edge = {row["method"]: row["score"] for row in rows}
    for row in rows:
        yield Row(row, floor=edge["start"], ceiling=edge["clean"])


def own_words_rows(
    school: SumSchool, lessons: int, test: int, texts: Sequence[str], *, seed: int
) -> Iterator[Row]:
    """A model's own right answers against gold ones: S3FT in its smallest form.

    Gold answers are running totals with signs that texts hardly use (`WorkedSum.terse`). Arms:
    `sft` on these; `own` right greedy answers alone; `s3ft`, own if right, else the model's own
    paraphrase of the gold answer if right, else gold. Two axes. On "target" the score is the share
    of other sums that are right, the floor the model as it is, with no ceiling. On "others" it is
    the mean log-probability (nats) of a token of `texts`, which tuning may make less probable: the
    floor is `sft`, the ceiling the model as it is.

    Args:
        texts: real ones, that have nothing to do with sums; each at least seven words.

    Source: Gupta et al. 2025 (arXiv 2502.08130).

    >>> import tempfile
    >>> from generality.lab import Lab
    >>> school = SumSchool(Lab(home=tempfile.mkdtemp(), progress=False), "0.05M", max_tokens=4)
    >>> rows = own_words_rows(school, 4, 2, ["a b c d e f a b c"], seed=0)
    >>> [(row["method"], row["axis"]) for row in rows][:3]
    [('start', 'target'), ('start', 'others'), ('sft', 'target')]
    """
    asked, held = school.sums(lessons, test, seed=seed)
    base = school.start
    gold = Dataset.from_list([
        {"prompt": each.prompt, "response": each.terse, "reference": each.expression}
        for each in asked
    ])  # fmt: skip

    def judge(prompt: str, response: str, reference: Any) -> float:
        return float(WorkedSum(reference).check(response))

    def write(prompts: list[str], samples: int) -> list[list[str]]:
        return base.write(school.lab, prompts, max_tokens=school.max_tokens)

    def restate(prompts: list[str], answers: list[str]) -> list[str]:
        pairs = zip(prompts, answers, strict=True)
        asked = [PARAPHRASE.format(prompt=prompt, reference=answer) for prompt, answer in pairs]
        return [text for (text,) in write(asked, 1)]

    method = functools.partial(
        SelfToSupervised, write, judge, score=functools.partial(school.logprobs, base)
    )
    built = {
        "sft": method(own=False).build(gold),
        "own": method(fallback="drop").build(gold),
        "s3ft": method(paraphrase=restate).build(gold),
    }
    writers: dict[str, Writer] = {"start": base}
    facts: dict[str, Row] = {"start": Row(examples=0)}
    for arm, data in built.items():
        pairs = list(zip(data["prompt"][:], data["target"][:], strict=True)) if len(data) else []
        writers[arm] = school.taught(pairs, seed) if pairs else base
        sources = data["target_source"][:] if pairs else []
        facts[arm] = Row(
            examples=len(pairs), own_share=sources.count("self") / max(1, len(sources)),
            base_logprob=float(np.mean(data["base_logprob"])) if pairs else None,
        )  # fmt: skip
    left = {arm: school.continued(writer, texts) for arm, writer in writers.items()}
    right = {arm: school.share_right(writer, held) for arm, writer in writers.items()}
    for arm, more in facts.items():
        row = Row(method=arm, seed=seed, **more)
        yield Row(row, axis="target", score=right[arm], floor=right["start"], ceiling=None)
        yield Row(row, axis="others", score=left[arm], floor=left["sft"], ceiling=left["start"])


def teaching_rows(
    school: SumSchool, problems: int, *, samples: int, exam: int, seed: int,
    temperature: float = 0.7,
) -> Iterator[Row]:  # fmt: skip
    """Does watching what a worked answer teaches pick better answers than voting? On a real model.

    The first level of learning by teaching, and the score by which ARTE judges a demonstration.
    The model samples answers to sums after one solved sum, and is its own student: with one sampled
    answer as the only demonstration, how probable does it find the right work on other sums? The
    score is that probability per token, in (0, 1], where the papers count right sampled answers
    (finer, without a further draw of noise; it rewards the wording of the exam's answers too).
    Nothing is trained.

    Rows: the answers that each rule of choice prefers, with the majority as floor and one of the
    samples being right as ceiling; and the mean score `after right` and `after wrong` samples of
    the problems that have both, which says whether it reads what it is shown.

    Source: Ning et al. 2024 (arXiv 2406.14629); Liu et al. 2024 (arXiv 2406.19227), step 2.

    >>> import tempfile
    >>> from generality.lab import Lab
    >>> school = SumSchool(Lab(home=tempfile.mkdtemp(), progress=False), "0.05M", max_tokens=4)
    >>> [row["method"] for row in teaching_rows(school, 2, samples=2, exam=1, seed=0)][:3]
    ['sum', 'max', 'avg']
    """
    shown, taught = school.sums(1 + exam, problems, seed=seed)
    example, questions = shown[0], shown[1:]
    drawn = school.start.write(
        school.lab, [after_solved(example.prompt, example.worked, e.prompt) for e in taught],
        samples=samples, max_tokens=school.max_tokens, temperature=temperature, seed=seed,
    )  # fmt: skip
    said = [[text.strip().split("\n")[0] for text in texts] for texts in drawn]
    pairs = [
        (after_solved(each.prompt, text, question.prompt), question.worked)
        for each, texts in zip(taught, said, strict=True)
        for text in dict.fromkeys(texts)
        for question in questions
    ]
    found = school.logprobs(school.start, *map(list, zip(*pairs, strict=True)))
    values = dict(zip((prompt for prompt, _ in pairs), np.exp(found), strict=True))

    def worth(each: WorkedSum, text: str) -> float:
        asked = [after_solved(each.prompt, text, question.prompt) for question in questions]
        return float(np.mean([values[prompt] for prompt in asked]))

    chosen: dict[str, list[bool]] = {rule: [] for rule in (*RULES, "majority", "any")}
    told: dict[str, list[float]] = {"after right": [], "after wrong": []}
    for each, texts in zip(taught, said, strict=True):
        answers = [final_number(text) or "none" for text in texts]
        scores = [worth(each, text) for text in texts]
        for rule in (*RULES, "majority"):
            chosen[rule].append(select_answer(answers, scores, rule) == each.answer)
        right = [answer == each.answer for answer in answers]
        chosen["any"].append(any(right))
        if len(set(right)) == 2:
            told["after right"].append(float(np.mean(list(itertools.compress(scores, right)))))
            wrong = [not good for good in right]
            told["after wrong"].append(float(np.mean(list(itertools.compress(scores, wrong)))))
    share = {name: float(np.mean(good)) for name, good in chosen.items()}
    for rule in RULES:
        yield Row(method=rule, seed=seed, score=share[rule], floor=share["majority"],
                  ceiling=share["any"], samples=samples)  # fmt: skip
    for name, mean in told.items():
        if mean:
            yield Row(method=name, seed=seed, score=float(np.mean(mean)), floor=None, ceiling=None,
                      samples=samples)  # fmt: skip
