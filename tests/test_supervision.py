"""Mixing right and wrong supervision, wrong solutions by severity, subtasks, accepted samples."""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from generality.benchmarks.worlds import ChainPrograms, solution, step_flags
from generality.benchmarks.worlds.wrong_chains import scrambled, slipped
from generality.claims import rank_correlates
from generality.measures import outcome_error_rate, step_error_rate
from generality.selection import (
    Solved,
    SubtaskBuilder,
    SupervisionMixer,
    not_near_copy,
    paraphrase_augment,
    proper_part,
    rejection_filter,
    severity_ladder,
)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_the_wrong_tasks_are_exact_in_number_and_nested(n: int, a: float, b: float, seed: int):
    mixer = SupervisionMixer(range(n), range(n), seed=seed)
    low, high = mixer.is_wrong(min(a, b)), mixer.is_wrong(max(a, b))
    assert not (low & ~high).any()
    assert abs(low.sum() - n * min(a, b)) <= 0.5 + 1e-9


def test_ten_tasks_at_two_rates() -> None:
    mixer = SupervisionMixer(list("abcdefghij"), list("ABCDEFGHIJ"), seed=0)
    three, six = ({task for task in mixer.mix(rate) if task.isupper()} for rate in (0.3, 0.6))
    assert (len(three), len(six)) == (3, 6)
    assert three < six
    assert [task.lower() for task in mixer.mix(0.6)] == list("abcdefghij")


def test_every_group_has_the_rate_and_datasets_say_what_is_corrupted() -> None:
    groups = ["easy"] * 10 + ["hard"] * 20
    right = Dataset.from_dict({"text": [f"r{i}" for i in range(30)]})
    wrong = Dataset.from_dict({"text": [f"w{i}" for i in range(30)]})
    mixed = SupervisionMixer(right, wrong, seed=1, groups=groups).mix(0.3)
    assert sum(mixed["corrupted"][:10]) == 3
    assert sum(mixed["corrupted"][10:]) == 6
    assert all(
        text[0] == "rw"[bad] for text, bad in zip(mixed["text"], mixed["corrupted"], strict=True)
    )


def test_a_mixer_refuses_what_does_not_match() -> None:
    with pytest.raises(ValueError, match="equal length"):
        SupervisionMixer([1], [1, 2])
    with pytest.raises(ValueError, match="no tasks"):
        SupervisionMixer([], [])
    with pytest.raises(ValueError, match=r"in \[0, 1\], not 30"):
        SupervisionMixer([1], [2]).mix(30)


def test_slips_and_scrambles_have_wrong_outcomes_and_different_severity() -> None:
    chains = ChainPrograms().sample(60, 4, seed=0)
    last, slip, random = (
        [(chain, write(chain, seed)) for seed, chain in enumerate(chains)]
        for write in (lambda c, s: slipped(c, s, last=True), slipped, scrambled)
    )
    for kind in (last, slip, random):
        assert outcome_error_rate(kind, lambda pair: pair[0].check(pair[1])) == 1
    rates = [step_error_rate(kind, lambda pair: step_flags(*pair)) for kind in (last, slip, random)]
    assert rates[0] == pytest.approx(1 / 5)
    assert rates[0] < rates[1] < rates[2] < 0.8
    wrong = np.array([step_flags(*pair) for pair in slip])
    assert (np.diff(wrong.astype(int)) >= 0).all(), "wrong from the slip on"
    assert step_flags(chains[0], slipped(chains[0], 3, style="full")) is not None


def test_a_ladder_keeps_the_tasks_that_every_teacher_gets_wrong() -> None:
    samples = {
        "strong": [["1", "1"], ["2", "9"], ["Wait, 3", "3"]],
        "weak": [["7", "1"], ["8", "7"], ["5", "6"]],
    }
    ladder = severity_ladder(samples, lambda task, said: said == str(task + 1))
    assert ladder.tasks == [1]
    assert ladder.wrong["strong"] == ["9"]
    assert ladder.lost == {"strong": 2, "weak": 0}
    with pytest.raises(ValueError, match="same tasks"):
        severity_ladder({"a": [["1"]], "b": []}, lambda task, said: False)


def test_subtasks_pass_checks_and_refusals_are_counted() -> None:
    chain = ChainPrograms().sample(1, 4, seed=0)[0]

    def decompose(task: Solved):
        for first, length in ((0, 4), (0, 1), (1, 2)):
            part = chain.segment(first, length)
            yield part.prompt, solution(part, "full")

    def lines(text: str) -> int:
        return text.count(";")

    builder = SubtaskBuilder(decompose, [not_near_copy(0.9), proper_part(lines)])
    kept = builder.build([Solved(chain.prompt, solution(chain, "full"))])
    assert [(task.prompt, task.source) for task in kept] == [(chain.segment(1, 2).prompt, 0)]
    assert dict(builder.refused) == {"not_near_copy": 1, "proper_part": 1}


def test_paraphrases_come_after_and_double_the_set() -> None:
    tasks = [Solved("a ?", "1"), Solved("b ?", "2")]
    both = paraphrase_augment(tasks, lambda prompt, text: (f"please: {prompt}", text))
    assert both[:2] == tasks
    assert [(task.prompt, task.source) for task in both[2:]] == [
        ("please: a ?", 0),
        ("please: b ?", 1),
    ]


def test_a_rejection_filter_counts_everything_once() -> None:
    samples = [["=> 4", "=> 5", "=> 4", "2 + 2 => 4"], ["=> 1"], []]
    found = rejection_filter(samples, lambda place, text: text.endswith("4"), at_most=1)
    assert found.solutions == [["=> 4"], [], []]
    assert (found.refused, found.repeated, found.unsolved) == (2, 1, 2)
    with pytest.raises(ValueError, match="at least 1"):
        rejection_filter(samples, lambda place, text: True, at_most=0)


def test_a_rank_correlation_given_what_both_follow() -> None:
    rng = np.random.default_rng(0)
    z = np.arange(24.0)
    x, y = (z + rng.normal(scale=3, size=24) for _ in range(2))
    rows = pd.DataFrame({"model": range(24), "x": x, "y": y, "z": z, "seed": 0})
    plain = rank_correlates("x", "y", unit="model")(rows)
    given = rank_correlates("x", "y", unit="model", partial=("z",))(rows)
    inverse = np.linalg.inv(np.corrcoef([stats.rankdata(column) for column in (x, y, z)]))
    expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    assert given.effect == pytest.approx(expected)
    assert plain.p < 0.001
    assert given.p > 0.05
    four = rank_correlates("x", "y", partial=("z",))(rows[:4])
    assert "at least 5 units" in four.note
