"""Policy gradient by the sheet's numbers, and guidance that learns from rewards alone."""

from __future__ import annotations

import pytest
import torch

from generality.benchmarks.worlds import world_tokenizer
from generality.decoding import FusedCausalLM
from generality.models import generate_texts, tiny_decoder
from generality.objectives import grpo_advantages, token_policy_loss
from generality.training import GuidancePlan, train_guidance
from generality.training.guidance_training import answer_logprobs

TOKENIZER = world_tokenizer()


def test_advantages_by_the_numbers():
    rewards = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1])
    found = grpo_advantages(torch.cat([rewards, torch.ones(8)]), 8)
    expected = torch.where(rewards > 0, 1.2074, -0.7244)
    torch.testing.assert_close(found[:8], expected, atol=1e-4, rtol=0)
    assert not found[8:].any()
    biased = grpo_advantages(rewards, 8, unbiased=False, eps=0.0)
    assert float(biased[0]) == pytest.approx(0.625 / 0.234375**0.5)
    for wrong in (1, 3):
        with pytest.raises(ValueError, match="no groups"):
            grpo_advantages(rewards, wrong)


def test_the_gradient_reaches_the_reasoner_only():
    backbone = torch.tensor([[[1.0, 0, -1]]], requires_grad=True)
    reasoner = torch.tensor([[[0.2, 0.5, 0]]], requires_grad=True)
    logp = (backbone.detach() + reasoner).log_softmax(-1)
    assert logp.exp().flatten().tolist() == pytest.approx([0.6221, 0.3089, 0.0689], abs=1e-4)
    token_policy_loss(logp[..., 1], None, torch.tensor([1.2074]), torch.ones(1, 1)).backward()
    assert reasoner.grad.flatten().tolist() == pytest.approx([0.7511, -0.8344, 0.0832], abs=1e-4)
    assert backbone.grad is None


def test_clipping_and_normalising():
    logp = torch.log(torch.tensor([[0.9, 0.5], [0.1, 0.5]])).requires_grad_()
    old, gains = torch.full((2, 2), 0.5).log(), torch.tensor([1.0, -1.0])
    mask = torch.tensor([[1.0, 1], [1, 0]])
    # ratios 1.8, 1; 0.2: clipped to 1.2 for the gain, to 0.8 for the loss
    loss = token_policy_loss(logp, old, gains, mask)
    assert loss.item() == pytest.approx(-(1.2 + 1 - 0.8) / 3)
    by_answer = token_policy_loss(logp, old, gains, mask, normalize="answer")
    assert by_answer.item() == pytest.approx(-((1.2 + 1) / 2 - 0.8) / 2)
    loss.backward()
    assert logp.grad[0, 0] == 0  # beyond the clip
    assert logp.grad[1, 1] == 0  # masked
    assert logp.grad[0, 1] < 0
    with pytest.raises(ValueError, match="'token' or 'answer'"):
        token_policy_loss(logp, old, gains, mask, normalize="sum")


def test_answers_in_a_padded_batch_have_the_probabilities_they_have_alone():
    model = tiny_decoder("0.05M", 0, vocabulary=len(TOKENIZER))
    prompts, answers = [[1, 5, 9], [1, 7]], [[8, 9], [6, 4, 3]]
    logp, mask = answer_logprobs(model, TOKENIZER, prompts, answers, 3, 0.7)
    assert mask.tolist() == [[1, 1, 1], [1, 1, 1]]  # the first answer ends, the second is cut
    tokens = torch.tensor([[1, 5, 9, 8, 9, 2]])
    alone = (model(tokens).logits[0, 2:5] / 0.7).log_softmax(-1)
    expected = alone[range(3), [8, 9, 2]]
    torch.testing.assert_close(logp[0], expected, atol=1e-4, rtol=1e-4)


def test_a_reasoner_learns_to_do_what_is_rewarded():
    parts = [tiny_decoder("0.05M", seed, vocabulary=len(TOKENIZER)) for seed in (0, 1)]
    before = [value.clone() for value in parts[0].parameters()]
    policy = FusedCausalLM(parts[0].requires_grad_(False), [parts[1]])
    plan = GuidancePlan(
        steps=25, prompts=2, group_size=8, learning_rate=3e-3, temperature=1.0, max_tokens=3
    )

    def reward(texts, places):
        return [sum(word.isdigit() for word in text.split()) for text in texts]

    history = train_guidance(policy, TOKENIZER, ["a ?", "b ?"], reward, plan, seed=0)
    assert sum(history[-5:]) > sum(history[:5]) + 2
    assert all(map(torch.equal, before, parts[0].parameters()))
    (text,) = generate_texts(policy, TOKENIZER, ["a ?"], max_tokens=3)
    assert any(word.isdigit() for word in text.split())
    with pytest.raises(ValueError, match="wants a gradient"):
        train_guidance(parts[0], TOKENIZER, ["a ?"], reward, plan, seed=0)
    with pytest.raises(ValueError, match="0 rewards for 16"):
        train_guidance(policy, TOKENIZER, ["a ?"], lambda *_: [], plan, seed=0)
    with pytest.raises(ValueError, match="is nan"):
        train_guidance(
            policy, TOKENIZER, ["a ?"], lambda texts, _: [float("nan")] * len(texts), plan, seed=0
        )
    with pytest.raises(ValueError, match="no prompts"):
        train_guidance(policy, TOKENIZER, [], reward, plan, seed=0)


def test_equal_rewards_change_nothing():
    model = tiny_decoder("0.05M", 0, vocabulary=len(TOKENIZER))
    before = [value.clone() for value in model.parameters()]
    plan = GuidancePlan(steps=2, prompts=1, group_size=2, max_tokens=2)
    train_guidance(model, TOKENIZER, ["a ?"], lambda texts, _: [1.0] * len(texts), plan, seed=0)
    assert all(map(torch.equal, before, model.parameters()))
