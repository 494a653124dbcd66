"""Alignment of tokens, sparse distillation, formats, ledgers."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks.worlds import world_tokenizer
from generality.errors import UserError
from generality.experiments.specialist_tasks import ChainTasks, FileTasks, read_worked
from generality.measures import CapabilityLedger, select_checkpoint
from generality.models import (
    align_tokens,
    alignment_cost,
    project_topk,
    teacher_topk,
    tiny_decoder,
    topk_columns,
)
from generality.objectives import sparse_topk_kl
from generality.selection import FormatMixer, Worked

TEACHER = ["There", " are", " 12", " apples", "."]
STUDENT = ["▁There", "▁are", "▁1", "2", "▁apple", "s", "."]


def test_the_alignment_of_the_sheet() -> None:
    assert align_tokens(TEACHER, STUDENT) == [[0], [1], [2], [2], [3], [4], [4]]
    assert alignment_cost(TEACHER, STUDENT) == 4


def test_only_identical_tokens_get_the_teachers_probabilities() -> None:
    vocabulary = {token: place for place, token in enumerate([*STUDENT, "▁was", "!"])}
    likely = [{token: 0.6, " was": 0.3, "zebra": 0.1} for token in TEACHER]
    ids, probs = project_topk(likely, TEACHER, STUDENT, vocabulary)
    assert ids[:, 0].tolist() == list(range(7))
    soft = probs[:, 0] < 1
    assert soft.tolist() == [True, True, False, False, False, False, True]
    assert probs[soft][:, :2] == pytest.approx(np.tile([2 / 3, 1 / 3], (3, 1)))
    assert ids[soft][:, 1].tolist() == [7] * 3, "'was' is only in the vocabulary with a mark"
    assert probs.sum(1) == pytest.approx(np.ones(7))
    _, raw = project_topk(likely, TEACHER, STUDENT, vocabulary, renormalize=False)
    assert raw[0, :2] == pytest.approx([0.6, 0.3])


def test_of_two_spellings_of_one_token_the_first_counts() -> None:
    ids, probs = project_topk([{"a": 0.5, " a": 0.3, "b": 0.2}], ["a"], ["a"], {"a": 4, "b": 5})
    assert ids[0, :2].tolist() == [4, 5]
    assert probs[0, :2] == pytest.approx([5 / 7, 2 / 7])


def test_bad_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="1 distributions for 5"):
        project_topk([{"a": 1.0}], TEACHER, STUDENT, {})
    with pytest.raises(ValueError, match="no token 'b'"):
        project_topk([{"a": 1.0}], ["a"], ["b"], {"a": 0})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "ab", "c"]), min_size=1, max_size=7), st.data())
def test_alignments_are_monotone_and_complete(teacher: list[str], data: st.DataObject) -> None:
    student = data.draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=7))
    found = align_tokens(teacher, student)
    assert all(beside == list(range(beside[0], beside[-1] + 1)) for beside in found)
    assert (found[0][0], found[-1][-1]) == (0, len(teacher) - 1)
    assert all(a[-1] <= b[0] <= a[-1] + 1 for a, b in itertools.pairwise(found))
    assert align_tokens(teacher, teacher) == [[i] for i in range(len(teacher))]


LOGITS = torch.tensor([[0.5, 0.3, 0.2]]).log()
IDS, PROBS = torch.tensor([[0, 1]]), torch.tensor([[0.7, 0.2]])


def test_the_divergences_of_the_sheet() -> None:
    assert sparse_topk_kl(LOGITS, IDS, PROBS).item() == pytest.approx(0.276958, abs=1e-6)
    released = sparse_topk_kl(LOGITS, IDS, PROBS, released_behaviour=True)
    assert released.item() == pytest.approx(0.154438, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10_000))
def test_with_all_tokens_it_is_the_divergence_and_with_one_the_likelihood(k: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, k, generator=generator, dtype=torch.float64)
    p = torch.randn(3, k, generator=generator).softmax(-1)
    ids = torch.arange(k).expand(3, k)
    q = torch.distributions.Categorical(logits=logits.float())
    dense = torch.distributions.kl_divergence(torch.distributions.Categorical(p), q).mean()
    torch.testing.assert_close(sparse_topk_kl(logits, ids, p), dense, atol=1e-5, rtol=1e-4)
    one = sparse_topk_kl(logits, ids[:, 1:2], torch.ones(3, 1))
    torch.testing.assert_close(one, -q.log_prob(torch.ones(3)).mean())


def test_tokens_without_a_target_do_not_count() -> None:
    logits = torch.randn(2, 4, 6, requires_grad=True)
    ids, probs = torch.zeros(2, 4, 2, dtype=torch.long), torch.zeros(2, 4, 2)
    probs[0, 1, 0] = 1.0
    sparse_topk_kl(logits, ids, probs).backward()
    moved = logits.grad.abs().sum(-1) > 0
    assert moved.nonzero().tolist() == [[0, 1]]
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[0, 1] = False
    assert sparse_topk_kl(logits, ids, probs, mask) == 0


def test_a_teacher_tells_the_probabilities_it_writes_with() -> None:
    tokenizer = world_tokenizer()
    model = tiny_decoder("0.05M", vocabulary=len(tokenizer))
    prompts, responses = ["a = 3 ; a ?", "b = 1 ; c = b + 2 ; c ?"], ["3 => 3", "1 3 => 3"]
    found = teacher_topk(model, tokenizer, prompts, responses, k=len(tokenizer))
    for prompt, response, (tokens, likely) in zip(prompts, responses, found, strict=True):
        assert tokens == response.split()
        whole = tokenizer(f"{prompt} {response}", return_tensors="pt")["input_ids"]
        logits = model(whole).logits[0, -len(tokens) - 1 : -1].log_softmax(-1)
        for token, each, row in zip(tokens, likely, logits, strict=True):
            name = tokenizer.convert_tokens_to_ids(token)
            assert each[token] == pytest.approx(row[name].exp().item(), rel=1e-4)


def test_formats_differ_in_steps_and_demonstrations_and_never_show_the_problem() -> None:
    pool = [Worked(f"{n} + 1 ?", f"{n} and one", str(n + 1)) for n in range(6)]
    mixer = FormatMixer(pool, k_shot=4, seed=3)
    for draw, problem in enumerate(pool):
        shown = mixer.write(problem, "icl_cot", draw=draw)
        assert shown.prompt.count(problem.question) == 1
        assert shown.prompt.count("Q: ") == 5
        assert mixer.write(problem, "icl_ans", draw=draw).prompt.count("and one") == 0
        bare = mixer.write(problem, "zs_ans")
        assert (bare.prompt, bare.response) == (
            f"Q: {problem.question}\nA:", f"The answer is {problem.answer}.",
        )  # fmt: skip
    formats = [example.format for example in mixer.mix(pool * 2)]
    assert sorted(map(formats.count, set(formats))) == [3, 3, 3, 3]
    assert mixer.mix(pool) == FormatMixer(pool, k_shot=4, seed=3).mix(pool)
    with pytest.raises(ValueError, match="more than that"):
        FormatMixer(pool[:4], k_shot=4)
    with pytest.raises(ValueError, match="one or more of icl_cot"):
        mixer.mix(pool, ())


def test_a_ledger_books_gain_and_price() -> None:
    ledger = CapabilityLedger(
        {"a": lambda m: m[0], "b": lambda m: m[1], "c": lambda m: m[2]}, ["a"]
    )
    for name, model in {
        "base": (0.2, 0.8, 0.6),
        "x": (0.5, 0.8, 0.2),
        "y": (0.4, 0.2, 0.2),
    }.items():
        ledger.record(name, model)
    assert ledger.balance()[1] == ("x", pytest.approx(0.3), pytest.approx(0.2))
    assert ledger.pareto() == ["base", "x"]
    with pytest.raises(ValueError, match="others stay"):
        CapabilityLedger({"a": float}, ["a"])


def test_choosing_on_the_tuned_set_has_a_regret() -> None:
    history = [{"id": 0.5, "val": 0.7, "ood": 0.7}, {"id": 0.9, "val": 0.2, "ood": 0.3}]
    chosen = select_checkpoint(history, by=["id"], on=["ood"])
    assert (chosen.index, chosen.regret) == (1, pytest.approx(0.4))
    assert select_checkpoint(history, by=["val"], on=["ood"]).regret == 0
    with pytest.raises(ValueError, match="different names"):
        select_checkpoint(history, by=["ood"], on=["ood"])


def test_columns_leave_the_prompt_out_and_end_with_the_end() -> None:
    tokenizer = world_tokenizer()
    tokens = [*tokenizer("b ? 2 3 => 3")["input_ids"], tokenizer.eos_token_id]
    teacher = ["2 3", "=>", "3"]  # reads two digits as one token
    likely = [{"2 3": 0.9, "2 4": 0.1}, {"=>": 1.0}, {"3": 0.6, "1": 0.2, "zebra": 0.2}]
    ids, probs = topk_columns(tokenizer, tokens, 3, (teacher, likely), k=2)
    assert probs[:3].sum() == 0
    assert probs[3:].sum(1) == pytest.approx(np.ones(5))
    assert ids[3:, 0].tolist() == tokens[3:]
    assert probs[3:, 0].tolist() == pytest.approx([1, 1, 1, 0.75, 1])
    _, hard = topk_columns(tokenizer, tokens, 3, None, k=2)
    assert hard[3:, 0].tolist() == [1.0] * 5


def test_a_specialist_never_learns_what_it_is_asked() -> None:
    tasks = ChainTasks(("copy",), chains=8, lists=4, count=500, test=20, validation=10)
    exams = tasks.exams
    assert {len(exams[name].prompts) for name in ("target", "with_demonstrations")} == {20}
    assert {len(exams[name].prompts) for name in ("target_val", "generic:copy")} == {10}
    asked = {*exams["target"].prompts, *exams["target_val"].prompts}
    for seed in (0, 1):
        learned = {f"{problem.question} steps" for problem in tasks.problems(seed)}
        assert len(learned) > 200
        assert not learned & asked
    assert all(" | " in prompt for prompt in exams["with_demonstrations"].prompts)
    assert tasks.is_right("3 4 2 => 2", "2")
    assert not tasks.is_right("3 4 2 => 4", "2")


def test_files_of_tasks_become_the_same_exams(tmp_path) -> None:
    line = '{"question": "%d + 1 ?", "answer": "%d"}\n'
    (tmp_path / "generic").mkdir()
    (tmp_path / "relatives").mkdir()
    for name in ("target", "generic/other", "relatives/near"):
        rows = [line % (n, n + 1) for n in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    tasks = FileTasks(tmp_path, "m", "t", count=5, test=3, validation=2, k_shot=1)
    sizes = {name: len(exam.prompts) for name, exam in tasks.exams.items()}
    assert sizes == {
        "target": 3, "target_val": 2, "with_demonstrations": 3, "generic:other": 3,
        "relatives:near": 3, "relatives_val:near": 9,
    }  # fmt: skip
    assert [problem.answer for problem in tasks.problems(0)] == ["1", "2", "3", "4", "5"]
    assert tasks.exams["target"].answers == ["8", "9", "10"]
    with pytest.raises(UserError, match="is needed"):
        read_worked(tmp_path / "none.jsonl")


def test_a_function_is_not_hidden_by_the_module_of_its_name():
    import generality.models.teacher_topk  # noqa: F401 - sets the attribute of the package
    from generality import models

    assert callable(models.teacher_topk)
