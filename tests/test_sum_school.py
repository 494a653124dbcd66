"""Sums in words, adapters that are kept alone, and the school of both."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from generality.benchmarks.worked_sums import WorkedSum, worked_sums
from generality.errors import UserError
from generality.experiments.sum_panels import explanation_rows
from generality.experiments.sum_school import SumSchool
from generality.lab import Lab
from generality.models import adapters_alone
from generality.training.writer import Writer

expressions = st.lists(st.integers(0, 99), min_size=2, max_size=5).flatmap(
    lambda numbers: st.tuples(
        st.just(numbers), st.lists(st.sampled_from("+-"), min_size=4, max_size=4)
    )
)


@given(expressions, st.integers(0, 5))
def test_work_is_right_and_slips_are_wrong(drawn, seed: int) -> None:
    numbers, signs = drawn
    text = str(numbers[0]) + "".join(
        f" {sign} {number}" for sign, number in zip(signs, numbers[1:], strict=False)
    )
    problem = WorkedSum(text)
    assert problem.values[-1] == eval(text)
    assert problem.check(problem.worked)
    assert problem.check(problem.short)
    assert problem.check(problem.terse)
    assert not problem.check(problem.slipped(seed))
    assert not problem.check("")
    assert problem.parts()[-1].answer == problem.answer
    assert len(problem.slipped(seed).split(".")) == len(problem.worked.split("."))


def test_sums_are_different_and_of_the_task() -> None:
    found = worked_sums(40, 0, terms=3)
    assert len(set(found)) == 40
    assert all(each.expression.split()[1::2] == ["+", "+"] for each in found)
    assert any("-" in each.expression for each in worked_sums(40, 0, minus=True))
    assert len({*found} & {*worked_sums(40, 1, terms=3)}) < 10  # of a thousand
    with pytest.raises(UserError, match="no 1000 different sums"):
        worked_sums(1000, 0, terms=2)


def test_adapters_change_nothing_at_first_and_are_all_that_is_kept() -> None:
    tokens = torch.tensor([[3, 4, 5, 6]])
    plain = tiny_models.llama()(input_ids=tokens).logits
    model = adapters_alone(tiny_models.llama(), rank=2, last=1)
    torch.testing.assert_close(model(input_ids=tokens).logits, plain)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained == set(state)
    assert {name.split(".layers.")[1].split(".")[0] for name in state} == {"2"}
    model.load_state_dict({name: value + 0.1 for name, value in state.items()})
    assert not torch.allclose(model(input_ids=tokens).logits, plain)
    model.load_state_dict(state)
    torch.testing.assert_close(model(input_ids=tokens).logits, plain)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({})
    with pytest.raises(ValueError, match="no linear layers in blocks"):
        adapters_alone(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="at least 1"):
        adapters_alone(tiny_models.llama(), rank=0)


@pytest.fixture
def school(tmp_path: Path) -> SumSchool:
    folder = tmp_path / "model"
    tiny_models.llama().save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    lab = Lab(home=tmp_path / "home", device="cpu", progress=False)
    return SumSchool(lab, str(folder), last=1, max_tokens=3)


def test_a_model_learns_its_lessons_by_adapters_that_are_kept(school: SumSchool) -> None:
    lessons = [("a film is", "very good")] * 8
    tuned = school.taught(lessons, seed=0, epochs=20, learning_rate=0.02)
    assert tuned.weights is not None
    assert all("lora_" in name for name in tuned.weights)
    asked = ["a film is"], ["very good"]
    before, after = (each.logprobs(school.lab, *asked)[0] for each in (school.start, tuned))
    assert after > before + 0.2  # the head of random weights is frozen, so not by much more
    assert len(tuned.write(school.lab, asked[0], max_tokens=2)) == 1
    again = school.taught(lessons, seed=0, epochs=20, learning_rate=0.02)
    assert again.training is not None
    assert tuned.training is not None
    assert again.training.losses == tuned.training.losses


def test_explanations_and_answers_get_equal_tokens(school: SumSchool) -> None:
    rows = {row["method"]: row for row in explanation_rows(school, 12, 2, seed=0)}
    tokens = {method: row["tokens"] for method, row in rows.items()}
    assert tokens["answers"] < tokens["explanations"] < tokens["ceiling"]
    assert abs(tokens["answers-tokens"] - tokens["explanations"]) <= 12
    assert rows["answers-tokens"]["examples"] > rows["answers"]["examples"] == 12
    assert isinstance(school.start, Writer)
