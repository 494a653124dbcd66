"""Explanation tuning: which queries, which messages, packed how, in which stages."""

from collections import Counter
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks.worlds import (
    TwoTeachers,
    in_form,
    mixed_problems,
    read_explained,
    world_tokenizer,
)
from generality.errors import UserError
from generality.experiments.explanation_school import ListQueries
from generality.lab import Lab, TrainConfig
from generality.lab.stages import Stage, tune_in_stages
from generality.measures.judge_vs_benchmark import judge_vs_benchmark
from generality.models import tiny_decoder
from generality.models.packing import PackedCollator, pack
from generality.models.prompt_response import encode_response, response_labels
from generality.selection.system_messages import (
    ORCA_COLLECTIONS,
    SystemMessageMixer,
    offers_choices,
    orca_style_messages,
)
from generality.selection.task_balanced_sample import task_balanced_rows, task_balanced_sample

POOLS = {"small": range(10), "middle": range(100), "large": range(1000)}


def test_small_tasks_are_used_up_and_the_others_share_the_rest() -> None:
    counts = [
        Counter(task for task, _ in task_balanced_sample(POOLS, 90, seed)) for seed in range(200)
    ]
    assert {count["small"] for count in counts} == {10}
    means = [sum(count[name] for count in counts) / 200 for name in ("middle", "large")]
    assert means == pytest.approx([39.9, 40.1], abs=0.8)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from("abcd"), max_size=40), st.integers(0, 50), st.integers(0, 99),
    st.one_of(st.none(), st.integers(1, 5)),
)  # fmt: skip
def test_rows_are_drawn_once_each(tasks: list[str], n: int, seed: int, most: int | None) -> None:
    rows = task_balanced_rows(tasks, n, seed, most=most)
    assert rows == task_balanced_rows(tasks, n, seed, most=most)
    counts = Counter(tasks)
    there = sum(min(count, most or count) for count in counts.values())
    assert len(rows) == len(set(rows)) == min(n, there)
    drawn = Counter(tasks[row] for row in rows)
    assert all(drawn[task] <= (most or len(tasks)) for task in drawn)


def test_sampling_refuses_what_makes_no_sense() -> None:
    for n, most in ((-1, None), (1, 0)):
        with pytest.raises(ValueError, match="at least"):
            task_balanced_rows("ab", n, 0, most=most)


def test_sixteen_messages_and_who_gets_which() -> None:
    messages = orca_style_messages()
    assert [message.number for message in messages] == list(range(1, 17))
    assert len({message.text for message in messages}) == 16
    assert [m.number for m in messages if m.choices_only] == [8, 10]
    used = {number for numbers in ORCA_COLLECTIONS.values() for number in numbers}
    assert used == set(range(1, 17))


def test_messages_are_mixed_evenly_and_do_not_depend_on_the_order() -> None:
    mixer = SystemMessageMixer(ORCA_COLLECTIONS)
    queries = [f"What is {i} + {i}?" for i in range(600)]
    numbers = Counter(mixer("t0", query).number for query in queries)
    assert set(numbers) == {1, 2, 3, 5, 7}
    assert max(numbers.values()) < 1.6 * min(numbers.values())
    rows = [{"prompt": query, "collection": "t0"} for query in queries[:20]]
    assert list(mixer.mix(rows)) == list(mixer.mix(rows[::-1]))[::-1]
    other = SystemMessageMixer(ORCA_COLLECTIONS, seed=1)
    assert [mixer("t0", q) for q in queries] != [other("t0", q) for q in queries]


def test_messages_about_choices_go_to_questions_with_choices() -> None:
    mixer = SystemMessageMixer({"*": [5, 8, 10]})
    for i in range(30):
        assert mixer("anything", f"Why is {i} odd?").number == 5
    choices = "Which is larger, {i} or 3?\nA) the first\nB) the second"
    numbers = {mixer("anything", choices.format(i=i)).number for i in range(60)}
    assert numbers == {5, 8, 10}
    assert offers_choices("1. red\n2. blue")
    assert not offers_choices("In 1. FC Köln, who plays?")


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no such number"):
        SystemMessageMixer({"t0": [17]})
    with pytest.raises(ValueError, match="without choices"):
        SystemMessageMixer({"t0": [8, 10]})
    with pytest.raises(UserError, match="Known: t0"):
        SystemMessageMixer({"t0": [1]})("niv2", "?")


# ------------------------------------------------------------------------- packing


def test_only_the_response_is_learned_from() -> None:
    tokenizer = world_tokenizer()
    tokens, start = encode_response(tokenizer, "a b c d e f g h i j k l", "=> 1 2 3")
    labels = response_labels(tokens, start)
    assert sum(label != -100 for label in labels) == 4 + 1  # and the end token


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(3, 60), min_size=1, max_size=9), min_size=1, max_size=12),
       st.integers(9, 20))  # fmt: skip
def test_packing_loses_nothing(examples: list[list[int]], max_length: int) -> None:
    rows = pack(examples, examples, max_length=max_length)
    assert all(len(row["input_ids"]) <= max_length for row in rows)
    found = []
    for row in rows:
        for number in range(1, max(row["segments"]) + 1):
            places = [i for i, segment in enumerate(row["segments"]) if segment == number]
            assert [row["position_ids"][i] for i in places] == list(range(len(places)))
            assert row["labels"][places[0]] == -100
            found.append([row["input_ids"][i] for i in places])
    assert sorted(found) == sorted(examples)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_examples_have_the_losses_they_have_alone(attention: str) -> None:
    g = torch.Generator().manual_seed(0)
    model = tiny_decoder("0.05M", vocabulary=64)
    model.set_attn_implementation(attention)
    examples = [torch.randint(3, 64, (n,), generator=g).tolist() for n in (5, 9, 3, 8)]
    alone = [token_losses(model, input_ids=torch.tensor([e]), labels=torch.tensor([e]))
             for e in examples]  # fmt: skip
    rows = pack(examples, examples, max_length=18)
    assert len(rows) == 2
    together = token_losses(model, **PackedCollator()(rows))
    torch.testing.assert_close(
        together.sort().values, torch.cat(alone).sort().values, atol=1e-4, rtol=0
    )


def token_losses(model: torch.nn.Module, labels: torch.Tensor, **inputs) -> torch.Tensor:
    logits = model(**inputs).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), labels[:, 1:], reduction="none"
    )
    # the first token of each example has nothing before it
    return losses[labels[:, 1:] != -100].detach()


def test_packing_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="max_length is positive"):
        pack([[1]], [[1]], max_length=0)
    for tokens, labels in ([[1]], []), ([[1, 2]], [[1]]):
        with pytest.raises(ValueError, match="a label for each token"):
            pack(tokens, labels, max_length=4)
    assert pack([[1, 2, 3]], [[1, 2, 3]], max_length=2)[0]["input_ids"] == [1, 2]


# ------------------------------------------------------------------------- judges and stages


def test_a_judge_that_flatters_is_found() -> None:
    found = judge_vs_benchmark(
        {"chatgpt": 8.0, "vicuna": 7.36}, {"chatgpt": 48.9, "vicuna": 23.3}, reference="chatgpt"
    )["vicuna"]
    assert found.by_judge == pytest.approx(0.92)
    assert found.ratio == pytest.approx(0.92 * 48.9 / 23.3)
    with pytest.raises(ValueError, match="same models"):
        judge_vs_benchmark({"a": 1.0}, {"b": 1.0}, reference="a")
    with pytest.raises(ValueError, match="above 0"):
        judge_vs_benchmark({"a": 0.0}, {"a": 1.0}, reference="a")


def test_stages_go_on_from_each_other(home) -> None:
    lab = Lab(device="cpu", progress=False)
    tokenizer = world_tokenizer()
    network = partial(tiny_decoder, "0.05M", vocabulary=len(tokenizer))
    config = TrainConfig(learning_rate=1e-2, batch_size=4)
    first = Stage(["a ?"] * 4, ["1"] * 4, epochs=10)
    second = Stage(["b ?"] * 4, ["2"] * 4, epochs=10)
    tune = partial(tune_in_stages, lab, network, tokenizer=tokenizer, config=config, seed=0)
    both = tune([first, second])
    again = tune([second], weights=tune([first]).weights)
    assert lab.steps.computed == 2
    assert len(both.losses) == 20
    assert both.tokens == 2 * again.tokens
    assert all(torch.equal(both.weights[name], again.weights[name]) for name in both.weights)
    with pytest.raises(ValueError, match="no stage"):
        tune([])


def test_the_strong_teacher_never_errs_and_the_middle_one_does_so_in_its_share() -> None:
    tasks, lengths = ["reverse", "sort", "count"], [3, 4]
    teachers = TwoTeachers(errors=0.25, every=2)
    problems = mixed_problems(tasks, lengths, 600, seed=1)
    said = teachers.explain(tasks, lengths, 600, seed=1)
    assert [each.prompt for each in said] == [problem.prompt for problem in problems]
    pairs = list(zip(problems, said, strict=True))
    assert all(problem.check(each.strong) and problem.check(each.answer) for problem, each in pairs)
    assert all(in_form(problem, each.strong) for problem, each in pairs)
    wrong = sum(not problem.check(each.middle) for problem, each in pairs)
    assert wrong == pytest.approx(150, abs=40)  # four standard deviations
    assert all(len(each.middle.split()) < len(each.strong.split()) for each in said)
    cells = Counter((problem.task, len(problem.states)) for problem in problems)
    assert set(cells.values()) == {100}


def test_no_student_is_taught_what_it_is_asked() -> None:
    lists = ListQueries(
        TwoTeachers(), ("sum", "reverse"), ("last", "first"), lengths=(2, 3), test=20, adaptation=20
    )
    for seed in (0, 1):
        panels = lists.panels(seed)
        pools = lists.pools({"first": 200, "second": 100}, seed)
        assert [len(queries) for queries in pools.values()] == [200, 100]
        asked = {problem.prompt for problem in panels["seen"].problems}
        assert not asked & {query.prompt for each in pools.values() for query in each}
        unseen = panels["unseen tasks"]
        assert (len(unseen.problems), len(unseen.adaptation)) == (80, 40)
        assert not {p.prompt for p in unseen.problems} & {q.prompt for q in unseen.adaptation}


def test_teachers_of_no_sense_are_refused() -> None:
    for errors, every in ((1.1, 2), (-0.1, 2), (0.1, 0)):
        with pytest.raises(ValueError, match="share"):
            TwoTeachers(errors, every)


def test_files_of_queries_say_what_they_lack(tmp_path) -> None:
    path = tmp_path / "train.jsonl"
    with pytest.raises(UserError, match="is needed"):
        read_explained(path)
    path.write_text('{"prompt": "a ?", "answer": "=> 1"}\n')
    assert read_explained(path)[0].strong == ""
    path.write_text('{"prompt": "a ?"}\n')
    with pytest.raises(UserError, match="every line"):
        read_explained(path)
