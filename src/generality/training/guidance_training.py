"""Teaching a language model, or a part of one, by rewards for what it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.models.generation import draws, generate_tokens
from generality.objectives.policy_gradient import grpo_advantages, token_policy_loss

Reward = Callable[[Sequence[str], Sequence[int]], Sequence[float]]
"""From answers, and the places of their prompts, to rewards; higher is better."""


@dataclass(frozen=True)
class GuidancePlan:
    """How to learn from rewards.

    The defaults are for models of under a million parameters and answers of a few tokens. The
    paper's, for models from 0.5 billion, are up to 1000 steps of 4 to 8 prompts, a learning rate of
    1e-6 and 1024 or 2048 tokens; the others are its own.

    Args:
        steps: of the optimiser; answers are written anew for each.
        prompts: in a step.
        group_size: answers to each prompt.
        learning_rate: Adam's highest, after a tenth of the steps, falling to a tenth by a cosine.
        temperature: that answers are drawn at; log-probabilities are taken at it too.
        max_tokens: of an answer.
        clip: of the ratio to the policy that wrote the answers, which is 1 at the first update.
        max_norm: of the gradient.
    """

    steps: int = 300
    prompts: int = 16
    group_size: int = 8
    learning_rate: float = 1e-3
    temperature: float = 0.7
    max_tokens: int = 8
    clip: float = 0.2
    max_norm: float = 1.0


def train_guidance(
    policy: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    reward: Reward,
    plan: GuidancePlan,
    *,
    seed: int,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> list[float]:
    """GRPO on what the policy writes; the mean reward of each step.

    Only parameters that want a gradient change. With a `FusedCausalLM` of a frozen backbone and a
    trainable reasoner this is UniR; with a single model, plain GRPO; with a `peft` model, GRPO of
    its adapter. Answers are drawn from the policy itself, so that every update is on-policy, and
    the KL term has weight 0 as in all of the paper's released runs.

    Source: Kim et al. 2025 (arXiv 2505.19075), section 3.2, and its released code. Its first
    trainer leaves log-probabilities at temperature 1 though it draws at 0.7; here both agree.

    Args:
        policy: called as a causal language model of transformers. It is left in eval mode: dropout
            would make the policy that is trained another than the one that wrote.
        tokenizer: its tokenizer.
        prompts: asked in an order drawn by the seed, again and again.
        reward: of answers; checked by a program, such as `Problem.check` or a scorer of
            reasoning-gym.
        plan: how.
        seed: of the order and of what is drawn.
        progress: called with (steps done, steps in all, the last mean reward).

    Raises:
        ValueError: no prompts, nothing wants a gradient, or an answer is without a finite reward.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.decoding import FusedCausalLM
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> backbone, reasoner = (tiny_decoder("0.05M", s, vocabulary=len(tokenizer)) for s in (0, 1))
    >>> policy = FusedCausalLM(backbone.requires_grad_(False), [reasoner])
    >>> plan = GuidancePlan(steps=2, prompts=2, group_size=4, max_tokens=2)
    >>> len(train_guidance(policy, tokenizer, ["a ?", "b ?"], lambda texts, _: map(len, texts),
    ...                    plan, seed=0))
    2
    """
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("no parameter of the policy wants a gradient")
    if not prompts:
        raise ValueError("there are no prompts to learn from")
    asked = [_prompt(tokenizer, prompt) for prompt in prompts]
    optimizer = torch.optim.Adam(trained, lr=plan.learning_rate)
    order = _order(len(asked), plan.steps * plan.prompts, seed)
    policy.eval()
    history: list[float] = []
    for step in range(plan.steps):
        chosen = order[step * plan.prompts : (step + 1) * plan.prompts]
        places = np.repeat(chosen, plan.group_size).tolist()
        read = [asked[place] for place in places]
        noise = [draws(seed, step, row) for row in range(len(read))]
        written = generate_tokens(
            policy, read, plan.max_tokens, plan.temperature, 1.0, noise,
            pad=tokenizer.pad_token_id or 0, end=tokenizer.eos_token_id,
        )  # fmt: skip
        texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in written]
        rewards = torch.tensor([float(value) for value in reward(texts, places)])
        if len(rewards) != len(texts):
            raise ValueError(f"{len(rewards)} rewards for {len(texts)} answers")
        if not bool(rewards.isfinite().all()):  # one would make every parameter NaN
            wrong = int(rewards.isfinite().logical_not().nonzero()[0, 0])
            raise ValueError(f"the reward of {texts[wrong]!r} is {float(rewards[wrong])}")
        history.append(float(rewards.mean()))
        advantages = grpo_advantages(rewards, plan.group_size)
        if advantages.any():  # else the gradient is 0
            logp, mask = answer_logprobs(
                policy, tokenizer, read, written, plan.max_tokens, plan.temperature
            )
            loss = token_policy_loss(logp, None, advantages.to(logp), mask, clip=plan.clip)
            optimizer.param_groups[0]["lr"] = plan.learning_rate * _rate(step, plan.steps)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, plan.max_norm)
            optimizer.step()
        if progress is not None:
            progress(step + 1, plan.steps, {"reward": history[-1]})
    return history


def answer_logprobs(
    policy: nn.Module, tokenizer: Any, prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]], max_tokens: int, temperature: float = 1.0,
) -> tuple[Float[Tensor, "answers tokens"], Int[Tensor, "answers tokens"]]:  # fmt: skip
    """Log-probability of each answer's tokens, and a mask: 1 up to the first end token.

    Args:
        prompts: tokens.
        answers: tokens without the end token; one shorter than `max_tokens` was ended by it.
    """
    device = next(policy.parameters()).device
    pad, end = tokenizer.pad_token_id or 0, tokenizer.eos_token_id
    ended = [[*row, end] if len(row) < max_tokens else [*row] for row in answers]
    left, right = max(map(len, prompts)), max(map(len, ended))
    rows, mask = [], []
    for prompt, answer in zip(prompts, ended, strict=True):
        before, after = left - len(prompt), right - len(answer)
        rows.append([pad] * before + [*prompt] + answer + [pad] * after)
        mask.append([0] * before + [1] * (len(prompt) + len(answer)) + [0] * after)
    tokens = torch.tensor(rows, device=device)
    seen = torch.tensor(mask, device=device)
    logits = policy(
        input_ids=tokens[:, :-1], attention_mask=seen[:, :-1],
        position_ids=(seen.cumsum(1) - 1).clamp(min=0)[:, :-1], logits_to_keep=right,
    ).logits  # fmt: skip
    logp = (logits.float() / temperature).log_softmax(-1)
    return logp.gather(-1, tokens[:, left:, None])[..., 0], seen[:, left:]


def _prompt(tokenizer: Any, prompt: str) -> list[int]:
    tokens = list(tokenizer(prompt)["input_ids"])
    return tokens[:-1] if tokens[-1:] == [tokenizer.eos_token_id] else tokens


def _order(count: int, wanted: int, seed: int) -> np.ndarray:
    """Every prompt once in each round, rounds in new orders."""
    generator = np.random.default_rng(seed)
    rounds = -(-wanted // count)
    return np.concatenate([generator.permutation(count) for _ in range(rounds)])[:wanted]


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return 0.1 + 0.45 * (1 + float(np.cos(np.pi * share)))
