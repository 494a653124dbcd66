"""Problems with verifiers of others, and tasks from files: what they refuse."""

from __future__ import annotations

import json

import pytest

from generality.benchmarks.gym_problems import gym_problems
from generality.benchmarks.task_files import TaskFiles
from generality.benchmarks.worlds.chain_formats import FormattedChains
from generality.errors import UserError


def test_problems_of_reasoning_gym_know_their_answers():
    problems = gym_problems("letter_counting", 4, 0)
    assert problems == gym_problems("letter_counting", 4, 0)
    for problem in problems:
        assert problem.check(f"<answer>0.5</answer> or <answer> {problem.answer} </answer>")
        assert problem.check(f"Counting\n{problem.answer}")
        assert not problem.check(f"<answer>{problem.answer}9</answer>")
        assert problem.reward("") == 0.0
    with pytest.raises(UserError, match="no task 'counting_sheep'"):
        gym_problems("counting_sheep", 1, 0)


def test_files_of_tasks(tmp_path):
    def write(name: str, count: int) -> None:
        rows = [{"prompt": f"{name} {i}", "response": str(i)} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    for name, count in (("a.train", 9), ("a.test", 4), ("b.train", 9), ("b.test", 4)):
        write(name, count)
    with pytest.raises(UserError, match="one with a test"):
        _ = TaskFiles(tmp_path).tasks
    write("c.test", 2)
    files = TaskFiles(tmp_path, examples=5, validation=2, test=3)
    parts = files.data("a", seed=0)
    assert {name: len(pairs) for name, pairs in parts.items()} == {
        "train": 5, "validation": 2, "test": 3,
    }  # fmt: skip
    assert not set(parts["train"]) & set(parts["validation"])
    assert parts != files.data("a", seed=1)
    assert files.data("c", seed=0)["train"] == []
    (tmp_path / "c.test.jsonl").write_text('{"prompt": "no response"}\n')
    with pytest.raises(UserError, match="not lines of prompt and response"):
        _ = TaskFiles(tmp_path).tasks


def test_formats_keep_tests_apart():
    chains = FormattedChains(examples=30, validation=5, test=20)
    parts = chains.data("colons", seed=0)
    tested = {prompt for prompt, _ in parts["test"]}
    assert not tested & {prompt for prompt, _ in parts["train"] + parts["validation"]}
    assert parts["test"] == chains.data("colons", seed=1)["test"]
    assert parts["train"] != chains.data("colons", seed=1)["train"]
    for task in chains.seen:  # the same sums in every format, asked for by its name
        pairs = chains.pairs(task, 5, 0)
        plain = chains.pairs("full", 5, 0)
        assert [prompt.removeprefix(f"{task} : ") for prompt, _ in pairs] == [p for p, _ in plain]
        assert [said.split("=> ")[-1] for _, said in pairs] == [
            r.split("=> ")[-1] for _, r in plain
        ]
        assert {said for _, said in pairs}.isdisjoint(response for _, response in plain)


def test_a_share_of_varied_chains_is_in_formats_not_asked_for():
    chains = FormattedChains()
    usual, varied = chains.pairs("full", 300, 4), chains.varied(300, 4, 0.3)
    assert [prompt for prompt, _ in varied] == [prompt for prompt, _ in usual]
    assert chains.varied(300, 4, 0.0) == usual
    other = [said for (_, said), (_, plain) in zip(varied, usual, strict=True) if said != plain]
    assert 60 < len(other) < 120
    assert min(sum(sign in said for said in other) for sign in ("|", ":", "(")) > 15
