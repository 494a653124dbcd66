"""How far a judge's opinion of models runs ahead of what they can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Overrating:
    """One model beside the reference.

    Attributes:
        by_judge: its score by the judge as a share of the reference's.
        by_benchmark: the same by the benchmark.
        ratio: by_judge / by_benchmark; above 1 the judge flatters it.
    """

    by_judge: float
    by_benchmark: float
    ratio: float


def judge_vs_benchmark(
    judge_scores: Mapping[str, float],
    benchmark_scores: Mapping[str, float],
    *,
    reference: str,
) -> dict[str, Overrating]:
    """Relative quality by a judge over relative quality by a benchmark, for every other model.

    Judges of chat answers reward form: Vicuna-13B had 92 % of ChatGPT's score by GPT-4's judgement,
    and 48 % of it on BIG-Bench Hard. Many judges also prefer long answers: report lengths beside.

    Source: Mukherjee et al. 2023 (arXiv 2306.02707), figures 1, 2 and 4.

    Args:
        judge_scores: model → mean score by the judge, above 0 for the reference.
        benchmark_scores: model → mean score on problems with known answers, likewise.
        reference: the model that the others imitate.

    Raises:
        ValueError: a model lacks a score, or the reference's is not above 0.

    >>> found = judge_vs_benchmark(
    ...     {"chatgpt": 1.0, "vicuna": 0.92}, {"chatgpt": 48.9, "vicuna": 23.3}, reference="chatgpt"
    ... )
    >>> round(found["vicuna"].by_benchmark, 3), round(found["vicuna"].ratio, 2)
    (0.476, 1.93)
    """
    if set(judge_scores) != set(benchmark_scores) or reference not in judge_scores:
        raise ValueError("judge and benchmark score the same models, the reference among them")
    if min(judge_scores[reference], benchmark_scores[reference]) <= 0:
        raise ValueError("the reference's scores are above 0")
    found = {}
    for model in judge_scores:
        if model != reference:
            judged = judge_scores[model] / judge_scores[reference]
            tested = benchmark_scores[model] / benchmark_scores[reference]
            ratio = judged / tested if tested else float("inf")
            found[model] = Overrating(judged, tested, ratio)
    return found
