"""Solvers of problems with checked answers: taught by rewards, alone or beside a frozen model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from generality.benchmarks.gym_problems import gym_problems
from generality.benchmarks.worlds import compose, string_task
from generality.decoding import FusedCausalLM, StaticFusion
from generality.lab import Lab
from generality.lab.threads import threads
from generality.measures import response_logprob
from generality.models import generate_texts
from generality.training.guidance_training import GuidancePlan, train_guidance

Weights = Mapping[str, Any]
Network = Callable[[int], Any]
"""From a seed to a causal language model."""

_TEST = 2**20  # the seed of test problems


@dataclass(frozen=True)
class CheckedProblems:
    """Problems by the name of their task, each with a prompt and a check.

    Attributes:
        test: how many are kept for testing, the same for all seeds and in no other set.
        length: letters in a list. Two tasks in one name ("reverse successor") are done one after
            the other.
        gym: tasks are those of reasoning-gym instead.

    >>> world = CheckedProblems(test=5)
    >>> [problem.prompt for problem in world.draw("reverse successor", 1, seed=0)]
    ['reverse successor : d h a ?']
    """

    test: int = 200
    length: int = 3
    gym: bool = False

    def draw(self, task: str, count: int, seed: int) -> Sequence[Any]:
        """Problems to learn from."""
        return self._drawn(task, count, seed)

    def tests(self, task: str) -> Sequence[Any]:
        """Problems to test on."""
        return self._drawn(task, self.test, _TEST)

    def _drawn(self, task: str, count: int, seed: int) -> Sequence[Any]:
        if self.gym:
            return gym_problems(task, count, seed << 14)  # it numbers on from the seed
        first, *then = (string_task(name) for name in task.split())
        whole = compose(first, then[0]) if then else first
        test = whole.sample(self.test, self.length, _TEST)
        if seed == _TEST:
            return test
        avoid = {problem.prompt for problem in test}
        return whole.sample(count, self.length, seed, avoid=avoid)


@dataclass
class GuidedSolvers:
    """Teaches and tries models on checked problems, every result kept by the lab.

    Attributes:
        lab: keeps what was done.
        networks: models by size, "reasoner" among them.
        fresh: weights that a reasoner starts from.
        tokenizer: of all.
        world: where problems come from.
        plan: how to learn from rewards.
        problems: that rewards are for.

    Source: Kim et al. 2025 (arXiv 2505.19075).
    """

    lab: Lab
    networks: Mapping[str, Network]
    fresh: Weights
    tokenizer: Any
    world: CheckedProblems
    plan: GuidancePlan
    problems: int = 400

    def teach(
        self, task: str, how: Literal["reasoner", "whole", "adapter"], size: str, weights: Weights,
        seed: int,
    ) -> Weights:  # fmt: skip
        """Weights after GRPO: of a reasoner beside this model, of the model, or of it adapted."""
        taught: Weights = self.lab.step(
            _taught, self.networks[size], weights, self.networks["reasoner"], self.fresh, how,
            self.tokenizer, self.world, task, self.problems, self.plan, seed,
        )  # fmt: skip
        return taught

    def accuracy(
        self, task: str, size: str, weights: Weights, reasoners: Sequence[Weights] = (),
        alpha: float = 1.0,
    ) -> float:  # fmt: skip
        """Share of the test problems answered right, greedily; `alpha` is the reasoners' weight."""
        found: float = self.lab.step(
            _accuracy, self.networks[size], weights, self.networks["reasoner"], list(reasoners),
            alpha, self.tokenizer, self.world, task, self.plan.max_tokens,
        )  # fmt: skip
        return found

    def told_apart(
        self, task: str, size: str, weights: Weights, reasoner: Weights, drawn: int, seed: int
    ) -> float | None:
        """How well a reasoner's log-probability tells right answers from wrong ones.

        The area under the curve over `drawn` answers of the model to each test problem; None where
        all are right, or wrong.
        """
        found: float | None = self.lab.step(
            _told_apart, self.networks[size], weights, self.networks["reasoner"], reasoner,
            self.tokenizer, self.world, task, self.plan.max_tokens, drawn, seed,
        )  # fmt: skip
        return found


def _asked(tokenizer: Any, problems: Sequence[Any]) -> list[str]:
    """What all models read: the questions, in the chat template where there is one."""
    if not getattr(tokenizer, "chat_template", None):
        return [problem.prompt for problem in problems]
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.prompt}], tokenize=False,
            add_generation_prompt=True,
        )
        for problem in problems
    ]  # fmt: skip


def _loaded(make: Network, weights: Weights) -> Any:
    """A network with these weights, frozen."""
    model = make(0)
    model.load_state_dict(dict(weights))
    return model.eval().requires_grad_(False)


def _taught(
    backbone: Network, weights: Weights, reasoner: Network, fresh: Weights, how: str,
    tokenizer: Any, world: CheckedProblems, task: str, count: int, plan: GuidancePlan, seed: int,
) -> dict[str, Any]:  # fmt: skip
    problems = world.draw(task, count, seed + 1)
    body = _loaded(backbone, weights)

    def reward(texts: Sequence[str], places: Sequence[int]) -> list[float]:
        return [float(problems[i].check(said)) for i, said in zip(places, texts, strict=True)]

    with threads(1):
        if how == "reasoner":
            part = _loaded(reasoner, fresh).requires_grad_(True)
            policy: Any = FusedCausalLM(body, [part])
        elif how == "adapter":
            from peft import LoraConfig, get_peft_model

            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                policy = get_peft_model(
                    body, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
                )
        else:
            part = policy = body.requires_grad_(True)
        train_guidance(policy, tokenizer, _asked(tokenizer, problems), reward, plan, seed=seed)
        if how == "adapter":
            part = policy.merge_and_unload()
    return {name: value.detach().cpu().clone() for name, value in part.state_dict().items()}


def _accuracy(
    backbone: Network, weights: Weights, reasoner: Network, reasoners: list[Weights], alpha: float,
    tokenizer: Any, world: CheckedProblems, task: str, max_tokens: int,
) -> float:  # fmt: skip
    problems = world.tests(task)
    model = _loaded(backbone, weights)
    if reasoners:
        parts = [_loaded(reasoner, each) for each in reasoners]
        model = FusedCausalLM(model, parts, None, StaticFusion(alpha)).eval()
    with threads(1):
        texts = generate_texts(model, tokenizer, _asked(tokenizer, problems), max_tokens=max_tokens)
    right = [problem.check(text) for problem, text in zip(problems, texts, strict=True)]
    return float(np.mean(right))


def _told_apart(
    backbone: Network, weights: Weights, reasoner: Network, taught: Weights, tokenizer: Any,
    world: CheckedProblems, task: str, max_tokens: int, drawn: int, seed: int,
) -> float | None:  # fmt: skip
    from sklearn.metrics import roc_auc_score  # slow to import

    problems = [problem for problem in world.tests(task) for _ in range(drawn)]
    asked = _asked(tokenizer, problems)
    with threads(1):
        texts = generate_texts(
            _loaded(backbone, weights), tokenizer, asked, max_tokens=max_tokens, temperature=1.0,
            seed=seed,
        )  # fmt: skip
        found = response_logprob(
            _loaded(reasoner, taught), tokenizer, asked, texts, reduce="sum"
        ).numpy()
    right = np.array([problem.check(text) for problem, text in zip(problems, texts, strict=True)])
    known = np.isfinite(found)
    if len(set(right[known])) < 2:
        return None
    return float(roc_auc_score(right[known], found[known]))
