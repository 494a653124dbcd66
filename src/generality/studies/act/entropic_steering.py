"""Entropic steering: can a direction in activations make an overconfident bandit player doubt?

Protocol (Rahn et al. 2024, arXiv 2406.00244). A language model plays a two-armed bandit in text:
it thinks, then names an arm. Asked many times at one prompt, its answers give the entropy of its
action. In runs with equal arms, activations at the last token of each prompt are weighted by that
entropy and centred within the run: EAST's vector. It is added to each new token's activation while
the player thinks. `score` is the entropy of the action at held-out prompts of other bandits. Floor:
unsteered. Ceiling: Thompson sampling by Bayes' rule on the same histories. Strengths (of the vector
and of the temperature) are the largest in a grid at which 90 % of answers at the runs' own prompts
are valid. Controls: the vector shuffled, a random one of its length, and one without centring.

Differences from the paper, each with its effect: the player is a decoder of 0.15M parameters,
trained here to imitate Thompson samplers of which most believe too firmly (Mixtral-8x7B is
overconfident by itself; this one by construction, but it has seen doubt); its thought is a guess of
each arm's mean, so doubt shows before the arm is named, and temperature acts on the thought too; 8
rounds instead of 50; words of uncertainty cannot be counted. `full` plays with a chat model of
your own in the paper's words. Entropies from few answers are biased low, all alike. A small known
model (`model=smollm2-135m`, in words) is not asked but read (`samples=0`, `answers=0`): the
probabilities of the two names are exact, and nothing is thought before them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from generality.agents.bandit_player import (
    BanditPlayer,
    random_history,
    thompson_entropy,
    thompson_lessons,
)
from generality.agents.text_bandit import TextBandit
from generality.benchmarks.worlds import world_tokenizer
from generality.claims import Claim, Row, equivalent, greater, less
from generality.decoding.steering_hook import SteeringHook
from generality.decoding.steering_vector import (
    collect_activations,
    random_control,
    shuffled_control,
    weighted_steering_vector,
)
from generality.lab import Lab, TrainConfig
from generality.measures import action_entropy
from generality.models import load_model, load_tokenizer, tiny_decoder
from generality.studies.study import Paper

PAPER = Paper(
    "Controlling Large Language Model Agents with Entropic Activation Steering",
    arxiv="2406.00244", year=2024,
)  # fmt: skip
FACTORS = ("panel", "phase", "push")

PRIOR = {"prior_mean": 10.0, "prior_sd": 4.0}


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    model: str = "0.15M"  # a size of `tiny_decoder`, trained here, or a chat model's name
    styles: tuple[str, str] = ("letters", "other-letters")  # played, and transferred to
    examples: int = 20_000  # decisions that a player imitates; after 8,000 it only guesses
    epochs: float = 3
    learning_rate: float = 4e-3  # AdamW, batch 32, cosine to 0
    firm: float = 0.7  # share of teachers that are too sure
    firmness: float = 0.3  # what those multiply their standard deviation of beliefs by
    sd: float = 3.0  # of rewards, which lie in 0 to 20
    rounds: int = 8
    runs: int = 16  # with equal arms, for the vector
    samples: int = 20  # answers to each prompt of them; 0: probabilities are read instead
    prompts: int = 60  # held out
    answers: int = 15  # to each of those; likewise
    layer: int = 1  # whose output is steered
    betas: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    temperatures: tuple[float, ...] = (1.25, 1.5, 2.0, 3.0)
    valid: float = 0.9  # share of valid answers that a strength must keep
    max_tokens: int = 4
    seeds: int = 3


SCALES = {
    "smoke": Config(
        model="0.05M", examples=64, epochs=1, runs=2, rounds=3, samples=3, prompts=3, answers=3,
        betas=(1.0,), temperatures=(1.5,), valid=0.0, seeds=2,
    ),
    "small": Config(),
    "full": Config(
        model="hf:mistralai/Mistral-7B-Instruct-v0.3", styles=("buttons", "slots"), sd=10.0,
        rounds=50, runs=65, samples=25, prompts=100, layer=16, betas=tuple(range(1, 10)),
        temperatures=(1.1, 1.2, 1.3, 1.4, 1.5), max_tokens=120, seeds=3,
    ),
}  # fmt: skip

HELD = {"panel": "held-out"}
CLAIMS = (
    Claim("A player is more certain than Bayes' rule allows", less("none", "ceiling", where=HELD)),
    Claim("Its entropy falls within a run, though the arms are equal",
          less("late", "early", by="phase", where={"panel": "runs"})),
    Claim("EAST makes it less certain", greater("east", "floor", where=HELD)),
    Claim("It does more than temperature, as many answers being valid",
          greater("east", "temperature", where=HELD), expected_at="full"),
    Claim("The direction matters: it does more than the same numbers in another order",
          greater("east", "shuffled", where=HELD)),
    Claim("Those have no effect", equivalent("shuffled", "floor", margin=0.05, where=HELD)),
    Claim("It does more than a random direction of its length",
          greater("east", "random", where=HELD)),
    Claim("Centring within runs is needed", greater("east", "uncentred", where=HELD)),
    Claim("The vector works under another description of the task",
          greater("east", "floor", where={"panel": "other words"})),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Every seed: a player, its vector, and all ways to make it doubt."""
    if not config.model[0].isdigit():
        lab.fetch(config.model)
    for rows in lab.map(arms, [(config, seed) for seed in lab.seeds(config.seeds)],
                        description="Playing"):  # fmt: skip
        yield from rows


def arms(lab: Lab, item: tuple[Config, int]) -> list[Row]:
    """One player."""
    config, seed = item
    weights: dict[str, Tensor] = {}
    if config.model[0].isdigit():
        prompts, responses = thompson_lessons(
            config.examples, config.styles, np.random.default_rng([seed, 0]), sd=config.sd,
            rounds=config.rounds, firm=config.firm, firmness=config.firmness, **PRIOR,
        )  # fmt: skip
        tokenizer = world_tokenizer()
        weights = lab.sft(
            functools.partial(tiny_decoder, config.model, vocabulary=len(tokenizer)),
            prompts, responses, tokenizer=tokenizer, seed=seed,
            config=TrainConfig(
                epochs=config.epochs, batch_size=32, learning_rate=config.learning_rate,
                optimizer="adamw", weight_decay=0.1, warmup=0.1, max_grad_norm=1.0,
            ),
        ).weights  # fmt: skip
    rows = lab.step(played, config, weights, seed)
    return [Row(**row) for row in rows if row["score"] is not None]  # None: no answer was valid


def played(config: Config, weights: dict[str, Tensor], seed: int) -> list[dict[str, Any]]:
    """Runs with equal arms, the vector, and entropies at held-out prompts."""
    if weights:
        tokenizer: Any = world_tokenizer()
        model: nn.Module = tiny_decoder(config.model, vocabulary=len(tokenizer))
        model.load_state_dict(weights)
    else:
        model, tokenizer = load_model(config.model), load_tokenizer(config.model)
    player = BanditPlayer(
        model.eval(), tokenizer, rounds=config.rounds, max_tokens=config.max_tokens
    )
    words = config.styles[0]
    equal = [
        TextBandit((10.0, 10.0), config.sd, rounds=config.rounds, bounds=(0, 20), style="letters")
        for _ in range(config.runs)
    ]
    histories, entropies, runs = player.play(equal, words, config.samples, seed)
    tokens = player.tokens(histories, words, read=not config.samples)
    states = collect_activations(model, tokens, [config.layer])[0]
    known = np.nan_to_num(entropies)
    known = known if known.any() else np.ones_like(known)  # no doubt, no direction: centred, 0
    east = weighted_steering_vector(states, known, runs)
    vectors = {
        "east": east, "shuffled": shuffled_control(east, seed=seed),
        "random": random_control(east, seed=seed),
        "uncentred": weighted_steering_vector(states, known, runs, center="none"),
    }  # fmt: skip
    tried = histories[:: max(1, len(histories) // config.prompts)]

    def counts(
        histories: list[Any], style: str, drawn: int, vector: Tensor | None = None,
        beta: float = 0.0, temperature: float = 1.0,
    ) -> np.ndarray:  # fmt: skip
        hook = SteeringHook(model, config.layer, vector, beta) if vector is not None else None
        return player.counts(
            histories, style, config.answers, drawn, steered=hook, temperature=temperature
        )

    def strongest(grid: Sequence[float], **options: Any) -> float:
        kept = 0.0
        for strength in grid:
            settings: dict[str, Any] = {
                name: strength if value is ... else value for name, value in options.items()
            }
            table = counts(tried, words, seed, **settings)
            kept = strength if table[:, :2].sum() >= config.valid * table.sum() else kept
        return kept

    methods: dict[str, dict[str, Any]] = {"none": {}}
    heat = strongest(config.temperatures, temperature=...) or 1.0
    methods["temperature"] = {"temperature": heat}
    beta = strongest(config.betas, vector=east, beta=...)
    for name, vector in vectors.items():
        strength = strongest(config.betas, vector=vector, beta=...) if name == "uncentred" else beta
        methods[name] = {"vector": vector, "beta": strength}
    early = np.array([len(history) < config.rounds / 2 for history in histories])
    rows: list[dict[str, Any]] = [
        {"method": "none", "seed": seed, "panel": "runs", "phase": phase,
         "score": mean(entropies[which])}
        for phase, which in (("early", early), ("late", ~early))
    ]  # fmt: skip
    rng = np.random.default_rng([seed, 2])
    held = [random_history(rng, sd=config.sd, rounds=config.rounds) for _ in range(config.prompts)]
    ceiling = float(np.mean([thompson_entropy(each, sd=config.sd, **PRIOR) for each in held]))
    size = float(states.norm(dim=-1).mean())
    for panel, style in (("held-out", words), ("other words", config.styles[1])):
        floor = None
        for name, options in methods.items():
            table = counts(held, style, seed + 1, **options)
            found = [action_entropy(row[:2]) for row in table]
            score = mean(np.array(found))
            floor = score if name == "none" else floor
            pushed = options["beta"] * options["vector"].norm().item() if "beta" in options else 0.0
            rows.append(
                {"method": name, "seed": seed, "panel": panel, "score": score, "floor": floor,
                 "ceiling": ceiling, "answered": float(table[:, :2].sum() / table.sum()),
                 "push": pushed / size}
            )  # fmt: skip
    return rows


def mean(values: np.ndarray) -> float | None:
    """Of those that are numbers; None without any."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
