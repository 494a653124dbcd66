"""A real model that samples workings of sums, and learns from what is right of them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from generality.benchmarks.worked_sums import WorkedSum
from generality.claims import Row
from generality.experiments.sum_school import SumSchool
from generality.measures import pass_at_k
from generality.objectives import MultiTargetLoss
from generality.selection import StateTracer
from generality.selection.self_sampling import tune_self_sampling
from generality.selection.state_tracer import Variables

_ANSWER = re.compile(r"(\d+)\. The answer is (\d+)\b")
_SEPARATOR = " = "


def sum_steps(text: str) -> list[tuple[str, Variables]] | None:
    """What is left to add after each step of a worked sum; None for what is no such text.

    An executor for `StateTracer`: two steps are in the same state when they have the same numbers
    left, in whatever order. The last step sets `answer`.

    >>> for step, left in sum_steps("4 + 1 + 7 = 4 + 8 = 12. The answer is 12."):
    ...     print(step, left)
    4 + 1 + 7 {'n0': 4, 'n1': 1, 'n2': 7}
    4 + 8 {'n0': 4, 'n1': 8}
    12. The answer is 12. {'n0': 12, 'answer': 12}
    >>> sum_steps("The sum is twelve.") is None
    True
    """
    steps: list[tuple[str, Variables]] = []
    for part in text.strip().split("\n")[0].split(_SEPARATOR):
        if said := _ANSWER.match(part):
            value, answer = map(int, said.groups())
            return [*steps, (f"{said[0]}.", {"n0": value, "answer": answer})]
        numbers = part.split(" + ")
        if not all(number.isdecimal() for number in numbers):
            return None
        steps.append((part, {f"n{place}": int(each) for place, each in enumerate(numbers)}))
    return steps


def all_workings(problem: WorkedSum) -> list[str]:
    """A sum (no minus) worked in every order of its numbers' pairs, from left to right first.

    >>> for working in all_workings(WorkedSum("4 + 1 + 7")):
    ...     print(working)
    4 + 1 + 7 = 5 + 7 = 12. The answer is 12.
    4 + 1 + 7 = 11 + 1 = 12. The answer is 12.
    4 + 1 + 7 = 8 + 4 = 12. The answer is 12.
    """

    def ways(numbers: tuple[int, ...]) -> Iterator[list[tuple[int, ...]]]:
        if len(numbers) == 1:
            yield [numbers]
        for i, j in itertools.combinations(range(len(numbers)), 2):
            rest = (n for place, n in enumerate(numbers) if place not in (i, j))
            for way in ways((numbers[i] + numbers[j], *rest)):
                yield [numbers, *way]

    numbers = tuple(map(int, problem.expression.split(" + ")))
    written = (
        _SEPARATOR.join(" + ".join(map(str, state)) for state in way) for way in ways(numbers)
    )
    return [f"{text}. The answer is {problem.answer}." for text in dict.fromkeys(written)]


def sampled_rows(
    school: SumSchool, lessons: int, test: int, *, samples: int, epochs: int, seed: int,
    temperature: float = 0.8, most: int = 4,
) -> Iterator[Row]:  # fmt: skip
    """Do a real model's own right workings teach it what one reference cannot?

    The model reads one working of each sum once, from left to right; then every arm goes on for
    `epochs` passes over the same sums: `mle` with that reference alone, the floor; `full+partial`
    with what it samples itself, a working for each sum and pass, and `sum_steps` proves right,
    to the end or in its first steps; `ceiling` with all workings there are. Of each arm a row for
    k = 1 (greedy) and k = `samples` (any of them right), of other sums.

    Args:
        school: of the model.
        lessons: sums to learn from.
        test: others.
        samples: drawn for each of these.
        epochs: of each arm.
        seed: of sums, draws and tuning.
        temperature: of all draws.
        most: workings of a sum that one step learns from.

    Source: Ni et al. 2023 (arXiv 2205.14318).

    >>> import tempfile
    >>> from generality.lab import Lab
    >>> school = SumSchool(Lab(home=tempfile.mkdtemp(), progress=False), "0.05M", max_tokens=4)
    >>> rows = sampled_rows(school, 4, 2, samples=2, epochs=1, seed=0)
    >>> [(row["method"], row["k"]) for row in rows][:3]
    [('mle', 1), ('mle', 2), ('full+partial', 1)]
    """
    asked, held = school.sums(lessons, test, seed=seed)
    warm = school.taught([(each.prompt, each.worked) for each in asked], seed, epochs=1)
    config = replace(school.tuning, epochs=epochs, max_grad_norm=1.0)
    arms: dict[str, dict[str, Any]] = {
        "mle": {"samples": 0, "loss": MultiTargetLoss("mle")},
        "full+partial": {"samples": 1},
        "ceiling": {"samples": 0, "known": [all_workings(each) for each in asked]},
    }
    found: dict[str, dict[Any, float]] = {}
    for arm, change in arms.items():
        tuned = school.lab.step(
            tune_self_sampling, network=warm.network, tokenizer=warm.tokenizer,
            weights=warm.weights, prompts=[each.prompt for each in asked],
            references=[each.worked for each in asked], seed=seed, config=config,
            tracer=StateTracer(executor=sum_steps), separator=_SEPARATOR,
            device=school.lab.device, temperature=temperature, max_tokens=school.max_tokens,
            most=most, every=math.ceil(lessons / config.batch_size),
            **{"loss": MultiTargetLoss("mle_aug"), **change},
        )  # fmt: skip
        writer = replace(warm, weights=tuned["weights"])
        drawn = writer.write(
            school.lab, [each.prompt for each in held], samples=samples,
            max_tokens=school.max_tokens, temperature=temperature, seed=seed,
        )  # fmt: skip
        right = [sum(map(each.check, texts)) for each, texts in zip(held, drawn, strict=True)]
        found[arm] = {
            1: school.share_right(writer, held),
            samples: float(pass_at_k(samples, right, samples).mean()),
            "full": float(np.mean([len(full) for full in tuned["full"]])),
            "partial": float(np.mean([len(partial) for partial in tuned["partial"]])),
        }
    for arm, facts in found.items():
        for k in (1, samples):
            yield Row(
                method=arm, seed=seed, k=k, score=facts[k], floor=found["mle"][k],
                ceiling=found["ceiling"][k], full=facts["full"], partial=facts["partial"],
            )  # fmt: skip
