"""Of several right responses, should a model learn from the one that it finds most probable?

Protocol (Zhang et al. 2025, arXiv 2502.04194). Every instruction has right responses from several
sources. Arms differ in which of them the same base model is tuned on: the one the base finds most
probable (mean or sum of token log-probabilities), the least probable, any, the strongest source's,
all, its own right answers, the one that fits the *other* base, which no property of the answers'
text explains, and as many responses by S2L (Yang et al. 2024, arXiv 2403.07384): equal shares of
those that a smaller model, trained as the base was, learns alike. Sources are styles of solving
chains of sums modulo 5; a base was trained on the styles in unequal shares. Floor: the strongest
source. Ceiling: what fits of four times the instructions, read for twice as long. All other arms
take the same number of steps, at two budgets; tokens are a column.

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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from generality.claims import Claim, Row, greater, less, monotone
from generality.errors import UserError
from generality.lab import Lab, TrainConfig
from generality.measures import response_logprob
from generality.models import load_model, load_tokenizer
from generality.selection import (
    ProxyTraining,
    ResponsePool,
    SmallToLarge,
    StrongestSource,
    selection_overlap,
)
from generality.selection.styled_pools import (
    ANSWERS,
    ChainPools,
    FilePools,
    PoolSource,
    topic_pool,
)
from generality.studies.study import Paper
from generality.training.writer import Writer

PAPER = Paper("The Best Instruction-Tuning Data are Those That Fit", arxiv="2502.04194", year=2025)
FACTORS = ("panel", "base", "budget", "reduce")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    bases: tuple[str, ...] = ("work", "brief")  # of `MIXTURES`; with data_path models' names
    data_path: str | None = None  # folder of pool.jsonl and test.jsonl; None: chains of sums
    strongest: str = "terse"  # the source of the floor
    size: str = "0.25M"  # of the decoder, see `tiny_decoder`
    proxy: str = "0.05M"  # of the smaller one of s2l; with data_path a model's name
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
        size="0.05M", pretraining=300, instructions=20, test=30, updates=8, more=2, seeds=2,
        max_tokens=24, steps=2, real=None,
    ),
    "small": Config(),
    "full": Config(
        bases=("hf:Qwen/Qwen2.5-0.5B", "hf:Qwen/Qwen2.5-1.5B"), data_path="data/grape",
        strongest="meta-llama/Llama-3.1-405B-Instruct", proxy="smollm2-135m", instructions=5000,
        test=1319, updates=470, learning_rate=1e-5, max_tokens=512, more=1, seeds=3,
    ),
}  # fmt: skip

MIXTURES = {"work": (0.6, 0.1, 0.2, 0.1, 0.0), "brief": (0.0, 0.6, 0.2, 0.1, 0.1)}
"""Shares of the styles full, states, named, reversed and terse in what a base was trained on."""

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
        "And more than as many, spread by S2L over the ways in which a smaller model learns them",
        greater("fit", "s2l", where=FIRST),
        paper_says="35.9 against 31.7, 31.9 against 29.6 and 48.6 against 44.7",
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
    source, bases = world(config, lab)
    ask: dict[str, Any] = {"judge": source.judge, "max_tokens": config.max_tokens}
    before = {name: base.accuracies(lab, source.tests, **ask) for name, base in bases.items()}
    for seed in lab.seeds(config.seeds):
        pool = source.pool(seed, config.instructions)
        for name, base in bases.items():
            pool = scored(lab, pool, name, base, ("mean", "sum"))
        for name, base in bases.items():
            arms = choose(config, lab, source, bases, name, pool, seed)
            follows = float(stats.spearmanr(pool.column(f"{name}-mean"), pool.lengths())[0])
            rows = []
            for method, chosen in arms.items():
                updates = config.updates * (2 if method == "ceiling" else 1)
                tuned, tokens = tune(config, lab, base, chosen, updates, seed)
                for budget, writer in tuned.items():
                    tests = source.tests if budget == "whole" else {"score": source.tests["score"]}
                    rows.append(
                        Row(
                            method=method, base=name, budget=budget, seed=seed,
                            **writer.accuracies(lab, tests, **ask),
                            before=before[name]["score"], examples=len(chosen),
                            length=float(np.mean(chosen.lengths() or [0])), tokens=tokens,
                            overlap=selection_overlap(arms["fit"], chosen), follows_length=follows,
                        )
                    )  # fmt: skip
            edge = {(row["method"], row["budget"]): row["score"] for row in rows}
            for row in rows:
                floor = edge["strongest", row["budget"]]
                yield Row(row, floor=floor, ceiling=edge.get(("ceiling", row["budget"])))
    if config.real:
        yield from article_rows(config, lab, config.real)


def world(config: Config, lab: Lab) -> tuple[PoolSource, dict[str, Writer]]:
    """Where responses come from, and both bases by name."""
    if config.data_path is not None:
        files = FilePools(config.data_path, test=config.test)
        return files, {name: Writer.named(name) for name in config.bases}
    chains = ChainPools(config.steps, config.test)
    return chains, {
        name: pretrained(config, lab, chains, config.size, name) for name in config.bases
    }


def pretrained(config: Config, lab: Lab, chains: ChainPools, size: str, name: str) -> Writer:
    """A decoder that read chains in a mixture of styles."""
    plan = TrainConfig(1, learning_rate=config.pretraining_rate, warmup=0.1)
    read = chains.pretraining(config.pretraining, MIXTURES[name])
    return Writer.tiny(size).tuned(lab, *read, config=plan, seed=0)


def scored(
    lab: Lab, pool: ResponsePool, name: str, base: Writer, reductions: Sequence[str]
) -> ResponsePool:
    """With what `FitSelector` goes by, for each reduction a column."""
    for reduce in reductions:
        found = base.logprobs(lab, pool.column("prompt"), pool.column("response"), reduce=reduce)
        pool = pool.with_column(f"{name}-{reduce}", found)
    return pool


def choose(
    config: Config, lab: Lab, source: PoolSource, bases: dict[str, Writer], name: str,
    pool: ResponsePool, seed: int,
) -> dict[str, ResponsePool]:  # fmt: skip
    """The data of each arm; for the second base only what crosses over with the first."""
    [other] = [each for each in bases if each != name]
    arms = {
        "fit": pool.select(f"{name}-mean"),
        "other-fit": pool.select(f"{other}-mean"),
        "strongest": StrongestSource(config.strongest).select(pool),
    }
    if name != config.bases[0]:
        return arms
    some = pool.select(order="random", seed=seed)
    said = bases[name].write(lab, some.column("prompt"), max_tokens=config.max_tokens)
    own = some.with_column("response", [text for (text,) in said]).verify(source.judge, drop=True)
    more = source.pool(seed, config.more * config.instructions)
    return {
        **arms,
        "fit-sum": pool.select(f"{name}-sum"),
        "random": some,
        "reverse": pool.select(f"{name}-mean", order="min"),
        "all": pool,
        "own": own,
        "s2l": spread(config, lab, source, pool, len(some), seed),
        "ceiling": scored(lab, more, name, bases[name], ("mean",)).select(f"{name}-mean"),
    }


def spread(
    config: Config, lab: Lab, source: PoolSource, pool: ResponsePool, count: int, seed: int
) -> ResponsePool:
    """S2L: so many rows of the pool, equal shares of those that a smaller model learns alike."""
    small = (
        pretrained(config, lab, source, config.proxy, config.bases[0])
        if isinstance(source, ChainPools) else Writer.named(config.proxy)
    )  # fmt: skip
    pairs = pool.column("prompt"), pool.column("response")
    proxy = ProxyTraining.of(
        lab, small.network, small.tokenizer, *pairs, weights=small.weights, seed=seed
    )
    losses = proxy.losses(lab, *pairs)
    known = np.flatnonzero(np.isfinite(losses).all(1))  # what fits into its context
    rows = known[SmallToLarge(count, seed=seed).select(losses[known])]
    return pool.where(np.isin(np.arange(len(pool)), rows))


def tune(
    config: Config, lab: Lab, base: Writer, chosen: ResponsePool, updates: int, seed: int
) -> tuple[dict[str, Writer], int]:
    """The base after a quarter of so many updates and after all; the tokens that it read."""
    if not len(chosen):  # a base without a right answer of its own stays as it is
        return {"quarter": base, "whole": base}, 0
    plan = TrainConfig(learning_rate=config.learning_rate, schedule="constant")
    tuned = base.tuned(
        lab, chosen.column("prompt"), chosen.column("response"), config=plan, updates=updates,
        keep=(0.25,), seed=seed,
    )  # fmt: skip
    tokens = tuned.training.tokens if tuned.training else 0
    return {"quarter": tuned.kept(0.25), "whole": tuned}, tokens


def article_rows(config: Config, lab: Lab, name: str) -> Iterator[Row]:
    """Whose way of answering a real model finds most probable, by mean and by sum."""
    for seed in lab.seeds(config.seeds):
        pool = topic_pool(config.articles, words=config.article_words, seed=seed)
        both = lab.step(named_logprobs, name, pool.column("prompt"), pool.column("response"))
        for reduce, found in zip(("mean", "sum"), both, strict=True):
            shares = pool.with_column("fit", found).select("fit").composition()
            follows = float(stats.spearmanr(found, pool.lengths())[0])
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
