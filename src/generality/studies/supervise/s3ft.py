"""Does training on a model's own right answers, where there are any, keep what else it can do?

Protocol (Gupta et al. 2025, arXiv 2502.08130). A base model is tuned on one task, whose gold
answers are written in a way that is rare for it. Arms differ in the target of each example: the
gold answer (SFT), a paraphrase of it if right (SDFT), the base's own greedy answer if right and
nothing otherwise (own), own else paraphrase else gold (S3FT), or of three right answers the one
that the base finds most probable (fit, after GRAPE). The task is chains of sums modulo 5 in one of
three styles; four tasks on strings of letters are what may be forgotten. Two axes: on "target" the
floor is the base and the ceiling SFT on four times the data, read for twice as long; on "others"
the floor is SFT and the ceiling the base, which has forgotten nothing.

Differences from the paper, each with its effect: a decoder of a quarter million parameters and
procedural tasks instead of Mistral-7B and GSM8K (gold differs from the base's own words in its
style only, so all that SFT must learn beside the task is the style); a paraphrase is the gold
answer rewritten into the base's usual style, and spoilt in a fifth of the cases, instead of
written by the base (better paraphrases than a model's, so SDFT is a stronger rival); the other
tasks were trained into the base, where MMLU and the like are not anybody's training task (more to
lose); equal updates for all arms, so arms with fewer examples read them more often.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from generality.benchmarks.worlds import (
    Chain,
    ChainPrograms,
    solution,
    string_task,
    terse,
    world_tokenizer,
)
from generality.claims import Claim, Row, greater, less, monotone
from generality.errors import UserError
from generality.lab import Lab, TrainConfig
from generality.lab.threads import threads
from generality.measures import forgetting_report, kl_to_base, response_logprob
from generality.models import load_model, load_tokenizer, tiny_decoder
from generality.selection import NumberMatch, ResponsePool, SelfToSupervised, WorldCheck
from generality.selection.self_to_supervised import PARAPHRASE
from generality.studies.study import Paper

PAPER = Paper(
    "Selective Self-to-Supervised Fine-Tuning for Generalization in Large Language Models",
    arxiv="2502.08130",
    year=2025,
)


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    model: str = "0.25M"  # a size of `tiny_decoder`; with data_path a model's name
    data_path: str | None = None  # folder of train.jsonl and suites; None: procedural tasks
    styles: tuple[str, ...] = ("full", "named", "reversed")  # the base's usual one first, gold last
    shares: tuple[float, ...] = (0.8, 0.15, 0.05)  # of the styles in what the base was trained on
    others: tuple[str, ...] = ("copy", "reverse", "last", "max")  # tasks that may be forgotten
    steps: int = 3  # of the longest chain that the base was trained on
    extra_steps: int = 0  # that chains of the task may have beyond it
    length: int = 4  # letters of a string
    pretraining: int = 20_000  # chains of 1 to `steps`, and half as many strings, read once
    pretraining_rate: float = 3e-3
    spoilt: float = 0.2  # share of paraphrases that say something else
    examples: int = 300  # of the target task
    more: int = 4  # times the examples for the ceiling, at twice the updates
    test: int = 250  # other chains; a quarter as many strings of each task
    updates: int = 100  # of every arm, 32 examples each
    learning_rate: float = 5e-4  # Adam, constant: the same for all arms
    max_tokens: int = 48  # of an answer
    drift: int = 64  # answers on which the distance to the base is measured
    seeds: int = 5

    def __post_init__(self) -> None:
        if len(self.styles) != len(self.shares) or len(self.styles) < 2:
            raise UserError("styles and shares name as many things, two or more.")


SCALES = {
    "smoke": Config(
        model="0.05M", pretraining=200, examples=24, test=24, updates=6, more=2, drift=4, seeds=2,
        max_tokens=16, steps=2, others=("copy", "last"),
    ),
    "small": Config(),
    "full": Config(
        model="hf:mistralai/Mistral-7B-Instruct-v0.2", data_path="data/s3ft", examples=7473,
        more=1, test=1319, updates=700, learning_rate=1e-5, max_tokens=512, seeds=3,
    ),
}  # fmt: skip

TARGET, OTHERS = {"axis": "target"}, {"axis": "others"}
CLAIMS = (
    Claim(
        "Own answers where right teach the task better than gold answers",
        greater("s3ft", "sft", where=TARGET),
        paper_says="56.9 against 53.4 on GSM8K, 39.4 against 32.8 on MBPP",
    ),
    Claim(
        "And better than paraphrases of gold answers",
        greater("s3ft", "sdft", where=TARGET),
        paper_says="56.9 against 54.8 on GSM8K, the same on reading",
    ),
    Claim(
        "And better than own right answers alone",
        greater("s3ft", "own", where=TARGET),
    ),
    Claim(
        "They leave more of the other tasks",
        greater("s3ft", "sft", where=OTHERS),
        paper_says="an average drop of 2.5 against 4.4 points",
    ),
    Claim(
        "They end nearer to the base, by the divergence of what it would say",
        less("s3ft", "sft", on="kl", where=TARGET),
    ),
    Claim(
        "The base finds gold answers least probable, then paraphrases, then its own",
        monotone("method", on="base_logprob", order=("sft", "sdft", "own"), where=TARGET),
        paper_says="-84.3 nats for a gold answer, -36.6 for its own",
    ),
)


SOURCES = ("self", "paraphrase", "gold")


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every arm on both axes, seed by seed."""
    world = Worlds(config, lab) if config.data_path is None else Files(config)
    base = accuracies(config, lab, world, world.weights)
    for seed in lab.seeds(config.seeds):
        after, more = {"base": base}, {"base": Row(kl=0.0, examples=0, tokens=0)}
        for method, data in arms(config, lab, world, seed).items():
            if not len(data):  # a base without a right answer of its own stays as it is
                after[method], more[method] = base, Row(kl=0.0, examples=0, tokens=0)
                continue
            updates = config.updates * (2 if method == "ceiling" else 1)
            plan = TrainConfig(1, learning_rate=config.learning_rate, schedule="constant")
            tuned = lab.sft(
                world.network, list(data["prompt"]), list(data["target"]), weights=world.weights,
                tokenizer=world.tokenizer, seed=seed,
                config=replace(plan, epochs=(updates - 0.5) / plan.steps(len(data))),
            )  # fmt: skip
            sources = list(data["target_source"])
            after[method] = accuracies(config, lab, world, tuned.weights)
            more[method] = Row(
                base_logprob=float(np.mean(data["base_logprob"])),
                kl=lab.step(
                    drift, world.network, tuned.weights, world.weights, world.tokenizer,
                    world.tests["target"][0][: config.drift], config.max_tokens, seed,
                ),
                examples=len(data), tokens=tuned.tokens,
                **{f"{source}_share": sources.count(source) / len(sources) for source in SOURCES},
            )  # fmt: skip
        target = {method: found["target"] for method, found in after.items()}
        left = {name: float(np.mean(list(others(a).values()))) for name, a in after.items()}
        kept = {method: forgetting_report(others(base), others(a)) for method, a in after.items()}
        for method in after:
            shared = Row(method=method, seed=seed, drop=kept[method].average, **more[method])
            yield Row(
                shared, axis="target", score=target[method], floor=target["base"],
                ceiling=target["ceiling"],
            )  # fmt: skip
            yield Row(
                shared, axis="others", score=left[method], floor=left["sft"], ceiling=left["base"]
            )


def arms(config: Config, lab: Lab, world: Worlds | Files, seed: int) -> dict[str, Dataset]:
    """The data of each arm: `prompt`, `target`, `target_source` and `base_logprob`."""

    def write(prompts: list[str], samples: int) -> list[list[str]]:
        return lab.generate(
            world.network, prompts, weights=world.weights, tokenizer=world.tokenizer,
            max_tokens=config.max_tokens,
        )  # fmt: skip

    def score(prompts: list[str], responses: list[str]) -> list[float]:
        found: list[float] = lab.step(
            logprobs, world.network, world.weights, world.tokenizer, prompts, responses
        )
        return found

    method = functools.partial(SelfToSupervised, write, world.judge, score=score)
    restate = functools.partial(world.paraphrase, write)
    data = world.examples(seed, config.examples)
    made = {
        "sft": method(own=False).build(data),
        "sdft": method(own=False, paraphrase=restate).build(data),
        "own": method(fallback="drop").build(data),
        "s3ft": method(paraphrase=restate).build(data),
        "ceiling": method(own=False).build(
            world.examples(seed, config.more * config.examples)
        ),
    }  # fmt: skip
    if (pool := world.pool(data)) is not None:
        fitting = pool.score("base_logprob", score).select("base_logprob").dataset
        gold = ["gold"] * len(fitting)
        made["fit"] = fitting.rename_column("response", "target").add_column("target_source", gold)
    return made


def others(found: dict[str, float]) -> dict[str, float]:
    """The tasks that may be forgotten."""
    return {name: value for name, value in found.items() if name != "target"}


def accuracies(config: Config, lab: Lab, world: Worlds | Files, weights: Any) -> dict[str, float]:
    """Share of right greedy answers, whatever their style, on the target and on other tasks."""
    items = [
        (name, prompt, answer)
        for name, pair in world.tests.items()
        for prompt, answer in zip(*pair, strict=True)
    ]
    said = lab.generate(
        world.network, [prompt for _, prompt, _ in items], weights=weights,
        tokenizer=world.tokenizer, max_tokens=config.max_tokens,
    )  # fmt: skip
    right: dict[str, list[float]] = {}
    for (name, prompt, answer), (text,) in zip(items, said, strict=True):
        right.setdefault(name, []).append(world.judge(prompt, text, answer))
    return {name: float(np.mean(found)) for name, found in right.items()}


def logprobs(
    network: Any, weights: Any, tokenizer: Any, prompts: list[str], responses: list[str]
) -> list[float]:
    """The memoised step: nats per token of each response under a model."""
    model = _loaded(network, weights)
    with threads(1):
        found = response_logprob(model, tokenizer, prompts, responses, batch_size=64)
    return found.tolist()


def drift(
    network: Any, tuned: Any, base: Any, tokenizer: Any, prompts: list[str], max_tokens: int,
    seed: int,
) -> float:  # fmt: skip
    """The memoised step: nats per token between what the tuned model and the base would say."""
    models = _loaded(network, tuned), _loaded(network, base)
    with threads(1):
        moved = kl_to_base(*models, tokenizer, prompts, max_tokens=max_tokens, seed=seed)
    return moved.per_token


def _loaded(network: Any, weights: Any) -> Any:
    model = network(0)
    model.load_state_dict(weights)
    return model.eval()


class Worlds:
    """Chains in three styles and tasks on strings, and a base trained on all of them."""

    judge = WorldCheck()

    def __init__(self, config: Config, lab: Lab) -> None:
        self.config, self.tokenizer = config, world_tokenizer(config.others)
        self.network = functools.partial(
            tiny_decoder, config.model, vocabulary=len(self.tokenizer), context=128
        )
        each, tried = config.pretraining // 2 // len(config.others), config.test // 4
        strings = {
            name: string_task(name).sample(tried + each, config.length, 0) for name in config.others
        }
        self.task = config.steps, config.steps + config.extra_steps
        drawn = {"target": ChainPrograms().sample(config.test, self.task, 0)} | {
            name: problems[:tried] for name, problems in strings.items()
        }
        self.tests = {
            name: ([problem.prompt for problem in problems], [p.answer for p in problems])
            for name, problems in drawn.items()
        }
        tested = {prompt for prompts, _ in self.tests.values() for prompt in prompts}
        self.tested, self.known = tested, dict[str, Chain]()
        chains = self.unseen(config.pretraining, (1, config.steps), 0)
        styles = np.random.default_rng(0).choice(config.styles, len(chains), p=config.shares)
        pairs = [(c.prompt, solution(c, style)) for c, style in zip(chains, styles, strict=True)]
        more = itertools.chain(*strings.values())
        pairs += [(p.prompt, terse(p)) for p in more if p.prompt not in tested]
        plan = TrainConfig(1, learning_rate=config.pretraining_rate, warmup=0.1)
        self.weights = lab.sft(
            self.network, *zip(*pairs, strict=True), tokenizer=self.tokenizer, config=plan, seed=0
        ).weights

    def unseen(self, count: int, steps: int | tuple[int, int], seed: int) -> list[Chain]:
        """About as many chains, without those of the test."""
        chains = ChainPrograms().sample(count, steps, seed)
        return [chain for chain in chains if chain.prompt not in self.tested]

    def examples(self, seed: int, count: int) -> Dataset:
        """A seed's chains with gold answers in the rare style, and every style of solving them."""
        found = {c.prompt: c for c in self.unseen(count, self.task, seed + 1)}
        unique = found.values()
        self.known.update(found)
        rows = {style: [solution(c, style) for c in unique] for style in self.config.styles}
        return Dataset.from_dict(
            {"prompt": [c.prompt for c in unique], "reference": [c.answer for c in unique],
             "response": rows[self.config.styles[-1]], **rows}
        )  # fmt: skip

    def paraphrase(self, write: Any, prompts: list[str], gold: list[str]) -> list[str]:
        """Gold answers in the usual style; a share, the same in every arm, is spoilt."""
        texts = []
        for prompt in prompts:
            chain = self.known[prompt]
            draw = np.random.default_rng(list(prompt.encode())).random()
            text = solution(chain, self.config.styles[0])
            texts.append(f"{text} =>" if draw < self.config.spoilt else text)
        return texts

    def pool(self, data: Dataset) -> ResponsePool | None:
        """Every style of solving each example."""
        return ResponsePool(
            {"prompt": row["prompt"], "response": row[style], "source": style}
            for row in data for style in self.config.styles
        )  # fmt: skip


class Files:
    """Your own data, as files of JSON lines in one folder.

    train.jsonl: prompt, response (gold), reference (its final answer). target.jsonl: prompt,
    answer. Every other .jsonl file, with the same two, is a task that may be forgotten.
    """

    judge = NumberMatch()

    def __init__(self, config: Config) -> None:
        folder = Path(config.data_path or "")
        files = sorted(folder.glob("*.jsonl"))
        read = {f.stem: [json.loads(line) for line in f.read_text().splitlines()] for f in files}
        if not {"train", "target"} <= set(read) or len(read) < 3:
            raise UserError(f"{folder} needs train.jsonl, target.jsonl and one task more.")
        self.train, self.tokenizer = read.pop("train"), load_tokenizer(config.model)
        self.network = functools.partial(_named, config.model)
        self.weights = self.network(0).state_dict()
        self.tests = {
            name: ([row["prompt"] for row in rows], [row["answer"] for row in rows])
            for name, rows in ((name, rows[: config.test]) for name, rows in read.items())
        }

    def examples(self, seed: int, count: int) -> Dataset:
        """As many examples as there are, in an order drawn by the seed."""
        order = np.random.default_rng(seed).permutation(len(self.train))[:count]
        return Dataset.from_list([self.train[i] for i in order])

    def paraphrase(self, write: Any, prompts: list[str], gold: list[str]) -> list[str]:
        """The model's own version of each gold answer."""
        pairs = zip(prompts, gold, strict=True)
        asked = [PARAPHRASE.format(prompt=prompt, reference=answer) for prompt, answer in pairs]
        return [text for (text,) in write(asked, 1)]

    def pool(self, data: Dataset) -> ResponsePool | None:
        """There is one answer to each."""
        return None


def _named(name: str, seed: int) -> Any:
    return load_model(name, device="cpu")
