"""Weak to strong beyond accuracy: rare classes, and texts that should do no harm.

Protocol (Ye et al. 2024, arXiv 2410.12621). `track` "classification": a weak model learns from true
labels of few texts, of which 15 % are unsafe, labels others, and a strong one learns from those
labels; accuracy, balanced accuracy and weighted F1 each have a floor (the weak model), a ceiling
(true labels) and a share recovered. "generation": a weak writer learns to continue openings of
reviews without negative sentiment, continues others, and a strong writer learns from what it wrote;
25 continuations of each test prompt are scored. Scores there are 1 − risk, so that more is better.

Controls: `constant` says the common class always; `untuned` is the strong writer before any tuning.

Differences from the paper, each with its effect: its short lists of safety prompts, its toxicity
service and its legal texts are not here; "unsafe" is a negative review of a film or a product (or a
drug rated 6 of 10 or lower), thinned to 15 % (real texts, a made imbalance), or spam, which is as
rare by itself. The weak classifier is a logistic regression on words and the strong one a probe of
MiniLM, in place of GPT-2 and larger ones; all of them weigh classes evenly, or they would find few
unsafe texts at all. Writers are decoders of 0.15M and 0.6M parameters that know 1,500 words: what
they write is crude, and its "toxicity" is the probability of negative sentiment by a classifier of
words. The strategies beside naive labels are reconstructions: the paper's code has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from generality.benchmarks import load_benchmark
from generality.benchmarks.class_shares import thinned
from generality.benchmarks.review_openings import review_openings
from generality.claims import Claim, Row, greater
from generality.experiments.rare_class_ladder import rare_class_ladder
from generality.lab import Lab, TrainConfig
from generality.measures import DistinctN
from generality.measures.outcome_metrics import CLASSIFICATION, GENERATION
from generality.measures.word_scorer import word_scorer
from generality.models.tiny_decoders import SIZES
from generality.studies.study import Paper
from generality.training.weak_to_strong_lm import WeakToStrongLM
from generality.training.writer import Writer

PAPER = Paper(
    "Weak-to-Strong Generalization beyond Accuracy: a Pilot Study in Safety, Toxicity, and Legal "
    "Reasoning",
    arxiv="2410.12621",
    year=2024,
)
FACTORS = ("task", "track", "metric")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    tracks: tuple[str, ...] = ("classification", "generation")
    seeds: int = 4
    tasks: tuple[str, ...] = ("movie", "amazon")  # domains of sentiment, "drugs" or "spam"
    rare: float = 0.15  # share of unsafe texts
    supervised: int = 800  # texts with true labels, at most a third of all
    weak_strength: float = 1.0  # C of the weak model: how closely it fits its labels
    transfer: int = 1400  # texts that the weak model labels, at most
    test: int = 1000  # texts, at most
    encoder: str = "minilm-l6"
    max_length: int = 64  # tokens
    keep: float = 0.5  # share of weak labels that the filters keep
    epochs: int = 10  # of probes
    probe_rate: float = 3e-4  # AdamW, batch 32; chosen on weak labels held out and the ceiling
    weak: str = "0.15M"  # writer: a size of `tiny_decoder`, or a model's name
    strong: str = "0.6M"
    vocabulary: int = 1500  # words that tiny writers know
    corpus: int = 4000  # texts that tiny writers read first
    corpus_epochs: float = 2.0
    corpus_rate: float = 3e-3  # Adam, batch 32, cosine to 0
    opening: int = 4  # words of a prompt
    prompts: int = 300  # for the supervisor, and as many for the student
    tuning_epochs: float = 2.0
    tuning_rate: float = 1e-3
    samples: int = 8  # continuations of which the best is kept
    test_prompts: int = 40
    draws: int = 25  # continuations of each that are scored
    max_tokens: int = 12


SCALES = {
    "smoke": Config(
        seeds=2, tasks=("movie",), supervised=40, transfer=60, test=60, max_length=24, epochs=3,
        weak="0.05M", strong="0.15M", vocabulary=200, corpus=60, corpus_epochs=1.0, prompts=12,
        tuning_epochs=1.0, samples=2, test_prompts=4, draws=3, max_tokens=5,
    ),
    "small": Config(),
    "full": Config(
        supervised=2000, transfer=6000, test=3000, encoder="hf:Qwen/Qwen2.5-7B", max_length=512,
        weak="hf:openai-community/gpt2", strong="hf:Qwen/Qwen2.5-7B", prompts=4000, opening=6,
        tuning_rate=5e-5, tuning_epochs=3.0, test_prompts=1000, max_tokens=100,
    ),
}  # fmt: skip

CLASSES, TEXTS = {"track": "classification"}, {"track": "generation"}
CLAIMS = (
    *(
        Claim(
            f"On an imbalanced task the strong student beats its weak supervisor by {metric.name}",
            greater("naive", "floor", where={**CLASSES, "metric": metric.name}),
        )
        for metric in CLASSIFICATION
    ),
    Claim(
        "Labels filtered within each class raise balanced accuracy above naive ones",
        greater("balanced-filter", "naive", where={**CLASSES, "metric": "balanced accuracy"}),
    ),
    Claim(
        "Within each class is better than the surest of all",
        greater("balanced-filter", "filter", where={**CLASSES, "metric": "balanced accuracy"}),
    ),
    Claim(
        "The confidence loss raises balanced accuracy above naive training",
        greater("confidence", "naive", where={**CLASSES, "metric": "balanced accuracy"}),
    ),
    *(
        Claim(
            f"The strong writer does less harm than the weak one that taught it, by {metric.name}",
            greater("naive", "floor", where={**TEXTS, "metric": metric.name}),
        )
        for metric in GENERATION
    ),
    Claim(
        "Taught the least harmful of 8 continuations it does less harm",
        greater("selected", "naive", where={**TEXTS, "metric": "expected maximum toxicity"}),
    ),
    Claim(
        "Tuning on weak texts does less harm than none",
        greater("naive", "untuned", where={**TEXTS, "metric": "expected maximum toxicity"}),
    ),
)


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """The tracks asked for, in order."""
    tracks = {"classification": classification, "generation": generation}
    for track in config.tracks:
        for row in tracks[track](config, lab):
            yield Row(track=track, **row)


def classification(config: Config, lab: Lab) -> Iterator[Row]:
    """Each task, seed and metric."""
    cut = (config.supervised, config.transfer, config.test)
    named = {"drugs": ("drug_reviews", {"words": config.max_length}), "spam": ("spam", {})}
    for task in config.tasks:
        name, options = named.get(task, ("sentiment", {"domain": task}))
        benchmark = load_benchmark(name, **options)
        texts = [t for split in ("train", "test") for t in benchmark.splits[split]["text"]]
        label = [y for split in ("train", "test") for y in benchmark.splits[split]["label"]]
        bad = np.array(label) == int(task == "spam")  # elsewhere it is the negative class
        rows = thinned(bad, config.rare, most=sum(cut))
        texts, unsafe = [texts[row] for row in rows], bad[rows].astype(int)
        x = np.array(lab.embed(config.encoder, texts, max_length=config.max_length))
        for seed in lab.seeds(config.seeds):
            said = lab.step(
                rare_class_ladder, texts, x, unsafe, supervised=config.supervised,
                transfer=config.transfer, test=config.test, strength=config.weak_strength,
                keep=config.keep, epochs=config.epochs, rate=config.probe_rate, seed=seed,
            )  # fmt: skip
            truth, ends = said.pop("truth"), [said.pop(end) for end in ("floor", "ceiling")]
            for method, found in said.items():
                for metric in CLASSIFICATION:
                    floor, ceiling = (metric.score(end, truth) for end in ends)
                    yield Row(
                        method=method, seed=seed, task=task, metric=metric.name,
                        score=metric.score(found, truth), floor=floor, ceiling=ceiling,
                        said_unsafe=float((found.argmax(1) == 1).mean()),
                    )  # fmt: skip


def generation(config: Config, lab: Lab) -> Iterator[Row]:
    """Each seed's writers; the judge's texts, the writers' and the selector's are disjoint."""
    reviews = review_openings(config.opening)
    risk, choose = word_scorer(*reviews.judge), word_scorer(*reviews.selector)
    reading = TrainConfig(epochs=config.corpus_epochs, learning_rate=config.corpus_rate)
    weak, strong = (
        Writer.of_corpus(
            lab, name, reviews.texts[: config.corpus], words=config.vocabulary, config=reading
        )
        if name in SIZES
        else Writer.named(name)
        for name in (config.weak, config.strong)
    )
    training = TrainConfig(epochs=config.tuning_epochs, learning_rate=config.tuning_rate)
    w2s = WeakToStrongLM(lab, weak, strong, config=training, max_tokens=config.max_tokens)
    risks = risk([following for _, following in reviews.pairs])
    calm = [pair for pair, bad in zip(reviews.pairs, risks, strict=True) if bad < 0.5]
    asked = [prompt for prompt, _ in reviews.pairs[-config.test_prompts :]]
    for seed in lab.seeds(config.seeds):
        order = np.random.default_rng(seed).permutation(len(calm) - config.test_prompts)
        mine, theirs = (
            [calm[row] for row in order[first : first + config.prompts]]
            for first in (0, config.prompts)
        )
        openings, continued = zip(*mine, strict=True)
        supervisor = w2s.tune(weak, openings, continued, seed)
        prompts, right = zip(*theirs, strict=True)
        naive = w2s.supervision(supervisor, prompts, seed=seed)
        best = w2s.supervision(
            supervisor, prompts, seed=seed, samples=config.samples, scorer=choose
        )
        writers = {
            "floor": supervisor, "ceiling": w2s.tune(strong, prompts, right, seed),
            "naive": w2s.tune(strong, prompts, naive, seed),
            "selected": w2s.tune(strong, prompts, best, seed), "untuned": strong,
        }  # fmt: skip
        said = {
            name: w2s.write(each, asked, samples=config.draws, seed=seed)
            for name, each in writers.items()
        }
        scores = {k: np.array([risk(texts) for texts in v]) for k, v in said.items()}
        every = {name: [text for texts in each for text in texts] for name, each in said.items()}
        varied = {name: DistinctN(2)(found) for name, found in every.items()}
        for method in ("naive", "selected", "untuned"):
            for metric in GENERATION:
                good = {name: 1 - metric.score(each) for name, each in scores.items()}
                yield Row(
                    method=method, seed=seed, task="reviews", metric=metric.name,
                    score=good[method], floor=good["floor"], ceiling=good["ceiling"],
                    distinct_2=varied[method], floor_distinct_2=varied["floor"],
                    ceiling_distinct_2=varied["ceiling"],
                    empty=float(np.mean([not text.strip() for text in every[method]])),
                )  # fmt: skip
