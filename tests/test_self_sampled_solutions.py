"""Traces, buffers, the losses over several targets and the sampler that feeds them."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks.worked_sums import WorkedSum
from generality.benchmarks.worlds import TARGET_WORDS, TargetPrograms, world_tokenizer
from generality.experiments.self_sampled_sums import all_workings, sum_steps
from generality.lab.train import TrainConfig, train
from generality.measures.pass_at_k import pass_at_k
from generality.measures.solution_diversity import canonical_program, solution_diversity
from generality.models import tiny_decoder
from generality.objectives.multi_target import MultiTargetLoss
from generality.selection.online_self_sampler import OnlineSelfSampler
from generality.selection.solution_buffer import SolutionBuffer
from generality.selection.state_tracer import (
    SandboxExecutor,
    StateTracer,
    arithmetic_executor,
    value_strings,
    values_only,
)

RNG = random.Random(0)


# ------------------------------------------------------------------------- measures


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(100, 5, 1, 0.05), (100, 5, 10, 0.416248), (100, 5, 50, 0.971858), (10, 3, 5, 0.916667)],
)
def test_pass_at_k_matches_the_published_numbers(n: int, c: int, k: int, expected: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n: int, data: st.DataObject) -> None:
    from math import comb

    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert pass_at_k(n, [c], k)[0] == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-12)


def test_pass_at_k_refuses_what_cannot_be() -> None:
    for n, c, k in ((5, 1, 0), (5, 1, 6), (5, 6, 1), (5, -1, 1)):
        with pytest.raises(ValueError, match="between"):
            pass_at_k(n, c, k)


def test_programs_that_differ_in_names_and_spaces_are_one() -> None:
    same = ["a = 2 ; b = a * 3", "x=2\ny = x*3", "b = 2; a = b * 3"]
    assert len(set(map(canonical_program, same))) == 1
    assert canonical_program("not a ( program") == "not a ( program"
    found = solution_diversity([same, ["a = 1", "a = 2"]], paths=[["p", "p", "q"], ["p", "q"]])
    assert (found.solutions, found.programs, found.paths) == (2.5, 1.5, 2.0)
    with pytest.raises(ValueError, match="as many as solutions"):
        solution_diversity([same], paths=[[]])


# ------------------------------------------------------------------------- states


def test_states_are_the_same_for_other_names_and_orders() -> None:
    states = [{"n0": 3, "a": 12.0, "b": 36.0}, {"z": 36.0, "y": 3, "x": 12.0}]
    assert values_only(states[0]) == values_only(states[1])
    assert value_strings(states[0]) == value_strings(states[1])
    assert values_only({"x": 3}) == values_only({"x": 3.0})
    assert value_strings({"x": 3}) != value_strings({"x": 3.0})
    assert values_only({"x": True}) != values_only({"x": 1})


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from("+-*"), st.integers(0, 20)),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_the_arithmetic_executor_is_python(lines: list[tuple[int, str, int]]) -> None:
    program = " ; ".join(f"v{i} = {a} {op} {b}" for i, (a, op, b) in enumerate(lines))
    scope: dict[str, int] = {}
    exec(program, {}, scope)
    steps = arithmetic_executor(program)
    assert steps is not None
    assert steps[-1][1] == scope
    assert [source for source, _ in steps] == [part.strip() for part in program.split(";")]


@pytest.mark.parametrize(
    "program",
    ["x = y", "x = 1 / 0", "x = = 1", "x = 9 ** 9 ** 9", "x = print(1)", "import os", "x = 'a'",
     "x += 1", "x = 1e300 * 1e300", "x = " + "(" * 500 + ")" * 500, "x = 1\x00"],
)  # fmt: skip
def test_what_is_not_arithmetic_is_not_run(program: str) -> None:
    assert arithmetic_executor(program) is None


def test_both_executors_see_the_same_states() -> None:
    program = "n0 = 3 ; a = n0 * 4 ; answer = a / 5 - n0"
    assert SandboxExecutor()(program) == arithmetic_executor(program)


def test_other_programs_go_to_the_sandbox_together() -> None:
    programs = [
        "rows = [3, 4]\ntotal = 0\nfor r in rows:\n    total += r\nanswer = total",
        "x = 2 ** 3 ; answer = x",
        "x = undefined",
        "x = open('/etc/shadow').read()",
        "answer = 7",
    ]
    traces = StateTracer().many(programs)
    assert [trace and trace.answers[-1] for trace in traces] == [7, 8, None, None, 7]
    assert len(traces[0].statements) == 4


def test_workings_of_sums_are_programs_too() -> None:
    known = SolutionBuffer(
        WorkedSum("4 + 1 + 7").worked, StateTracer(executor=sum_steps), separator=" = "
    )
    other = all_workings(WorkedSum("4 + 1 + 7"))
    assert len(other) == 3
    assert known.offer(other[0]) == "known"
    assert known.offer("7 + 4 = 11") == "no match"
    assert known.offer("4 + 1 + 7 = 7 + 5 = 13. The answer is 13.") == "partial"
    assert known.partial == ["4 + 1 + 7 = 7 + 5"]
    assert known.offer("4 + 1 + 7 = five = 12. The answer is 12.") == "not executable"
    assert [known.offer(text) for text in other[1:]] == ["full", "full"]
    assert known.full == other
    assert known.offer(other[1] + " The answer is 3.\nQuestion: 1 = 2") == "known"


# ------------------------------------------------------------------------- buffers

REFERENCE = "a = 3 * 4 ; b = a + 5 ; answer = b - 2"


def buffer(**options) -> SolutionBuffer:
    return SolutionBuffer(REFERENCE, separator=" ; ", **options)


def test_the_life_of_a_buffer() -> None:
    known = buffer()
    assert known.offer(REFERENCE.replace(" ", "")) == "known"
    assert known.offer("b = 3 * ") == "not executable"
    assert known.offer("answer = 16") == "no match"
    # x holds what a held: a beginning that is right, though the end is not
    assert known.offer("x = 4 * 3 ; y = x + 2 ; answer = y") == "partial"
    assert known.partial == ["x = 4 * 3"]
    # longer, so the shorter one is dropped
    assert known.offer("x = 4 * 3 ; y = 5 + x ; answer = y") == "partial"
    assert known.partial == ["x = 4 * 3 ; y = 5 + x"]
    assert known.offer("x = 4 * 3 ; q = 1 ; answer = q") == "known"
    # complete: what comes after the answer is cut, and its own beginnings go
    assert known.offer("x = 4 * 3 ; y = 5 + x ; answer = y - 2 ; z = 1") == "full"
    assert known.partial == []
    assert known.full[1] == "x = 4 * 3 ; y = 5 + x ; answer = y - 2"
    targets = known.targets(10, rng=RNG)
    assert [target.full for target in targets] == [True, True]


def test_new_states_are_learned_from_what_is_found() -> None:
    known = buffer()
    other = "u = 5 - 2 ; v = 3 * 4 ; answer = u + v"
    assert known.offer("u = 5 - 2 ; answer = u") == "no match"
    assert known.offer(other) == "full"
    assert known.offer("w = 5 - 2 ; answer = w") == "partial"


def test_long_ways_are_refused_up_to_the_tolerance() -> None:
    detour = "a = 3 * 4 ; b = a ; c = b + 5 ; answer = c - 2"
    assert buffer().offer(detour) == "too long"
    assert buffer(length_tolerance=1).offer(detour) == "full"
    assert buffer().offer("x = 1 ; x = 12 ; answer = x") == "too long"


def test_only_full_programs_where_no_others_are_wanted() -> None:
    known = buffer(partial=False)
    assert known.offer("x = 4 * 3 ; answer = x") == "no match"
    assert known.prefix(RNG) == ""


def test_targets_prefer_what_is_complete_and_prefixes_include_nothing() -> None:
    known = buffer()
    for program in ("x = 4 * 3 ; answer = x", "answer = 15", "y = 12 ; answer = y + 3"):
        known.offer(program)
    assert [target.full for target in known.targets(2, rng=RNG)] == [True, True]
    assert known.targets(1, rng=RNG)[0].text == REFERENCE
    assert {target.full for target in known.targets(10, rng=RNG)} == {True, False}
    assert {known.prefix(RNG) for _ in range(50)} == {"", *known.partial}
    with pytest.raises(ValueError, match="at least one"):
        known.targets(0, rng=RNG)


def test_a_reference_must_be_right() -> None:
    for reference in ("answer = ", "x = 3"):
        with pytest.raises(ValueError, match="cannot be run to an answer"):
            SolutionBuffer(reference)
    with pytest.raises(ValueError, match="is not 4"):
        SolutionBuffer("answer = 3", gold=4)


# ------------------------------------------------------------------------- losses

LOGPS = torch.tensor([0.5, 0.1, 0.01]).log()
ONE = torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (MultiTargetLoss("mle"), 0.693147),
        (MultiTargetLoss("mle_aug"), 7.600902),
        (MultiTargetLoss("mle_aug", mean=True), 2.533634),
        (MultiTargetLoss("mml"), 0.494296),
        (MultiTargetLoss("beta_mml", beta=0.25), -2.168054),
        (MultiTargetLoss("mixed", beta=1.0, weights=(0.5, 2.0)), 0.5 * 7.600902 + 2 * 0.494296),
    ],
)
def test_losses_match_the_computed_numbers(loss: MultiTargetLoss, expected: float) -> None:
    assert loss(LOGPS[:, None], ONE).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [("mle", [1, 0, 0]), ("mle_aug", [1, 1, 1]), ("mml", [0.8197, 0.1639, 0.0164]),
     ("beta_mml", [0.4890, 0.3270, 0.1839])],
)  # fmt: skip
def test_gradients_weigh_the_targets_as_computed(kind, weights: list[float]) -> None:
    logps = LOGPS[:, None].clone().requires_grad_()
    MultiTargetLoss(kind)(logps, ONE).backward()
    torch.testing.assert_close(-logps.grad[:, 0], torch.tensor(weights).float(), atol=1e-4, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["mle", "mle_aug", "mml", "beta_mml", "mixed"]), st.booleans(),
       st.integers(0, 1000))  # fmt: skip
def test_a_batch_is_the_mean_of_its_problems(kind, length_norm: bool, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logps = -3 * torch.rand(7, 5, generator=g)
    mask = torch.arange(5) < torch.randint(1, 6, (7, 1), generator=g)
    groups = torch.tensor([0, 1, 0, 1, 1, 2, 0])
    loss = MultiTargetLoss(kind, length_norm=length_norm)
    alone = [
        loss(logps[groups == i], torch.zeros_like(groups[groups == i]), mask[groups == i])
        for i in range(3)
    ]
    torch.testing.assert_close(loss(logps, groups, mask), torch.stack(alone).mean())


def test_length_norm_takes_the_advantage_from_short_targets() -> None:
    logps = torch.full((2, 4), -1.0)
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    groups = torch.zeros(2, dtype=torch.long)
    normed = MultiTargetLoss("mle_aug", length_norm=True)(logps, groups, mask)
    assert normed.item() == pytest.approx(8.0)
    for options in ({"kind": "mmle"}, {"beta": 0.0}):
        with pytest.raises(ValueError, match="kind is one of|beta is in"):
            MultiTargetLoss(**options)


# ------------------------------------------------------------------------- the sampler

TOKENIZER = world_tokenizer(TARGET_WORDS)
PROBLEMS = TargetPrograms(terms=(2, 2)).sample(24, seed=0)
TRACER = StateTracer(executor=arithmetic_executor)


def sampler(**options) -> OnlineSelfSampler:
    model = tiny_decoder("0.05M", vocabulary=len(TOKENIZER))
    known = [SolutionBuffer(p.reference, TRACER, separator=" ; ") for p in PROBLEMS]
    return OnlineSelfSampler(
        model, TOKENIZER, [p.prompt for p in PROBLEMS], known, max_tokens=24, **options
    )


def test_problems_have_many_right_programs_that_survive_other_numbers() -> None:
    for problem in TargetPrograms().sample(30, seed=1):
        programs = problem.programs(8, seed=0)
        assert programs[0] == problem.reference
        assert len(set(programs)) == len(programs) > 1
        other = problem.renumbered(seed=0)
        moved = dict(zip(map(str, problem.numbers), map(str, other.numbers), strict=True))
        for program in programs:
            assert str(TRACER(program).answers[-1]) == problem.answer
            carried = " ".join(moved.get(word, word) for word in program.split())
            assert str(TRACER(carried).answers[-1]) == other.answer
        text = f"{problem.prompt} {problem.reference}"
        assert TOKENIZER.unk_token_id not in TOKENIZER(text)["input_ids"]
    with pytest.raises(ValueError, match="2 to 4 terms"):
        TargetPrograms(terms=(1, 2)).sample(1, seed=0)


def test_the_loss_of_references_alone_is_the_models_own() -> None:
    one = sampler(samples=0)
    problem = PROBLEMS[0]
    text = TOKENIZER(f"{problem.prompt} {problem.reference} <eos>", return_tensors="pt")
    start = len(TOKENIZER(problem.prompt)["input_ids"])
    labels = text["input_ids"].clone()
    labels[:, :start] = -100
    own = one.model(**text, labels=labels).loss * (labels != -100).sum()
    torch.testing.assert_close(one(torch.tensor([0])), own)
    whole = one.model(**text, labels=text["input_ids"]).loss * (text["input_ids"].numel() - 1)
    torch.testing.assert_close(sampler(samples=0, context=True)(torch.tensor([0])), whole)


def test_a_beginning_is_learned_without_an_end() -> None:
    """An end token after a partial program would teach to stop early."""
    one, problem = sampler(samples=0, loss=MultiTargetLoss("mle_aug")), PROBLEMS[0]
    reference_alone = one(torch.tensor([0]))
    first = problem.reference.split(" ; ")[0]
    begun = f"z = {first.split(' = ')[1]}"
    assert one.known[0].offer(f"{begun} ; answer = 0 - 1") == "partial"
    tokens = TOKENIZER(f"{problem.prompt} {begun}", return_tensors="pt")
    labels = tokens["input_ids"].clone()
    labels[:, : len(TOKENIZER(problem.prompt)["input_ids"])] = -100
    beginning = one.model(**tokens, labels=labels).loss * (labels != -100).sum()
    torch.testing.assert_close(one(torch.tensor([0])), reference_alone + beginning)


def test_it_learns_to_find_solutions_of_its_own() -> None:
    one = sampler(every=1, seed=0, loss=MultiTargetLoss(mean=True))
    config = TrainConfig(epochs=40, batch_size=24, learning_rate=1e-2, bucketing="none")
    result = train(one, one.examples(), None, config, seed=0, device="cpu")
    assert result.history[-1] < result.history[0] / 4
    assert one.sampled == 40 * 24 == one.counts.total()
    assert one.counts["full"] > 5
    found = [known.full for known in one.known]
    for problem, programs in zip(PROBLEMS, found, strict=True):
        assert {str(TRACER(program).answers[-1]) for program in programs} == {problem.answer}
    assert np.mean([len(programs) for programs in found]) > 1.2


def test_the_same_seed_finds_the_same() -> None:
    def found(seed: int) -> list[str]:
        one = sampler(seed=seed)
        one.sample(range(6))
        return [text for known in one.known for text in (*known.full, *known.partial)]

    assert found(0) == found(0)


def test_prompts_and_buffers_must_match() -> None:
    with pytest.raises(ValueError, match="2 prompts and 1 buffers"):
        OnlineSelfSampler(torch.nn.Identity(), TOKENIZER, ["", ""], [buffer()])
