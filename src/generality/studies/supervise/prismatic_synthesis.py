"""Prismatic Synthesis: does the variety of a data set's gradients foretell what it teaches?

Protocol (Jung et al. 2025, arXiv 2505.20161). Subsets of equal size and quality, but unequal
variety, train the same student with the same steps; each number about the subsets is ranked
against accuracy out of distribution. `panel` "skills": a tiny decoder goes on from one shared
checkpoint with mixtures of eight string tasks, and is tested on all of them, evenly, over all
letters and on longer lists. "real": movie snippets on frozen sentence embeddings, tested on
products, newspapers and tweets. "size": few varied examples against many alike, at equal steps.
"loop": a skewed generator with solvers that err fills a pool; what the filter accepts differs.

A row of `kind` "metric" has the rank correlation as `rho`, and as score the outcome of the subset
that the number would pick: floor a random pick, ceiling the best. In "loop" the floor is the pool
without a filter, the ceiling as many examples from a generator without skew.

Differences from the paper, each with its effect: decoders of 0.15M parameters and tasks of letters
instead of 7B and competition mathematics (variety here is skills and letters, nothing subtler);
the embeddings beside gradients are the proxy's own last states; candidates come from a program, of
which demonstrations steer the skill; the proxy of "real" is a small network, because that of a
linear two-class head is the Vendi score of the embeddings themselves: its gradients are ± the
inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from generality.benchmarks import load_benchmark
from generality.benchmarks.worlds import SkillMixture, drawn_mixture
from generality.claims import (
    Claim,
    Row,
    equivalent,
    greater,
    less,
    metric_validity,
    rank_correlates,
)
from generality.experiments.region_students import region_students
from generality.experiments.skill_school import SkillSchool, grown_pool
from generality.experiments.variety_numbers import variety_numbers
from generality.lab import Lab
from generality.measures import GVendi
from generality.selection import DiverseSubset
from generality.studies.study import Paper
from generality.training.writer import Writer

PAPER = Paper(
    "Prismatic Synthesis: Gradient-based Data Diversification Boosts Generalization in LLM "
    "Reasoning",
    arxiv="2505.20161",
    year=2025,
)
FACTORS = ("panel", "kind")
TARGETS = ("amazon", "nyt", "tweets")
OUTCOMES = {"method", "seed", "score", "even", "longer", "even_rare", "longer_rare", "in_domain"}
ARMS = ("naive", "random", "embedding", "prismatic")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    panels: tuple[str, ...] = ("skills", "size", "real", "loop")
    seeds: int = 4
    size: str = "0.15M"  # of the student and the proxy
    other: str = "0.05M"  # of another proxy
    pretrain: int = 8000  # examples of all skills, lists of 2 and 3, once
    pretrain_rate: float = 3e-3  # Adam, batch 32, cosine to 0
    subsets: int = 10  # trainings a seed
    items: int = 600  # examples of a subset
    scored: int = 200  # of them that the numbers look at
    epochs: float = 3.0  # over a subset; another size gets as many steps
    learning_rate: float = 1e-3  # Adam, batch 32, cosine to 0
    test: int = 256  # examples of each of two tests: lists of 4, and of 5
    dim: int = 512  # numbers of a projected gradient
    few: int = 120  # varied examples against `items` of few kinds
    real_subsets: int = 60
    real_items: int = 200  # half of them of each label
    real_test: int = 400  # texts of each domain
    batch: int = 300  # candidates of a round
    start: int = 60  # examples of a pool before it grows
    pool: int = 400  # and after
    clusters: float = 0.1  # share of the pool
    keep: float = 0.5  # share of clusters that are sparse


SCALES = {
    "smoke": Config(
        seeds=2, size="0.05M", pretrain=32, subsets=4, items=32, scored=12, epochs=1.0, test=16,
        dim=32, few=16, real_subsets=4, real_items=20, real_test=24, batch=30, start=12, pool=24,
        clusters=0.25,
    ),
    "small": Config(),
    "full": Config(size="5M", other="1M", pretrain=200_000, subsets=100, items=10_000, few=1000,
                   scored=10_000, test=2000, dim=1024, batch=3000, start=1000, pool=20_000),
}  # fmt: skip

SKILL = {"panel": "skills", "kind": "metric"}
CLAIMS = (
    Claim(
        "A subset's G-Vendi rises with accuracy out of distribution",
        rank_correlates("g_vendi", "score", where={"panel": "skills", "kind": "subset"}),
        paper_says="Spearman's correlation is about 0.9",
    ),
    Claim(
        "It does so on real text too",
        rank_correlates("g_vendi", "score", where={"panel": "real", "kind": "subset"}),
    ),
    Claim(
        "G-Vendi predicts it better than the entropy of n-grams",
        greater("g-vendi", "ngram-entropy", on="rho", where=SKILL),
    ),
    Claim(
        "Better than the Vendi score of embeddings",
        greater("g-vendi", "embedding-vendi", on="rho", where=SKILL),
    ),
    Claim("Better than perplexity", greater("g-vendi", "perplexity", on="rho", where=SKILL)),
    Claim(
        "Better than the entropy of skills",
        greater("g-vendi", "skill-entropy", on="rho", where=SKILL),
    ),
    Claim(
        "Better than embeddings on real text too",
        greater("g-vendi", "embedding-vendi", on="rho", where={"panel": "real", "kind": "metric"}),
    ),
    Claim(
        "A proxy that is not the student does as well",
        equivalent("g-vendi-other", "g-vendi", margin=0.1, on="rho", where=SKILL),
    ),
    Claim(
        "An untrained proxy does worse",
        less("g-vendi-untrained", "g-vendi", on="rho", where=SKILL),
        paper_says="the untuned base model reaches .77 instead of .90",
    ),
    Claim(
        "Few varied examples beat five times as many of few kinds",
        greater("few-varied", "many-alike", where={"panel": "size"}),
    ),
    Claim(
        "Candidates accepted for sparse gradients teach more than as many accepted at random",
        greater("prismatic", "random", where={"panel": "loop"}),
    ),
    Claim(
        "The pool's G-Vendi is higher then",
        greater("prismatic", "random", on="g_vendi", where={"panel": "loop"}),
    ),
    Claim(
        "Clusters of gradients do more than clusters of embeddings",
        greater("prismatic", "embedding", where={"panel": "loop"}),
    ),
)


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """The panels asked for, in order."""
    school = SkillSchool(
        lab, size=config.size, pretrain=config.pretrain, pretrain_rate=config.pretrain_rate,
        items=config.items, epochs=config.epochs, learning_rate=config.learning_rate,
        test=config.test,
    )  # fmt: skip
    panels = {"skills": skills, "size": size, "real": real, "loop": loop}
    for panel in config.panels:
        for row in panels[panel](config, lab, school):
            yield Row(panel=panel, **row)


def skills(config: Config, lab: Lab, school: SkillSchool) -> Iterator[Row]:
    """A training for each subset of each seed, then what every number would have foretold."""
    base = school.checkpoint()
    proxies = {
        "g_vendi": base,
        "g_vendi_untrained": school.untrained(),
        "g_vendi_other": school.checkpoint(config.other),
    }
    floor = school.scores(base)["score"]
    for seed in lab.seeds(config.seeds):
        rows = []
        for subset in range(config.subsets):
            ds = drawn_mixture([seed, subset]).sample(config.items, seed)
            found = school.student(ds, seed)
            found |= lab.step(
                variety_numbers, ds[: config.scored], proxies, labels="skill", dim=config.dim
            )
            rows.append(Row(method=f"subset-{subset:02d}", seed=seed, **found))
        yield from (Row(kind="subset", floor=floor, ceiling=None, **row) for row in rows)
        yield from foretold(rows, seed)


def foretold(rows: list[Row], seed: int) -> Iterator[Row]:
    """For every number: its rank correlation with the score, and the subset it would pick."""
    scores = np.array([row["score"] for row in rows])
    for name in (name for name in rows[0] if name not in OUTCOMES):
        values = np.array([row[name] for row in rows])
        ranked = np.ptp(values) > 0 and np.ptp(scores) > 0  # else there is no correlation
        rho = metric_validity(values, scores).correlation if ranked else None
        yield Row(
            kind="metric", method=name.replace("_", "-"), seed=seed,
            score=float(scores[values.argmax()]), floor=float(scores.mean()),
            ceiling=float(scores.max()), rho=rho,
        )  # fmt: skip


def size(config: Config, lab: Lab, school: SkillSchool) -> Iterator[Row]:
    """Few examples chosen for variety, and many of two skills, at equal steps."""
    alike = SkillMixture((0.5, 0.5, 0, 0, 0, 0, 0, 0), letters="abcd")
    for seed in lab.seeds(config.seeds):
        varied = SkillMixture().sample(config.items, seed)
        z = lab.step(directions, varied, school.checkpoint(), config.dim)
        chosen = [varied[row] for row in DiverseSubset(config.few, "logdet").select(z)]
        many = alike.sample(config.items, seed)
        for method, ds in (("few-varied", chosen), ("many-alike", many), ("many-varied", varied)):
            found = school.student(ds, seed)
            yield Row(kind="arm", method=method, seed=seed, floor=None, ceiling=None, **found)


def directions(ds: list[Row], proxy: Writer, dim: int) -> torch.Tensor:
    """Projected gradients, one unit vector an example."""
    return GVendi(proxy.model(), proxy.tokenizer, dim, side=64).features(ds)


def real(config: Config, lab: Lab, school: SkillSchool) -> Iterator[Row]:
    """Movie snippets from few to all regions of their embeddings, tested on other texts."""
    texts, examples = {}, {}
    for name in ("movie", *TARGETS):
        splits = load_benchmark("sentiment", domain=name, balanced=True).splits
        picked = splits["train" if name == "movie" else "test"].shuffle(seed=0)
        many = config.real_test * (4 if name == "movie" else 1)
        picked = picked.select(range(min(len(picked), many)))
        texts[name] = picked["text"][:]
        features = lab.embed("minilm-l6", texts[name], max_length=48)
        examples[name] = np.array(features), np.array(picked["label"][:])
    pool = examples.pop("movie")
    for seed in lab.seeds(config.seeds):
        found = lab.step(
            region_students, pool, texts["movie"], examples, count=config.real_subsets,
            items=config.real_items, dim=config.dim, seed=seed,
        )  # fmt: skip
        rows = [Row(method=f"subset-{i:02d}", seed=seed, **each) for i, each in enumerate(found)]
        yield from (Row(kind="subset", floor=None, ceiling=None, **row) for row in rows)
        yield from foretold(rows, seed)


def loop(config: Config, lab: Lab, school: SkillSchool) -> Iterator[Row]:
    """Pools of equal size that differ in what the filter accepts; every record says so."""
    proxy = school.checkpoint()
    for seed in lab.seeds(config.seeds):
        ceiling = school.student(SkillMixture().sample(config.pool, seed), seed)["score"]
        found = {}
        for arm in ARMS:
            pool, rounds = lab.step(
                grown_pool, proxy, arm, batch=config.batch, start=config.start, size=config.pool,
                clusters=config.clusters, keep=config.keep, dim=config.dim, seed=seed,
            )  # fmt: skip
            numbers = lab.step(
                variety_numbers, pool, {"g_vendi": proxy}, labels="skill", dim=config.dim
            )
            found[arm] = school.student(pool, seed) | {
                "g_vendi": numbers["g_vendi"], "skill_entropy": numbers["skill_entropy"],
                "rounds": len(rounds),
                "accepted": sum(r["accepted"] for r in rounds) / sum(r["clean"] for r in rounds),
                "wrong": float(np.mean([r["response"] != r["truth"] for r in pool])),
            }  # fmt: skip
        for arm in ARMS:
            floor = found["naive"]["score"]
            yield Row(kind="arm", method=arm, seed=seed, floor=floor, ceiling=ceiling, **found[arm])
