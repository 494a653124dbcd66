"""Soft prompts, regulated gradients, meta-training and pseudo-tasks: GRAM's parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from generality.benchmarks import cluster_names, cluster_tasks
from generality.measures import base_to_new, harmonic_mean
from generality.modules import GradientRegulator, RegulatedOptimizer, SoftPrompt, gradient_cosine
from generality.training import MetaTask, adapt, meta_train


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=24,
        )
    )  # fmt: skip


def clip() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": 60, "max_position_embeddings": 24, "bos_token_id": 58, "eos_token_id": 59}
    vision = {"image_size": 16, "patch_size": 8}
    return CLIPModel(
        CLIPConfig(
            text_config={**sizes, **text, "intermediate_size": 32},
            vision_config={**sizes, **vision, "intermediate_size": 32},
            projection_dim=12,
        )
    )


NAMES = torch.tensor([[58, 7, 9, 59], [58, 8, 59, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.mark.parametrize("build", [bert, clip])
def test_a_prompt_made_of_words_equals_these_words(build):
    model = build()
    table = (model.text_model if build is clip else model).get_input_embeddings().weight
    prompt = SoftPrompt(model, num_tokens=2, init=table[[4, 5]])
    spelled = torch.cat([NAMES[:, :1], torch.tensor([[4, 5]]).expand(2, -1), NAMES[:, 1:]], 1)
    mask = torch.cat([torch.ones(2, 2, dtype=torch.long), MASK], 1)
    with torch.no_grad():
        if build is clip:
            expected = model.get_text_features(input_ids=spelled, attention_mask=mask)
            expected = getattr(expected, "pooler_output", expected)
        else:
            states = model(input_ids=spelled, attention_mask=mask).last_hidden_state
            expected = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    expected = expected / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(prompt(NAMES, MASK), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("build", [bert, clip])
def test_gradients_reach_the_prompt_only_and_tasks_do_not_mix(build):
    prompt = SoftPrompt(build(), num_tokens=3).train()
    assert not prompt.model.training
    dim = prompt(NAMES, MASK).shape[1]
    items = torch.randn(2, 5, dim)
    names, mask = NAMES.expand(2, -1, -1), MASK.expand(2, -1, -1)
    tokens = torch.stack([prompt.tokens, prompt.tokens + 0.5]).detach().requires_grad_()
    both = prompt.logits(items, names, mask, tokens, scale=10)
    alone = prompt.logits(items[0], NAMES, MASK, scale=10)
    torch.testing.assert_close(both[0], alone, atol=1e-4, rtol=1e-4)
    (gradient,) = torch.autograd.grad(both[0].square().sum(), tokens)
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0
    alone.sum().backward()
    assert [n for n, p in prompt.named_parameters() if p.grad is not None] == ["tokens"]


def test_soft_prompt_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="at least 1"):
        SoftPrompt(bert(), 0)
    with pytest.raises(ValueError, match="tokenizer"):
        SoftPrompt(bert(), init="a review of")
    with pytest.raises(ValueError, match=r"\(4, 16\)"):
        SoftPrompt(bert(), 4, init=torch.zeros(4, 15))
    with pytest.raises(ValueError, match="on the right"):
        SoftPrompt(bert())(NAMES, MASK.flip(1))
    with pytest.raises(ValueError, match="reads 24"):
        SoftPrompt(bert(), 22)(NAMES, MASK)


@given(st.integers(0, 50), st.integers(1, 2), st.sampled_from(["row_l2", "l2"]))
@settings(max_examples=15, deadline=None)
def test_regulated_gradients_keep_their_lengths(seed, layers, norm):
    torch.manual_seed(seed)
    regulator = GradientRegulator(6, rank=3, layers=layers, norm=norm)
    gradient = torch.randn(2, 4, 6) * 10.0 ** torch.randint(-4, 3, ())
    across = -1 if norm == "row_l2" else (-2, -1)
    closed = regulator.mix(gradient, torch.tensor(0.0))
    torch.testing.assert_close(
        closed.norm(dim=across), gradient.norm(dim=across), rtol=1e-5, atol=0
    )
    assert torch.equal(regulator.mix(gradient, torch.tensor(1.0)), gradient)


def test_mix_by_hand_and_what_an_empty_row_becomes():
    regulator = GradientRegulator(2, rank=1)
    gradient = torch.tensor([[3.0, 4.0]])
    regulator.transform = lambda g: torch.tensor([[1.0, 0.0]])
    assert regulator.mix(gradient, torch.tensor(0.25)).tolist() == [[4.5, 1.0]]
    regulator.transform = lambda g: torch.zeros(1, 2)
    assert regulator.mix(gradient, torch.tensor(0.25)).tolist() == [[3.0, 4.0]]
    released = GradientRegulator(2, rank=1, released_behaviour=True)
    released.transform = regulator.transform
    assert released.mix(gradient, torch.tensor(0.25)).tolist() == [[0.75, 1.0]]


def test_the_released_relu_can_turn_against_the_gradient_and_ours_starts_downhill():
    gradient = -torch.rand(1, 4, 16)
    released = GradientRegulator(16, rank=8, released_behaviour=True)
    with torch.no_grad():
        released.up[-1].bias.fill_(0.5)
    assert gradient_cosine(released.mix(gradient, torch.tensor(0.0)), gradient).item() < 0
    ours = GradientRegulator(16, rank=8)
    assert gradient_cosine(ours(gradient), gradient).item() > 0.5


def test_a_gate_needs_its_context_and_starts_open_by_half():
    regulator = GradientRegulator(4, rank=2, gate_dim=3)
    gradient = torch.randn(5, 2, 4)
    with pytest.raises(ValueError, match="context"):
        regulator(gradient)
    half = regulator.mix(gradient, torch.tensor(0.5))
    torch.testing.assert_close(regulator(gradient, torch.randn(5, 3)), half)


def test_regulated_optimizer_steps_along_the_regulated_gradient_and_follows_schedules():
    prompt, other = nn.Parameter(torch.ones(2, 4)), nn.Parameter(torch.ones(3))
    regulator = GradientRegulator(4, rank=2)
    base = torch.optim.SGD([prompt, other], lr=0.1)
    optimizer = RegulatedOptimizer(base, regulator)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    goal = torch.randn(2, 4)
    (prompt * goal).sum().backward()
    other.grad = torch.ones(3)
    optimizer.step()
    with torch.no_grad():
        expected = 1 - 0.1 * regulator(goal)
    torch.testing.assert_close(prompt.detach(), expected)
    assert other.tolist() == pytest.approx([0.9] * 3)  # another width: left alone
    assert len(optimizer.cosines) == 1
    schedule.step()
    assert base.param_groups[0]["lr"] == pytest.approx(0.05)
    optimizer.zero_grad()
    assert prompt.grad is None
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is base.param_groups


def test_a_prompt_in_half_precision_keeps_its_own():
    prompt = nn.Parameter(torch.ones(2, 4, dtype=torch.bfloat16))
    optimizer = RegulatedOptimizer(torch.optim.SGD([prompt], lr=0.1), GradientRegulator(4, rank=2))
    (prompt * torch.arange(4.0)).sum().backward()
    optimizer.step()
    assert prompt.grad.dtype == torch.bfloat16
    assert optimizer.cosines[0] > 0


def toy(prompts: Tensor) -> Tensor:
    return (prompts**4).sum((1, 2))


def shifted(prompts: Tensor) -> Tensor:
    return ((prompts - 0.3) ** 2).sum((1, 2))


@pytest.mark.parametrize("first_order", [True, False])
def test_without_a_regulator_the_outer_gradient_is_that_of_maml(first_order):
    start = nn.Parameter(torch.tensor([[0.5, -0.25]]))
    before = start.detach().clone()
    inner = before - 0.1 * 4 * before**3
    expected = 2 * (inner - 0.3)
    if not first_order:
        expected = expected * (1 - 0.1 * 12 * before**2)
    meta_train(
        start, None, lambda _: MetaTask(toy, shifted, 1), inner_lr=0.1, outer_steps=1,
        first_order=first_order, clip=1e9,
    )  # fmt: skip
    torch.testing.assert_close(start.grad, expected)


def test_only_what_asks_for_gradients_learns_and_cosines_are_kept():
    torch.manual_seed(0)
    start = nn.Parameter(torch.ones(2, 4), requires_grad=False)
    regulator = GradientRegulator(4, rank=2)
    first = regulator.up[0].weight.detach().clone()
    history = meta_train(
        start, regulator, lambda _: MetaTask(shifted, shifted, 3), inner_lr=0.1, outer_steps=30,
        outer_lr=0.05, inner_steps=2,
    )  # fmt: skip
    assert torch.equal(start, torch.ones(2, 4))
    assert not torch.equal(regulator.up[0].weight, first)
    assert history.losses[-1] < history.losses[0]
    assert len(history.cosines) == 30
    assert all(-1 <= cosine <= 1 for cosine in history.cosines)
    with pytest.raises(ValueError, match="neither"):
        meta_train(start, None, lambda _: MetaTask(shifted, shifted), inner_lr=0.1)


def test_adapting_without_gradients_keeps_no_graph():
    with torch.no_grad():
        path = list(adapt(shifted, torch.ones(1, 1, 2), None, steps=3, learning_rate=0.5))
    assert not path[-1][0].requires_grad
    assert path[-1][0].tolist() == [[pytest.approx([0.3, 0.3])]]
    assert path[0][1] == pytest.approx(1.0)


def test_pseudo_tasks_shift_their_query_to_other_topics():
    rng = np.random.default_rng(0)
    kinds, topics = rng.normal(size=(4, 16)), 4 * rng.normal(size=(3, 16))
    kind, topic = np.tile(np.arange(4), 90), np.repeat(np.arange(3), 120)
    data = kinds[kind] + topics[topic] + 0.05 * rng.normal(size=(360, 16))
    sizes = {"levels": (3, 4), "ways": 3, "shots": 4, "queries": 6}
    tasks = cluster_tasks(data, **sizes)
    right = []
    for _ in range(5):
        episode = tasks.sample(rng)
        inside, outside = tasks.topics[episode.support], tasks.topics[episode.query]
        assert len(np.unique(inside)) == 1
        assert inside[0, 0] not in outside
        right.append((kind[episode.query] == kind[episode.support[:, :1]]).mean())
    assert np.mean(right) > 0.9  # the same kinds of things, in other topics
    same = cluster_tasks(data, query_shift="none", **sizes).sample(rng)
    assert not set(same.query.ravel()) & set(same.support.ravel())
    assert len(cluster_tasks(data, data[:, ::-1], **sizes).names) == 12


def test_names_are_the_words_of_a_cluster_without_those_left_out():
    texts = ["goal match goal", "match goal", "stock market", "market stock stock"]
    classes = np.array([0, 0, 1, 1])
    assert cluster_names(texts, classes, words=1) == ("goal", "stock")
    assert cluster_names(texts, classes, words=1, leave_out=["the goals"]) == ("match", "stock")
    with pytest.raises(ValueError, match="too few"):
        cluster_tasks(np.ones((5, 2)))
    with pytest.raises(ValueError, match="ways"):
        cluster_tasks(np.ones((500, 2)), ways=6)


def test_base_to_new_and_harmonic_mean():
    assert harmonic_mean(0.6934, 0.7422) == pytest.approx(0.7170, abs=5e-5)  # CLIP, as published
    assert harmonic_mean(0.5, 0.0) == 0
    scores = np.eye(4)[[0, 0, 2, 3, 0]] + 0.1 * np.eye(4)[[1, 1, 1, 1, 3]]
    found = base_to_new(scores, np.array([0, 1, 2, 3, 3]), base=[0, 1])
    assert (found.base, found.new) == (0.5, 1.0)
    assert found.harmonic_mean == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="items"):
        base_to_new(scores, np.zeros(5, int), base=[0])
