"""Do weights chosen at every token carry small experts' skill into a large model better than fixed?

Protocol (Fan et al. 2024, arXiv 2406.15480). A small and a large base solve chains of sums, the
large one better; both have read some in other formats, unasked, and do not know those by name. A
copy of the small base is tuned on each format and becomes its expert. The large base then writes
with its logits moved as the expert moved from the small base: with weight 1 ("proxy"), another
fixed one ("alpha 0.5"), the fixed one that is best on validation ("tuned alpha", the trivial
control), or one chosen at every token so that it moves as far as the expert did ("dynamic").
Setting "single": one format, its own expert; "another expert" gets the next format's, as a control.
Setting "multi": all experts at once, on the formats they know ("seen") and on the one that the
bases use ("unseen"), beside one small model tuned on all formats. Floor: the large base. Ceiling:
the large base tuned on the same data. The score is the share of responses written exactly right,
greedily; there is one right response, so reading it with the true tokens before each says whether
it would be written.

Differences from the paper, each with its effect: decoders of 0.05 and 0.25 million parameters, and
formats of one skill, instead of 1.1 to 13 billion and five benchmarks (what the expert adds is the
format, what the large model adds is the sums: the case that fusion is made for); three experts
instead of four; the unseen task is what the bases were trained on (more to lose than MMLU);
"proxy" in the multi setting gives every expert the same share of weight 1. With `varied=0` the
bases never see the formats, and are certain of the usual one (the first attempt).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from generality.benchmarks.task_files import TaskFiles
from generality.benchmarks.worlds import world_tokenizer
from generality.benchmarks.worlds.chain_formats import FormattedChains, Pairs
from generality.claims import Claim, Row, equivalent, greater, less
from generality.decoding import (
    Foreseen,
    FusedCausalLM,
    FusionStrategy,
    KLMatchedFusion,
    StaticFusion,
    teacher_forced,
)
from generality.errors import UserError
from generality.gap import ratio_to_ceiling
from generality.lab import Lab, TrainConfig
from generality.lab.threads import threads
from generality.models import load_tokenizer, tiny_decoder
from generality.models.load import published
from generality.studies.study import Paper

PAPER = Paper(
    "On Giant's Shoulders: Effortless Weak to Strong by Dynamic Logits Fusion",
    arxiv="2406.15480",
    year=2024,
)
FACTORS = ("task", "setting")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    large: str = "0.25M"  # a size of `tiny_decoder`; with data_path a model's name
    small: str = "0.05M"  # likewise
    data_path: str | None = None  # folder with <task>.train.jsonl and <task>.test.jsonl; None: sums
    steps: int = 3  # of the longest chain
    large_chains: int = 16_000  # that the large base was trained on, read once
    small_chains: int = 10_000  # that the small one was
    varied: float = 0.3  # share of either's chains in a format, evenly, that nobody asked for
    base_rate: float = 3e-3  # learning rate of both
    examples: int = 400  # of a format, to tune on
    epochs: float = 5.0
    learning_rate: float = 2e-3  # Adam, constant: the same for experts and ceilings
    validation: int = 60  # problems of a format by which "tuned alpha" is chosen
    test: int = 200  # problems of a format that count
    alphas: tuple[float, ...] = (0.5, 0.8, 1.2, 1.5)  # fixed weights beside 1
    seeds: int = 5

    def __post_init__(self) -> None:
        if not {0.5, 1.5} <= set(self.alphas):
            raise UserError("alphas has 0.5 and 1.5, which claims are about.")


SCALES = {
    "smoke": Config(
        large="0.05M", large_chains=96, small_chains=64, examples=32, epochs=1, validation=6,
        test=8, alphas=(0.5, 1.5), seeds=1,
    ),
    "small": Config(),
    "full": Config(
        large="hf:meta-llama/Llama-2-13b-hf", small="hf:meta-llama/Llama-2-7b-hf",
        data_path="data/dynamic-logit-fusion", examples=100_000, epochs=3, learning_rate=2e-5,
        validation=200, test=2000, seeds=3,
    ),
}  # fmt: skip

SINGLE, MULTI = {"setting": "single"}, {"setting": "multi"}
CLAIMS = (
    Claim(
        "Weights chosen at every token beat proxy tuning's weight of 1",
        greater("dynamic", "proxy", where=SINGLE),
        paper_says="46.09 against 44.43 with a 7B expert, 34.86 against 31.74 with 1.1B",
    ),
    Claim(
        "The large model so moved beats the small expert",
        greater("dynamic", "expert", where=SINGLE),
        paper_says="46.09 against 44.13",
    ),
    Claim(
        "Nine tenths of the gap between the large base and its own tuning are recovered",
        greater("dynamic", 0.9, on="recovered", where=SINGLE),
        paper_says="90.5 %: (46.09 - 29.93) / (47.79 - 29.93)",
    ),
    Claim(
        "It reaches nine tenths of that tuning's score (what the paper calls the gap closed)",
        greater("dynamic", 0.9, on="ratio", where=SINGLE),
        paper_says="96.4 %: 46.09 / 47.79",
    ),
    Claim(
        "They are at least as good as a fixed weight of 0.5",
        greater("dynamic", "alpha 0.5", where=SINGLE),
    ),
    Claim("And of 1.5", greater("dynamic", "alpha 1.5", where=SINGLE)),
    Claim(
        "With several experts, it beats a small model tuned on all tasks, seen and unseen averaged",
        greater("dynamic", "multi-task expert", where=MULTI),
        paper_says="39.42 against 34.89",
    ),
    Claim(
        "On the seen tasks alone it is worse than that small model",
        less("dynamic", "multi-task expert", where={**MULTI, "task": "seen"}),
        paper_says="27.53 against 33.96",
    ),
    Claim(
        "What the large base could do before stays as it was",
        equivalent("dynamic", "floor", margin=0.05, where={**MULTI, "task": "unseen"}),
        paper_says="51.31 against 51.25 on MMLU",
    ),
)

Weights = Mapping[str, Any]
Network = Callable[[int], Any]


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every method, seed by seed: each format with its expert, then all together."""
    cut = {"examples": config.examples, "validation": config.validation, "test": config.test}
    chains = FormattedChains(config.steps, **cut)
    world: FormattedChains | TaskFiles = chains
    if named := config.data_path is not None:
        world = TaskFiles(config.data_path or "", **cut)
    tokenizer = load_tokenizer(config.large) if named else world_tokenizer(chains.seen)
    tiny = functools.partial(tiny_decoder, vocabulary=len(tokenizer), context=128)
    networks: dict[str, Network] = {
        size: functools.partial(published if named else tiny, getattr(config, size))
        for size in ("large", "small")
    }
    bases: dict[str, Weights] = {
        size: networks[size](0).state_dict() if named else lab.sft(
            networks[size], *zip(*chains.varied(count, 0, config.varied), strict=True), seed=0,
            config=TrainConfig(1, learning_rate=config.base_rate, warmup=0.1), tokenizer=tokenizer,
        ).weights
        for size, count in (("large", config.large_chains), ("small", config.small_chains))
    }  # fmt: skip
    for seed in lab.seeds(config.seeds):
        data = {task: world.data(task, seed) for task in world.tasks}

        def tune(size: str, *tasks: str, data: Any = data, seed: int = seed) -> Weights:
            pairs = [pair for task in tasks for pair in data[task]["train"]]
            plan = TrainConfig(
                config.epochs, learning_rate=config.learning_rate, schedule="constant"
            )
            return lab.sft(
                networks[size], *zip(*pairs, strict=True), weights=bases[size], config=plan,
                tokenizer=tokenizer, seed=seed,
            ).weights  # fmt: skip

        def read(
            pairs: Pairs, large: Weights | None, experts: list[Weights],
            strategy: FusionStrategy | None,
        ) -> Foreseen:  # fmt: skip
            return Foreseen(
                **lab.step(
                    foreseen, networks, tokenizer, pairs, large, experts, bases["small"], strategy
                )
            )

        experts = [tune("small", task) for task in world.seen]
        for place, task in enumerate(world.seen):
            test, own = data[task]["test"], [experts[place]]
            fixed = {1.0: "proxy"} | {alpha: f"alpha {alpha:g}" for alpha in config.alphas}
            tried = {
                a: read(data[task]["validation"], bases["large"], own, StaticFusion(a))
                for a in fixed
            }
            best = max(fixed, key=lambda a: (tried[a].exact, -tried[a].loss))
            found = {
                "base": read(test, bases["large"], [], None),
                "small base": read(test, None, [bases["small"]], None),
                "expert": read(test, None, own, None),
                "ceiling": read(test, tune("large", task), [], None),
                **{fixed[a]: read(test, bases["large"], own, StaticFusion(a)) for a in fixed},
                "tuned alpha": read(test, bases["large"], own, StaticFusion(best)),
                "dynamic": read(test, bases["large"], own, KLMatchedFusion()),
                "another expert": read(
                    test, bases["large"], [experts[place - 1]], KLMatchedFusion()
                ),
            }
            yield from rows(found, setting="single", task=task, seed=seed)
        multi = {size: tune(size, *world.seen) for size in ("small", "large")}
        shares = StaticFusion(1.0 / len(experts))
        each = {
            task: {
                "base": read(data[task]["test"], bases["large"], [], None),
                "small base": read(data[task]["test"], None, [bases["small"]], None),
                "multi-task expert": read(data[task]["test"], None, [multi["small"]], None),
                "ceiling": read(data[task]["test"], multi["large"], [], None),
                "proxy": read(data[task]["test"], bases["large"], experts, shares),
                "dynamic": read(data[task]["test"], bases["large"], experts, KLMatchedFusion()),
            }
            for task in world.tasks
        }
        for kind, tasks in (("seen", world.seen), ("unseen", world.tasks[len(world.seen) :])):
            found = {m: mean([each[task][m] for task in tasks]) for m in each[tasks[0]]}
            yield from rows(found, setting="multi", task=kind, seed=seed)


def rows(found: dict[str, Foreseen], **shared: Any) -> Iterator[Row]:
    """One for each method; floor and ceiling are among them."""
    floor, ceiling = found["base"].exact, found["ceiling"].exact
    for method, got in found.items():
        yield Row(
            method=method, score=got.exact, floor=floor, ceiling=ceiling,
            ratio=ratio_to_ceiling(got.exact, ceiling) if ceiling else None, loss=got.loss,
            token_accuracy=got.accuracy, weight=sum(got.weights) if got.weights else None, **shared,
        )  # fmt: skip


def mean(several: list[Foreseen]) -> Foreseen:
    """The average of several tasks, each counting the same."""
    parts = {
        name: float(np.mean([getattr(each, name) for each in several]))
        for name in ("loss", "accuracy", "exact")
    }
    weights = np.mean([each.weights for each in several], 0).tolist() if several[0].weights else ()
    return Foreseen(
        **parts, weights=tuple(weights), tokens=sum(each.tokens for each in several),
        skipped=sum(each.skipped for each in several),
    )  # fmt: skip


def foreseen(
    networks: Mapping[str, Network], tokenizer: Any, pairs: Pairs, large: Weights | None,
    experts: list[Weights], base: Weights, strategy: FusionStrategy | None,
) -> dict[str, Any]:  # fmt: skip
    """The memoised step: how a model, or a fused one, foresees the responses."""

    def loaded(size: str, weights: Weights) -> Any:
        model = networks[size](0)
        model.load_state_dict(dict(weights))
        return model.eval()

    with threads(1):
        small = [loaded("small", weights) for weights in experts]
        model = small[0] if large is None else loaded("large", large)
        if strategy is not None:
            shared = loaded("small", base)
            model = FusedCausalLM(model, small, [shared] * len(small), strategy)
        found = teacher_forced(model, tokenizer, *zip(*pairs, strict=True), batch_size=64)
    return {**vars(found), "weights": list(found.weights)}
