"""Of several right responses, should a model learn from the one that it finds most probable?

Protocol (Zhang et al. 2025, arXiv 2502.04194). Every instruction has right responses from several
sources. Arms differ in which of them the same base model is tuned on: the one the base finds most
probable (mean or sum of token log-probabilities), the least probable, any, the strongest source's,
all, its own right answers, and the one that fits the *other* base, which no property of the
answers' text explains. Sources are styles of solving chains of sums modulo 5; a base was trained
on the styles in unequal shares. Floor: the strongest source. Ceiling: what fits of four times the
instructions, read for twice as long. All other arms take the same number of steps, at two budgets;
tokens are a column.

Panel `articles`, without training: what share of its choices a real model gives to each of four
ways of saying what a news article is about (`score`; `floor`: a quarter, by chance).

Differences from the paper, each with its effect: a decoder of a quarter million parameters and
sums instead of Llama and mathematics, code and chat (there is nothing to learn from a response but
its style and the sums); "strongest" is a style that skips the work and that the base never saw,
since all sources are equally right here (so fit against strength is tested at its easiest); tuning
repeats 300 instructions many times instead of once (more forgetting, which fit avoids); all
responses take as many steps as one of each, not more; sources are five, and none is a duplicate.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from generality.benchmarks import load_benchmark
from generality.benchmarks.worlds import STYLES, ChainPrograms, solution, world_tokenizer
from generality.claims import Claim, Row, greater, less, monotone
from generality.errors import UserError
from generality.lab import Lab, TrainConfig, TunedLM
from generality.lab.threads import threads
from generality.measures import response_logprob
from generality.models import load_model, load_tokenizer, tiny_decoder
from generality.selection import (
    NumberMatch,
    ResponsePool,
    StrongestSource,
    WorldCheck,
    selection_overlap,
)
from generality.studies.study import Paper

PAPER = Paper("The Best Instruction-Tuning Data are Those That Fit", arxiv="2502.04194", year=2025)


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    bases: tuple[str, ...] = ("work", "brief")  # of `MIXTURES`; with data_path models' names
    data_path: str | None = None  # folder of pool.jsonl and test.jsonl; None: chains of sums
    strongest: str = "terse"  # the source of the floor
    size: str = "0.25M"  # of the decoder, see `tiny_decoder`
    pretraining: int = 22_000  # chains of 1 to `steps` that a base reads, once
    pretraining_rate: float = 3e-3
    steps: int = 3  # of the chains tested on; instructions have as many or one more
    instructions: int = 300
    test: int = 250  # chains that neither base nor arms saw
    updates: int = 80  # of every arm, 32 examples each; a quarter of them is the other budget
    more: int = 4  # times the instructions, for the ceiling, at twice the updates
    learning_rate: float = 5e-4  # Adam, constant: the same for all arms
    max_tokens: int = 48  # of an answer
    seeds: int = 4
    real: str | None = "smollm2-135m"  # the model of the panel `articles`
    articles: int = 24  # a seed
    article_words: int = 40


SCALES = {
    "smoke": Config(
        size="0.05M", pretraining=300, instructions=40, test=30, updates=8, more=2, seeds=2,
        max_tokens=24, steps=2, real=None,
    ),
    "small": Config(),
    "full": Config(
        bases=("hf:Qwen/Qwen2.5-0.5B", "hf:Qwen/Qwen2.5-1.5B"), data_path="data/grape",
        strongest="meta-llama/Llama-3.1-405B-Instruct", instructions=5000, test=1319,
        updates=470, learning_rate=1e-5, max_tokens=512, more=1, seeds=3,
    ),
}  # fmt: skip

MIXTURES = {"work": (0.6, 0.1, 0.2, 0.1, 0.0), "brief": (0.0, 0.6, 0.2, 0.1, 0.1)}
"""Shares of the styles full, states, named, reversed and terse in what a base was trained on."""

ANSWERS = {
    "word": "{topic}",
    "sentence": "This article is about {topic}.",
    "reasoned": "It reports on people and events that belong to {topic}, so its topic is {topic}.",
    "form": "TOPIC: {topic} | LANGUAGE: English | KIND: news article",
}
"""Ways of saying what an article is about, of the panel `articles`."""

FIRST = {"base": lambda names: names == names.iloc[0]}  # the base that has all arms
ORDER = ("reverse", "random", "fit")
CLAIMS = (
    Claim(
        "The response that the base finds most probable teaches more than the strongest source's",
        greater("fit", "strongest", where=FIRST),
        paper_says="up to 13.8 points over Llama-3.1-405B-Instruct",
    ),
    Claim(
        "And more than all responses together",
        greater("fit", "all", where=FIRST),
        paper_says="up to 17.3 points, at least 3.6, over three times the data",
    ),
    Claim(
        "And more than one drawn at random",
        greater("fit", "random", where=FIRST),
        paper_says="2.5 to 3.4 points",
    ),
    Claim(
        "The least probable response teaches less than a random one",
        less("reverse", "random", where=FIRST),
        paper_says="2 to 3.5 points",
    ),
    Claim(
        "Accuracy rises from the least probable over a random to the most probable response",
        monotone("method", order=ORDER, where=FIRST),
    ),
    Claim(
        "Its own right answers teach the base less than what fits it among others' answers",
        greater("fit", "own", where=FIRST),
    ),
    Claim(
        "Its own right answers teach it less than the original data, a source at random",
        less("own", "random", where=FIRST),
        expected_at="full",
        paper_says="28.4 against 32.7 and 29.4 against 36.8",
    ),
    Claim(
        "What fits a base teaches it more than what fits the other base, whichever is which",
        greater("fit", "other-fit"),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every arm and budget, seed by seed; the first base has all arms."""
    if len(config.bases) != 2 or config.updates < 4:
        raise UserError("bases names two models, and updates is at least 4.")
    world = Chains(config, lab) if config.data_path is None else Files(config)
    before = {
        base: accuracy(config, lab, world, base, world.weights[base], world.tests)
        for base in world.bases
    }
    for seed in lab.seeds(config.seeds):
        columns = [(base, reduce) for base in world.bases for reduce in ("mean", "sum")]
        pool = scored(lab, world, world.pool(seed, config.instructions), columns)
        for base in world.bases:
            arms = choose(config, lab, world, base, pool, seed)
            rows = []
            for method, chosen in arms.items():
                updates = config.updates * (2 if method == "ceiling" else 1)
                tuned = tune(config, lab, world, base, chosen, updates, seed)
                for budget, weights in (("quarter", tuned.kept["0.25"]), ("whole", tuned.weights)):
                    asked = world.tests if budget == "whole" else {"score": world.tests["score"]}
                    rows.append(
                        Row(
                            method=method, base=base, budget=budget, seed=seed,
                            **accuracy(config, lab, world, base, weights, asked),
                            before=before[base]["score"], examples=len(chosen),
                            length=float(np.mean(lengths(chosen) or [0])), tokens=tuned.tokens,
                            overlap=selection_overlap(arms["fit"], chosen),
                            follows_length=float(
                                stats.spearmanr(pool.column(f"{base}-mean"), lengths(pool))[0]
                            ),
                        )
                    )  # fmt: skip
            edge = {(row["method"], row["budget"]): row["score"] for row in rows}
            for row in rows:
                floor = edge["strongest", row["budget"]]
                yield Row(row, floor=floor, ceiling=edge.get(("ceiling", row["budget"])))
    if config.real:
        yield from article_rows(config, lab, config.real)


def article_rows(config: Config, lab: Lab, name: str) -> Iterator[Row]:
    """Whose way of answering a real model finds most probable, by mean and by sum."""
    benchmark = load_benchmark("bbc", words=config.article_words)
    texts, topics = (benchmark.splits["test"][column][:] for column in ("text", "label"))
    for seed in lab.seeds(config.seeds):
        drawn = np.random.default_rng(seed).permutation(len(texts))[: config.articles]
        pool = ResponsePool(
            {"prompt": f"{texts[i]}\n\nQuestion: What is this article about?\nAnswer:",
             "response": said.format(topic=benchmark.label_names[topics[i]]), "source": way}
            for i in drawn for way, said in ANSWERS.items()
        )  # fmt: skip
        both = lab.step(named_logprobs, name, pool.column("prompt"), pool.column("response"))
        for reduce, found in zip(("mean", "sum"), both, strict=True):
            shares = pool.with_column("fit", found).select("fit").composition()
            follows = float(stats.spearmanr(found, lengths(pool))[0])
            for way, said in ANSWERS.items():
                yield Row(
                    method=way, base=name, seed=seed, panel="articles", reduce=reduce,
                    score=shares.get(way, 0.0), floor=1 / len(ANSWERS), ceiling=None,
                    length=float(len(said.split())), follows_length=follows,
                )  # fmt: skip


def named_logprobs(name: str, prompts: list[str], responses: list[str]) -> list[list[float]]:
    """The memoised step: how probable a named model finds each response, by mean and by sum."""
    model, tokenizer = load_model(name), load_tokenizer(name)
    found = response_logprob(model, tokenizer, prompts, responses, reduce="none")
    return [found.nanmean(1).tolist(), found.nansum(1).tolist()]


def scored(
    lab: Lab, world: Chains | Files, pool: ResponsePool, columns: list[tuple[str, str]]
) -> ResponsePool:
    """With what `FitSelector` goes by, for each base and reduction: a kept step and a column."""
    for base, reduce in columns:
        found = lab.step(
            logprobs, world.network(base), world.weights[base], world.tokenizer,
            pool.column("prompt"), pool.column("response"), reduce,
        )  # fmt: skip
        pool = pool.with_column(f"{base}-{reduce}", found)
    return pool


def choose(
    config: Config, lab: Lab, world: Chains | Files, base: str, pool: ResponsePool, seed: int
) -> dict[str, ResponsePool]:
    """The data of each arm; for the second base only what crosses over with the first."""
    [other] = [name for name in world.bases if name != base]
    arms = {
        "fit": pool.select(f"{base}-mean"),
        "other-fit": pool.select(f"{other}-mean"),
        "strongest": StrongestSource(config.strongest).select(pool),
    }
    if base != world.bases[0]:
        return arms
    some = pool.select(order="random", seed=seed)
    said = lab.generate(
        world.network(base), some.column("prompt"), weights=world.weights[base],
        tokenizer=world.tokenizer, max_tokens=config.max_tokens,
    )  # fmt: skip
    own = some.with_column("response", [text for (text,) in said]).verify(world.judge, drop=True)
    more = world.pool(seed, config.more * config.instructions)
    return {
        **arms,
        "fit-sum": pool.select(f"{base}-sum"),
        "random": some,
        "reverse": pool.select(f"{base}-mean", order="min"),
        "all": pool,
        "own": own,
        "ceiling": scored(lab, world, more, [(base, "mean")]).select(f"{base}-mean"),
    }


def tune(
    config: Config, lab: Lab, world: Chains | Files, base: str, chosen: ResponsePool,
    updates: int, seed: int,
) -> Any:  # fmt: skip
    """The base after so many updates on the chosen responses; a quarter of the way kept too."""
    if not len(chosen):  # a base without a right answer of its own stays as it is
        return TunedLM(world.weights[base], [], 0, {"0.25": world.weights[base]})
    plan = TrainConfig(1, learning_rate=config.learning_rate, schedule="constant")
    return lab.sft(
        world.network(base), chosen.column("prompt"), chosen.column("response"), keep=(0.25,),
        tokenizer=world.tokenizer, weights=world.weights[base], seed=seed,
        config=replace(plan, epochs=(updates - 0.5) / plan.steps(len(chosen))),
    )  # fmt: skip


def accuracy(
    config: Config, lab: Lab, world: Chains | Files, base: str, weights: Any, asked: dict[str, Any]
) -> dict[str, float]:
    """Share of right greedy answers, whatever their style: `score`, and `beyond` one step on."""
    items = [
        (name, prompt, answer)
        for name, pair in asked.items()
        for prompt, answer in zip(*pair, strict=True)
    ]
    said = lab.generate(
        world.network(base), [prompt for _, prompt, _ in items], weights=weights,
        tokenizer=world.tokenizer, max_tokens=config.max_tokens,
    )  # fmt: skip
    right: dict[str, list[float]] = {}
    for (name, prompt, answer), (text,) in zip(items, said, strict=True):
        right.setdefault(name, []).append(world.judge(prompt, text, answer))
    return {name: float(np.mean(found)) for name, found in right.items()}


def logprobs(
    network: Any, weights: Any, tokenizer: Any, prompts: list[str], responses: list[str],
    reduce: Any,
) -> list[float]:  # fmt: skip
    """The memoised step: how probable a base finds each response, in nats."""
    with threads(1):
        model = network(0)
        model.load_state_dict(weights)
        found = response_logprob(model, tokenizer, prompts, responses, reduce=reduce, batch_size=64)
    return found.tolist()


def lengths(pool: ResponsePool) -> list[int]:
    """Words of each response."""
    return [len(response.split()) for response in pool.column("response")]


class Chains:
    """Chains of sums in five styles, and two bases that know the styles unequally well."""

    judge = WorldCheck()

    def __init__(self, config: Config, lab: Lab) -> None:
        self.config, self.bases, self.tokenizer = config, config.bases, world_tokenizer()
        steps = config.steps
        tests = {
            name: ChainPrograms().sample(config.test, length, 0)
            for name, length in (("score", steps), ("beyond", steps + 2))
        }
        self.tested = {chain.prompt for chains in tests.values() for chain in chains}
        self.tests = {
            name: ([chain.prompt for chain in chains], [chain.answer for chain in chains])
            for name, chains in tests.items()
        }
        read = self.unseen(config.pretraining, (1, steps), 0)
        self.weights = {}
        for base in config.bases:
            drawn = np.random.default_rng(0).choice(list(STYLES), len(read), p=MIXTURES[base])
            plan = TrainConfig(1, learning_rate=config.pretraining_rate, warmup=0.1)
            self.weights[base] = lab.sft(
                self.network(base), [chain.prompt for chain in read],
                [solution(chain, style) for chain, style in zip(read, drawn, strict=True)],
                tokenizer=self.tokenizer, config=plan, seed=0,
            ).weights  # fmt: skip

    def network(self, base: str) -> Any:
        """The architecture, which both bases share."""
        return functools.partial(
            tiny_decoder, self.config.size, vocabulary=len(self.tokenizer), context=128
        )

    def unseen(self, count: int, steps: int | tuple[int, int], seed: int) -> list[Any]:
        """About as many chains, without those of the tests."""
        chains = ChainPrograms().sample(count, steps, seed)
        return [chain for chain in chains if chain.prompt not in self.tested]

    def pool(self, seed: int, count: int) -> ResponsePool:
        """A seed's instructions, every style of solving each."""
        steps = self.config.steps
        unique = {c.prompt: c for c in self.unseen(count, (steps, steps + 1), seed + 1)}
        return ResponsePool(
            {"prompt": chain.prompt, "response": solution(chain, style), "source": style,
             "reference": chain.answer}
            for chain in unique.values() for style in STYLES
        ).verify(self.judge, drop=True)  # fmt: skip


class Files:
    """Your own pool, as two files of JSON lines in one folder.

    pool.jsonl: prompt, response, source, reference (a final answer). test.jsonl: prompt, answer.
    Prompts are texts to be continued, template applied.
    """

    judge = NumberMatch()

    def __init__(self, config: Config) -> None:
        folder = Path(config.data_path or "")
        try:
            self.rows, tests = (
                [json.loads(line) for line in (folder / name).read_text().splitlines()]
                for name in ("pool.jsonl", "test.jsonl")
            )
        except OSError as error:
            raise UserError(f"{error.filename} is needed: see the study's page.") from error
        tests = tests[: config.test]
        self.bases, self.tokenizer = config.bases, load_tokenizer(config.bases[0])
        self.tests = {"score": ([row["prompt"] for row in tests], [row["answer"] for row in tests])}
        self.weights = {base: self.network(base)(0).state_dict() for base in config.bases}

    def network(self, base: str) -> Any:
        """The model of this name."""
        return functools.partial(_named, base)

    def pool(self, seed: int, count: int) -> ResponsePool:
        """The responses to a seed's instructions that are right."""
        verified = ResponsePool(self.rows).verify(self.judge, drop=True)
        ids = list(dict.fromkeys(verified.column("prompt_id")))
        drawn = set(np.random.default_rng(seed).permutation(ids)[:count].tolist())
        return verified.where([one in drawn for one in verified.column("prompt_id")])


def _named(name: str, seed: int) -> Any:
    return load_model(name, device="cpu")
