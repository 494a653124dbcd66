"""Does training on a model's own right answers, where there are any, keep what else it can do?

Protocol (Gupta et al. 2025, arXiv 2502.08130). A base model is tuned on one task, whose gold
answers are written in a way that is rare for it. Arms differ in the target of each example: the
gold answer (SFT), a paraphrase of it if right (SDFT), the base's own greedy answer if right and
nothing otherwise (own), own else paraphrase else gold (S3FT), or of three right answers the one
that the base finds most probable (fit, after GRAPE). The task is chains of sums modulo 5 in one of
three styles, of a length that the base has seen too little of to solve more than half; four tasks
on strings of letters are what may be forgotten. Two axes: on "target" the floor is the base and the
ceiling SFT on four times the data, read for twice as long; on "others" the floor is SFT and the
ceiling the base, which has forgotten nothing. The panel `smollm2` does the same to a model people
know, with sums of reasoning-gym whose gold answers are in an odd notation; what it may forget is
how probable news articles are.

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from generality.benchmarks.tuning_files import TuningFiles
from generality.benchmarks.worlds.styled_chains import StyledChains
from generality.claims import Claim, Row, greater, less, monotone
from generality.errors import UserError
from generality.lab import Lab, TrainConfig
from generality.measures import forgetting_report
from generality.selection import Judge, NumberMatch, ResponsePool, SelfToSupervised, WorldCheck
from generality.selection.self_to_supervised import PARAPHRASE
from generality.studies.study import Paper
from generality.training.writer import Writer

PAPER = Paper(
    "Selective Self-to-Supervised Fine-Tuning for Generalization in Large Language Models",
    arxiv="2502.08130",
    year=2025,
)
FACTORS = ("axis",)


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    model: str = "0.25M"  # a size of `tiny_decoder`; with data_path a model's name
    data_path: str | None = None  # folder of train.jsonl and suites; None: procedural tasks
    styles: tuple[str, ...] = ("full", "named", "equations")  # the usual one first, gold last
    shares: tuple[float, ...] = (0.8, 0.15, 0.05)  # of the styles in what the base was trained on
    others: tuple[str, ...] = ("copy", "reverse", "last", "max")  # tasks that may be forgotten
    steps: int = 3  # of the longest chain that the base was trained on
    extra_steps: int = 0  # that chains of the task may have beyond it
    length: int = 4  # letters of a string
    # chains of 1 to `steps`, and half as many strings, read once; so few that the base solves half
    pretraining: int = 7750
    pretraining_rate: float = 3e-3
    spoilt: float = 0.2  # share of paraphrases that say something else
    examples: int = 300  # of the target task
    more: int = 4  # times the examples for the ceiling, at twice the updates
    test: int = 250  # other chains; a quarter as many strings of each task
    updates: int = 100  # of every arm, 32 examples each
    learning_rate: float = 5e-4  # Adam, constant: the same for all arms
    max_tokens: int = 48  # of an answer
    drift: int = 64  # answers on which the distance to the base is measured
    seeds: int = 4
    real: str | None = "smollm2-135m"  # the model of its panel, or a size of `tiny_decoder`
    real_seeds: int = 3  # of its sums and their order
    real_sums: int = 24  # that it learns from by LoRA, of three one-digit numbers
    real_test: int = 24  # other sums
    real_texts: str = "bbc"  # a benchmark of texts that may become less probable
    real_articles: int = 16  # of them, cut to 40 words
    real_tokens: int = 40  # of an answer

    def __post_init__(self) -> None:
        if len(self.styles) != len(self.shares) or len(self.styles) < 2:
            raise UserError("styles and shares name as many things, two or more.")


SCALES = {
    "smoke": Config(
        model="0.05M", pretraining=200, examples=24, test=24, updates=6, more=2, drift=4, seeds=2,
        max_tokens=16, steps=2, others=("copy", "last"), real="0.05M", real_seeds=1, real_sums=4,
        real_test=2, real_texts="drug_reviews", real_articles=2, real_tokens=4,
    ),
    "small": Config(),
    "full": Config(
        model="hf:mistralai/Mistral-7B-Instruct-v0.2", data_path="data/s3ft", examples=7473,
        more=1, test=1319, updates=700, learning_rate=1e-5, max_tokens=512, seeds=3,
        real="hf:Qwen/Qwen2.5-1.5B", real_sums=500, real_test=200, real_articles=200,
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
    Claim(
        "SmolLM2's own right answers and paraphrases teach it sums better than odd gold answers",
        greater("s3ft", "sft", where={"axis": "smollm2-target"}),
        expected_at="full",
    ),
    Claim(
        "They leave news articles more probable",
        greater("s3ft", "sft", where={"axis": "smollm2-others"}),
    ),
)


SOURCES = ("self", "paraphrase", "gold")
Task = StyledChains | TuningFiles


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every arm on both axes, seed by seed."""
    task, base = start(config, lab)
    judge: Judge = NumberMatch() if config.data_path else WorldCheck()

    def accuracies(writer: Writer) -> dict[str, float]:
        return writer.accuracies(lab, task.tests, judge, max_tokens=config.max_tokens)

    before = accuracies(base)
    for seed in lab.seeds(config.seeds):
        after, more = {"base": before}, {"base": Row(kl=0.0, examples=0, tokens=0)}
        for method, data in arms(config, lab, task, base, judge, seed).items():
            if not len(data):  # a base without a right answer of its own stays as it is
                after[method], more[method] = before, Row(kl=0.0, examples=0, tokens=0)
                continue
            updates = config.updates * (2 if method == "ceiling" else 1)
            tuned = base.tuned(
                lab, data["prompt"][:], data["target"][:], seed=seed, updates=updates,
                config=TrainConfig(1, learning_rate=config.learning_rate, schedule="constant"),
            )  # fmt: skip
            sources, asked = data["target_source"][:], task.tests["target"][0][: config.drift]
            after[method] = accuracies(tuned)
            more[method] = Row(
                base_logprob=float(np.mean(data["base_logprob"])),
                kl=tuned.moved(lab, base, asked, max_tokens=config.max_tokens, seed=seed),
                examples=len(data), tokens=tuned.training.tokens if tuned.training else 0,
                **{f"{source}_share": sources.count(source) / len(sources) for source in SOURCES},
            )  # fmt: skip
        target = {method: found["target"] for method, found in after.items()}
        left = {name: float(np.mean(list(others(a).values()))) for name, a in after.items()}
        for method in after:
            drop = forgetting_report(others(before), others(after[method])).average
            shared = Row(method=method, seed=seed, drop=drop, **more[method])
            yield Row(
                shared, axis="target", score=target[method], floor=target["base"],
                ceiling=target["ceiling"],
            )  # fmt: skip
            yield Row(
                shared, axis="others", score=left[method], floor=left["sft"], ceiling=left["base"]
            )
    if config.real:
        yield from real_rows(config, lab, config.real)


def real_rows(config: Config, lab: Lab, name: str) -> Iterator[Row]:
    """A real model that learns sums, and what it then makes of news."""
    from generality.experiments.sum_panels import own_words_rows
    from generality.experiments.sum_school import SumSchool, other_texts

    articles = other_texts(config.real_texts, config.real_articles)
    school = SumSchool(lab, name, max_tokens=config.real_tokens)
    for seed in lab.seeds(config.real_seeds):
        for row in own_words_rows(school, config.real_sums, config.real_test, articles, seed=seed):
            yield Row(row, axis=f"smollm2-{row['axis']}")


def start(config: Config, lab: Lab) -> tuple[Task, Writer]:
    """The tasks, and the base that solves some of them."""
    if config.data_path is not None:
        return TuningFiles(config.data_path, test=config.test), Writer.named(config.model)
    task = StyledChains(
        config.styles, config.shares, steps=config.steps, spoilt=config.spoilt, test=config.test,
        target=(config.steps, config.steps + config.extra_steps), others=config.others,
        length=config.length,
    )  # fmt: skip
    plan = TrainConfig(1, learning_rate=config.pretraining_rate, warmup=0.1)
    pairs = zip(*task.pretraining(config.pretraining), strict=True)
    return task, Writer.tiny(config.model, config.others).tuned(lab, *pairs, config=plan, seed=0)


def arms(
    config: Config, lab: Lab, task: Task, base: Writer, judge: Judge, seed: int
) -> dict[str, Dataset]:
    """The data of each arm: `prompt`, `target`, `target_source` and `base_logprob`."""
    data = task.examples(seed, config.examples)
    score = functools.partial(base.logprobs, lab)

    def write(prompts: Sequence[str], samples: int) -> list[list[str]]:
        return base.write(lab, prompts, max_tokens=config.max_tokens)

    def restate(prompts: list[str], gold: list[str]) -> list[str]:
        if isinstance(task, StyledChains):
            said = task.paraphrases(data)
            return [said[prompt] for prompt in prompts]
        pairs = zip(prompts, gold, strict=True)
        asked = [PARAPHRASE.format(prompt=prompt, reference=answer) for prompt, answer in pairs]
        return [text for (text,) in write(asked, 1)]

    method = functools.partial(SelfToSupervised, write, judge, score=score)
    made = {
        "sft": method(own=False).build(data),
        "sdft": method(own=False, paraphrase=restate).build(data),
        "own": method(fallback="drop").build(data),
        "s3ft": method(paraphrase=restate).build(data),
        "ceiling": method(own=False).build(task.examples(seed, config.more * config.examples)),
    }
    if isinstance(task, StyledChains):
        pool = ResponsePool(
            {"prompt": row["prompt"], "response": row[style], "source": style}
            for row in data for style in config.styles
        )  # fmt: skip
        fitting = pool.score("base_logprob", score).select("base_logprob").dataset
        gold = ["gold"] * len(fitting)
        made["fit"] = fitting.rename_column("response", "target").add_column("target_source", gold)
    return made


def others(found: dict[str, float]) -> dict[str, float]:
    """The tasks that may be forgotten."""
    return {name: value for name, value in found.items() if name != "target"}
