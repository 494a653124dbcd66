import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks.worlds import world_tokenizer
from generality.benchmarks.worlds.string_tasks import (
    TASKS,
    compose,
    mistaken,
    string_task,
    terse,
    trace,
)
from generality.errors import UserError

LISTS = st.text("abcdefgh", min_size=1, max_size=9)
NAMES = st.sampled_from(sorted(TASKS))

WHOLE = {  # each task in one line of Python, without its states
    "copy": lambda x, _: list(x),
    "reverse": lambda x, _: list(x[::-1]),
    "sort": lambda x, _: sorted(x),
    "dedupe": lambda x, _: list(dict.fromkeys(x)),
    "successor": lambda x, _: [chr(ord(c) + 1) for c in x],
    "swap": lambda x, _: [x[-1], *x[1:-1], x[0]] if len(x) > 1 else list(x),
    "merge": lambda x, _: sorted(x),
    "first": lambda x, _: [x[0]],
    "last": lambda x, _: [x[-1]],
    "max": lambda x, _: [max(x)],
    "count": lambda x, letter: [str(x.count(letter))],
    "and": lambda x, _: [str(int("0" not in x))],
    "or": lambda x, _: [str(int("1" in x))],
    "sum": lambda x, _: [str(sum(map(int, x)) % 5)],
}


@settings(max_examples=200, deadline=None)
@given(NAMES, st.integers(1, 9), st.integers(0, 10_000))
def test_every_answer_is_that_of_the_task_in_one_line(name: str, length: int, seed: int) -> None:
    task = string_task(name)
    [problem] = task.sample(1, max(length, 2), seed)
    symbols, letter = task.read(problem.prompt)
    assert problem.answer.split() == WHOLE[name](symbols, letter)
    assert len(problem.states) == len(symbols) == max(length, 2)
    assert problem.states[-1] == problem.answer
    assert problem.check(trace(problem))
    assert problem.check(trace(problem, every=3))
    assert problem.check(terse(problem))


@settings(max_examples=200, deadline=None)
@given(NAMES, st.integers(2, 7), st.integers(0, 10_000))
def test_each_state_is_the_answer_for_the_list_up_to_there(
    name: str, length: int, seed: int
) -> None:
    task = string_task(name)
    [problem] = task.sample(1, length, seed)
    symbols, letter = task.read(problem.prompt)
    order = "".join(sorted(symbols)) if task.halves else symbols
    shorter = [task.problem(order[:end], letter).answer for end in range(1, length + 1)]
    assert list(problem.states) == shorter


@settings(max_examples=200, deadline=None)
@given(NAMES, st.integers(2, 7), st.integers(0, 10_000), st.integers(0, 100))
def test_one_wrong_step_makes_a_wrong_answer(name: str, length: int, draw: int, seed: int) -> None:
    [problem] = string_task(name).sample(1, length, draw)
    wrong = mistaken(problem, seed)
    assert wrong == mistaken(problem, seed)
    assert (wrong.prompt, len(wrong.states)) == (problem.prompt, length)
    assert not problem.check(trace(wrong))
    differ = [a != b for a, b in zip(problem.states, wrong.states, strict=True)]
    assert differ[-1]


def test_a_mistake_is_one_step_from_which_the_rest_follows() -> None:
    task = string_task("reverse")
    [problem] = task.sample(1, 6, seed=0)
    wrong = mistaken(problem, seed=1)
    states = [tuple(state.split()) for state in wrong.states]
    symbols, _ = task.read(problem.prompt)
    followed = [
        task.step(a, x, "") == b for a, b, x in zip(states, states[1:], symbols[1:], strict=False)
    ]
    assert followed.count(False) <= 1


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["reverse", "sort", "swap", "dedupe", "successor"]), NAMES, LISTS)
def test_composed_tasks_do_one_after_the_other(first: str, second: str, symbols: str) -> None:
    if second in ("merge", "and", "or", "sum"):
        with pytest.raises(ValueError, match="cannot come after"):
            compose(string_task(first), string_task(second))
        return
    both = compose(string_task(first), string_task(second))
    letter = "a" if both.takes_letter else ""
    problem = both.problem(symbols, letter)
    between = "".join(WHOLE[first](symbols, ""))
    assert problem.answer.split() == WHOLE[second](between, letter)
    assert both.read(problem.prompt) == (symbols, letter)
    assert len(problem.states) == len(symbols)


def test_what_cannot_come_first() -> None:
    for name in ("count", "max", "merge", "sum"):
        with pytest.raises(ValueError, match="cannot come before"):
            compose(string_task(name), string_task("copy"))


def test_samples_are_the_same_for_a_seed_and_avoid_what_they_should() -> None:
    task = string_task("reverse", letters="ab")
    first = task.sample(20, 3, seed=0)
    assert first == task.sample(20, 3, seed=0)
    assert first != task.sample(20, 3, seed=1)
    seen = {problem.prompt for problem in first[:5]}
    assert not seen & {problem.prompt for problem in task.sample(50, 3, seed=0, avoid=seen)}
    every = {task.problem(a + b).prompt for a in "ab" for b in "ab"}
    with pytest.raises(ValueError, match="left beside those to avoid"):
        task.sample(1, 2, seed=0, avoid=every)


def test_bits_are_balanced() -> None:
    for name in ("and", "or"):
        answers = [problem.answer for problem in string_task(name).sample(400, 6, seed=0)]
        assert 0.4 < answers.count("1") / 400 < 0.6


def test_all_words_are_in_the_tokenizer() -> None:
    tokenizer = world_tokenizer(TASKS)
    for name in TASKS:
        for problem in string_task(name).sample(5, (2, 6), seed=0):
            text = f"{problem.prompt} {trace(problem)}"
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(UserError, match="Did you mean 'reverse'"):
        string_task("revers")
    with pytest.raises(ValueError, match="at least 2 symbols"):
        string_task("merge").sample(1, 1, seed=0)
    with pytest.raises(ValueError, match="takes a letter"):
        string_task("count").problem("abc")
    with pytest.raises(ValueError, match="every is at least 1"):
        trace(string_task("copy").problem("ab"), every=0)
