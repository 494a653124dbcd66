"""Can a small reasoner, taught by rewards beside a frozen model, guide larger ones and be summed?

Protocol (Kim et al. 2025, arXiv 2505.19075). Two frozen backbones, a small and a large one, solve
tasks on strings of letters now and then. A reasoner, at first a copy of the small backbone, is
added to its logits, and GRPO on exact right answers trains the reasoner alone. Axis "own": greedy
accuracy beside the backbone (floor), GRPO of the whole backbone (ceiling), GRPO of an adapter, and
the reasoner by itself. Axis "transfer": the same reasoner beside the large backbone, which it never
met; floor that backbone, ceiling its own GRPO, control the reasoner before any training (which
sharpens and adds an opinion, but has learnt nothing). Axis "composed": two reasoners, one a task,
summed on the task of doing one after the other; floor the small backbone, ceiling its GRPO on that
very task. `auc` is how well the reasoner's own log-probability of whole answers that the backbone
drew tells right from wrong ones.

Differences from the paper, each with its effect: decoders of 0.05 and 0.15 million parameters and
letters instead of 0.5 to 14 billion and mathematics (answers of three letters, no reasoning in
words, so rewards are dense enough to learn from within a minute); an adapter of rank 4 on so narrow
a model is a large part of it (a stronger rival than LoRA is there); the large backbone was trained
on more of the same data, so both err on the same things (transfer has less to add).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from generality.benchmarks.gym_problems import gym_problems
from generality.benchmarks.worlds import compose, string_task, terse, world_tokenizer
from generality.claims import Claim, Row, greater, less
from generality.decoding import FusedCausalLM, StaticFusion
from generality.errors import UserError
from generality.estimators import GuidancePlan, train_guidance
from generality.lab import Lab, TrainConfig
from generality.lab.threads import threads
from generality.measures import response_logprob
from generality.models import generate_texts, load_model, load_tokenizer, tiny_decoder
from generality.studies.study import Paper

PAPER = Paper(
    "Universal Reasoner: A Single, Composable Plug-and-Play Reasoner for Frozen LLMs",
    arxiv="2505.19075",
    year=2025,
)


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    small: str = "0.05M"  # backbone the reasoner is taught beside: a `tiny_decoder`, or a model
    large: str = "0.15M"  # backbone it is carried over to
    reasoner: str = "0.05M"  # as `small` in the tiny case: it starts as a copy of it
    gym: bool = False  # tasks of reasoning-gym and models by name, instead of letters
    tasks: tuple[str, str] = ("reverse", "successor")  # that may follow each other
    length: int = 3  # letters
    small_lessons: int = 3000  # solved problems of both tasks that the small backbone read once
    large_lessons: int = 4000
    base_rate: float = 3e-3
    steps: int = 150  # of GRPO, for the reasoner and its rivals alike
    prompts: int = 8  # in a step
    group_size: int = 8  # answers to each
    learning_rate: float = 1e-3  # Adam's highest
    max_tokens: int = 6  # of an answer
    problems: int = 400  # that rewards are for
    test: int = 200
    half: float = 0.5  # weight of both reasoners in "both, half"
    drawn: int = 4  # answers of the backbone to each test problem, for `auc`
    seeds: int = 3

    def __post_init__(self) -> None:
        if not self.gym and self.reasoner != self.small:
            raise UserError("A tiny reasoner starts as a copy of the small backbone.")

    @property
    def plan(self) -> GuidancePlan:
        """How to learn from rewards."""
        names = ("steps", "prompts", "group_size", "learning_rate", "max_tokens")
        return GuidancePlan(**{name: getattr(self, name) for name in names})


SCALES = {
    "smoke": Config(
        large="0.05M", small_lessons=64, large_lessons=96, problems=12, test=8, seeds=1,
        steps=2, prompts=2, group_size=4, max_tokens=5, drawn=2,
    ),
    "small": Config(),
    "full": Config(
        small="hf:Qwen/Qwen2.5-3B-Instruct", large="hf:Qwen/Qwen2.5-14B-Instruct", gym=True,
        reasoner="hf:Qwen/Qwen2.5-0.5B-Instruct", tasks=("chain_sum", "simple_equations"),
        steps=1000, prompts=8, learning_rate=1e-6, max_tokens=1024, problems=7000,
        test=500,
    ),
}  # fmt: skip

OWN, TRANSFER, COMPOSED = {"axis": "own"}, {"axis": "transfer"}, {"axis": "composed"}
CLAIMS = (
    Claim(
        "A frozen backbone answers better with its reasoner",
        greater("unir", "floor", where=OWN),
        paper_says="65.6 to 77.5 on GSM8K with Llama-3.2 3B and 1B",
    ),
    Claim(
        "Better than after GRPO of an adapter",
        greater("unir", "adapter", where=OWN),
        paper_says="77.5 against 65.8",
    ),
    Claim(
        "And at least as well as after GRPO of the whole backbone",
        greater("unir", "ceiling", where=OWN),
        expected_at="full",
    ),
    Claim(
        "The reasoner improves a larger backbone that it never met",
        greater("unir", "floor", where=TRANSFER),
        paper_says="about 2.5 points on average from 3B to 14B",
    ),
    Claim(
        "By more than the same module does before it is taught",
        greater("unir", "untaught", where=TRANSFER),
    ),
    Claim(
        "Two reasoners together do a joint task better than the first alone",
        greater("both", "first", where=COMPOSED),
        paper_says="mathematics in German",
    ),
    Claim("And better than the second alone", greater("both", "second", where=COMPOSED)),
    Claim(
        "The reasoner's own log-probability tells right answers from wrong ones",
        greater("unir", 0.5, on="auc", where=OWN),
    ),
    Claim(
        "By itself it answers worse than together with the backbone",
        less("alone", "unir", where=OWN),
    ),
)

Weights = Mapping[str, Any]
Network = Callable[[int], Any]
Problems = tuple[str, int, int]
"""A task, how many, and the seed that draws them."""


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of the three axes, seed by seed."""
    count, config = config.seeds, replace(config, seeds=0)  # more seeds change no step
    tokenizer = load_tokenizer(config.small) if config.gym else world_tokenizer(config.tasks)
    networks = {
        size: functools.partial(network, getattr(config, size), config.gym, len(tokenizer))
        for size in ("small", "large", "reasoner")
    }
    small, large = (
        bases(config, lab, networks[size], tokenizer, size) for size in ("small", "large")
    )
    fresh = networks["reasoner"](0).state_dict() if config.gym else small
    joint = " ".join(config.tasks)
    for seed in lab.seeds(count):

        def teach(
            task: str, how: str, backbone: str, weights: Weights, seed: int = seed
        ) -> Weights:
            source = task, config.problems, seed + 1
            taught: Weights = lab.step(
                taught_weights, networks[backbone], weights, networks["reasoner"], fresh, how,
                tokenizer, config, source, seed,
            )  # fmt: skip
            return taught

        def try_on(
            task: str, backbone: str, weights: Weights | None, reasoners: Sequence[Weights] = (),
            alpha: float = 1.0,
        ) -> float:  # fmt: skip
            found: float = lab.step(
                accuracy, networks[backbone], weights, networks["reasoner"], list(reasoners), alpha,
                tokenizer, config, (task, config.test, 2**20),
            )  # fmt: skip
            return found

        taught = {task: teach(task, "reasoner", "small", small) for task in config.tasks}
        for task in config.tasks:
            auc = lab.step(
                told_apart, networks["small"], small, networks["reasoner"], taught[task], tokenizer,
                config, (task, config.test, 2**20), seed,
            )  # fmt: skip
            found = {
                "base": try_on(task, "small", small),
                "ceiling": try_on(task, "small", teach(task, "whole", "small", small)),
                "adapter": try_on(task, "small", teach(task, "adapter", "small", small)),
                "alone": try_on(task, "reasoner", taught[task]),
                "unir": try_on(task, "small", small, [taught[task]]),
            }
            yield from rows(found, axis="own", task=task, seed=seed, auc=auc)
            found = {
                "base": try_on(task, "large", large),
                "ceiling": try_on(task, "large", teach(task, "whole", "large", large)),
                "untaught": try_on(task, "large", large, [fresh]),
                "unir": try_on(task, "large", large, [taught[task]]),
            }
            yield from rows(found, axis="transfer", task=task, seed=seed)
        if not config.gym:
            first, second = (taught[task] for task in config.tasks)
            found = {
                "base": try_on(joint, "small", small),
                "ceiling": try_on(joint, "small", teach(joint, "whole", "small", small)),
                "first": try_on(joint, "small", small, [first]),
                "second": try_on(joint, "small", small, [second]),
                "both": try_on(joint, "small", small, [first, second]),
                "both, half": try_on(joint, "small", small, [first, second], config.half),
            }
            yield from rows(found, axis="composed", task=joint, seed=seed)


def rows(found: dict[str, float], *, auc: float | None = None, **shared: Any) -> Iterator[Row]:
    """One for each method."""
    for method, score in found.items():
        yield Row(
            method=method, score=score, floor=found["base"], ceiling=found["ceiling"],
            auc=auc if method == "unir" else None, **shared,
        )  # fmt: skip


def network(name: str, gym: bool, vocabulary: int, seed: int) -> Any:
    """A tiny decoder, or a model by name."""
    if gym:
        return load_model(name, device="auto", dtype=torch.bfloat16)
    return tiny_decoder(name, seed, vocabulary=vocabulary, context=32)


def bases(config: Config, lab: Lab, make: Network, tokenizer: Any, size: str) -> Weights:
    """Weights of a backbone: as they come, or after some lessons in both tasks."""
    if config.gym:
        weights: Weights = make(0).state_dict()
        return weights
    count = getattr(config, f"{size}_lessons") // len(config.tasks)
    solved = [
        (problem.prompt, terse(problem))
        for task in config.tasks for problem in problems(config, (task, count, 0))
    ]  # fmt: skip
    plan = TrainConfig(1, learning_rate=config.base_rate, warmup=0.1)
    return lab.sft(
        make, *zip(*solved, strict=True), tokenizer=tokenizer, config=plan, seed=0
    ).weights


def problems(config: Config, source: Problems) -> Sequence[Any]:
    """Problems with a prompt and a check, those of the test in no other set."""
    task, count, seed = source
    if config.gym:
        return gym_problems(task, count, seed << 14)  # it numbers on from the seed
    first, *then = (string_task(name) for name in task.split())
    whole = compose(first, then[0]) if then else first
    test = whole.sample(config.test, config.length, 2**20)
    if seed == 2**20:
        return test
    return whole.sample(count, config.length, seed, avoid={problem.prompt for problem in test})


def prompts(tokenizer: Any, asked: Sequence[Any]) -> list[str]:
    """What all models read: the questions, in the chat template where there is one."""
    if not getattr(tokenizer, "chat_template", None):
        return [problem.prompt for problem in asked]
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.prompt}], tokenize=False,
            add_generation_prompt=True,
        )
        for problem in asked
    ]  # fmt: skip


def loaded(make: Network, weights: Weights) -> Any:
    """A network with these weights, frozen."""
    model = make(0)
    model.load_state_dict(dict(weights))
    return model.eval().requires_grad_(False)


def taught_weights(
    backbone: Network, weights: Weights, reasoner: Network, fresh: Weights, how: str,
    tokenizer: Any, config: Config, source: Problems, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The memoised step: weights of a reasoner, or of a whole or adapted backbone, after GRPO."""
    asked = problems(config, source)
    body = loaded(backbone, weights)

    def reward(texts: Sequence[str], places: Sequence[int]) -> list[float]:
        return [float(asked[i].check(said)) for i, said in zip(places, texts, strict=True)]

    with threads(1):
        if how == "reasoner":
            part = loaded(reasoner, fresh).requires_grad_(True)
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
        train_guidance(policy, tokenizer, prompts(tokenizer, asked), reward, config.plan, seed=seed)
        if how == "adapter":
            part = policy.merge_and_unload()
    return {name: value.detach().cpu().clone() for name, value in part.state_dict().items()}


def accuracy(
    backbone: Network, weights: Weights, reasoner: Network, reasoners: list[Weights], alpha: float,
    tokenizer: Any, config: Config, source: Problems,
) -> float:  # fmt: skip
    """The memoised step: the share of problems answered right, greedily."""
    asked = problems(config, source)
    model = loaded(backbone, weights)
    if reasoners:
        parts = [loaded(reasoner, each) for each in reasoners]
        model = FusedCausalLM(model, parts, None, StaticFusion(alpha)).eval()
    with threads(1):
        texts = generate_texts(
            model, tokenizer, prompts(tokenizer, asked), max_tokens=config.plan.max_tokens
        )
    return float(np.mean([problem.check(text) for problem, text in zip(asked, texts, strict=True)]))


def told_apart(
    backbone: Network, weights: Weights, reasoner: Network, taught: Weights, tokenizer: Any,
    config: Config, source: Problems, seed: int,
) -> float | None:  # fmt: skip
    """The memoised step: area under the curve of a reasoner's log-probability of drawn answers."""
    asked = [problem for problem in problems(config, source) for _ in range(config.drawn)]
    given = prompts(tokenizer, asked)
    with threads(1):
        texts = generate_texts(
            loaded(backbone, weights), tokenizer, given, max_tokens=config.plan.max_tokens,
            temperature=1.0, seed=seed,
        )  # fmt: skip
        found = response_logprob(
            loaded(reasoner, taught), tokenizer, given, texts, reduce="sum"
        ).numpy()
    right = np.array([problem.check(text) for problem, text in zip(asked, texts, strict=True)])
    known = np.isfinite(found)
    if len(set(right[known])) < 2:
        return None
    return float(roc_auc_score(right[known], found[known]))
