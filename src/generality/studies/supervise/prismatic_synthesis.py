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

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import nn

from generality.benchmarks import load_benchmark
from generality.benchmarks.worlds import (
    SKILLS,
    NoisySolvers,
    SkewedGenerator,
    SkillMixture,
    answer_of,
    drawn_mixture,
    world_tokenizer,
)
from generality.claims import (
    Claim,
    Row,
    equivalent,
    greater,
    less,
    metric_validity,
    rank_correlates,
)
from generality.lab import Lab, TrainConfig
from generality.measures import (
    CompressionRatio,
    DistinctN,
    GVendi,
    LabelEntropy,
    MeanPerplexity,
    MeanStates,
    NGramEntropy,
    ProjectedGradients,
    greedy_match,
    vendi_score,
)
from generality.models import tiny_decoder
from generality.selection import (
    DiverseSubset,
    MajorityAgreement,
    SparseClusterFilter,
    SynthesisLoop,
    region_subsets,
)
from generality.selection.synthesis_loop import AcceptAtRandom
from generality.studies.study import Paper

PAPER = Paper(
    "Prismatic Synthesis: Gradient-based Data Diversification Boosts Generalization in LLM "
    "Reasoning",
    arxiv="2505.20161",
    year=2025,
)
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
    panels = {"skills": skills, "size": size, "real": real, "loop": loop}
    for panel in config.panels:
        for row in panels[panel](config, lab):
            yield Row(panel=panel, **row)


# ------------------------------------------------------------------- mixtures of skills


def network(name: str) -> Any:
    """A decoder of this size, for `lab.sft`."""
    return functools.partial(
        tiny_decoder, name, vocabulary=len(world_tokenizer(SKILLS)), context=48
    )


def loaded(name: str, weights: dict | None) -> nn.Module:
    """The decoder with these weights; None: as it was drawn."""
    model = network(name)(0)
    if weights is not None:
        model.load_state_dict(weights)
    return model.eval()


def taught(
    lab: Lab, name: str, ds: list[Row], training: TrainConfig, seed: int, weights: dict | None
) -> dict:
    """A decoder's weights after training on these examples."""
    columns = ([r[name] for r in ds] for name in ("prompt", "response"))
    return lab.sft(
        network(name), *columns, tokenizer=world_tokenizer(SKILLS), config=training, seed=seed,
        weights=weights,
    ).weights  # fmt: skip


def checkpoint(config: Config, lab: Lab, name: str) -> dict:
    """A decoder of this size after a brief look at all skills."""
    ds = SkillMixture(length=(2, 3)).sample(config.pretrain, seed=0)
    training = TrainConfig(epochs=1, learning_rate=config.pretrain_rate)
    return taught(lab, name, ds, training, 0, None)


def student(config: Config, lab: Lab, ds: list[Row], seed: int) -> dict[str, float]:
    """What the checkpoint is worth after as many steps on these examples as on any others."""
    epochs = config.epochs * config.items / len(ds)
    training = TrainConfig(epochs=epochs, learning_rate=config.learning_rate)
    base = checkpoint(config, lab, config.size)
    return lab.step(tested, config, taught(lab, config.size, ds, training, seed, base))


def tested(config: Config, weights: dict) -> dict[str, float]:
    """Accuracy on all skills evenly, over all letters: lists of 4, and of 5, which none had."""
    model, found = loaded(config.size, weights), {}
    for name, length in (("even", 4), ("longer", 5)):
        ds = SkillMixture(length=length).sample(config.test, seed=0)
        columns = ([r[column] for r in ds] for column in ("prompt", "response"))
        right = greedy_match(model, world_tokenizer(SKILLS), *columns).float()
        found[name] = float(right.mean())
        found[f"{name}_rare"] = float(right[[r["skill"] in SKILLS[4:] for r in ds]].mean())
    return {"score": (found["even"] + found["longer"]) / 2, **found}


def numbers(config: Config, ds: list[Row], proxies: dict[str, tuple[str, dict | None]]) -> Row:
    """Every number about a subset, more being more variety."""
    tokenizer, models = world_tokenizer(SKILLS), {k: loaded(*v) for k, v in proxies.items()}
    texts = [f"{r['prompt']} {r['response']}" for r in ds]
    found = {k: GVendi(m, tokenizer, config.dim, side=64).score(ds) for k, m in models.items()}
    return found | {
        "embedding_vendi": vendi_score(MeanStates(models["g_vendi"], tokenizer).features(ds)),
        "ngram_entropy": NGramEntropy(2)(texts),
        "distinct_n": DistinctN(2)(texts),
        "compression": -CompressionRatio()(texts),
        "perplexity": MeanPerplexity(models["g_vendi"], tokenizer)(ds),
        "skill_entropy": LabelEntropy(labels="skill")(ds),
    }


def skills(config: Config, lab: Lab) -> Iterator[Row]:
    """A training for each subset of each seed, then what every number would have foretold."""
    base = checkpoint(config, lab, config.size)
    proxies = {
        "g_vendi": (config.size, base), "g_vendi_untrained": (config.size, None),
        "g_vendi_other": (config.other, checkpoint(config, lab, config.other)),
    }  # fmt: skip
    floor = lab.step(tested, config, base)["score"]
    for seed in lab.seeds(config.seeds):
        rows = []
        for subset in range(config.subsets):
            ds = drawn_mixture([seed, subset]).sample(config.items, seed)
            rows.append(
                Row(method=f"subset-{subset:02d}", seed=seed, **student(config, lab, ds, seed))
                | lab.step(numbers, config, ds[: config.scored], proxies)
            )
        yield from (Row(kind="subset", floor=floor, ceiling=None, **row) for row in rows)
        yield from foretold(rows, seed)


def foretold(rows: list[Row], seed: int) -> Iterator[Row]:
    """For every number: its rank correlation with the score, and the subset it would pick."""
    scores = np.array([row["score"] for row in rows])
    for name in rows[0]:
        if name in OUTCOMES:
            continue
        values = np.array([row[name] for row in rows])
        ranked = np.ptp(values) > 0 and np.ptp(scores) > 0  # else there is no correlation
        rho = metric_validity(values, scores).correlation if ranked else None
        yield Row(
            kind="metric", method=name.replace("_", "-"), seed=seed,
            score=float(scores[values.argmax()]), floor=float(scores.mean()),
            ceiling=float(scores.max()), rho=rho,
        )  # fmt: skip


def size(config: Config, lab: Lab) -> Iterator[Row]:
    """Few examples chosen for variety, and many of two skills, at equal steps."""
    proxy = (config.size, checkpoint(config, lab, config.size))
    alike = SkillMixture((0.5, 0.5, 0, 0, 0, 0, 0, 0), letters="abcd")
    for seed in lab.seeds(config.seeds):
        varied = SkillMixture().sample(config.items, seed)
        z = lab.step(directions, config, varied, proxy)
        chosen = [varied[row] for row in DiverseSubset(config.few, "logdet").select(z)]
        many = alike.sample(config.items, seed)
        for method, ds in (("few-varied", chosen), ("many-alike", many), ("many-varied", varied)):
            found = student(config, lab, ds, seed)
            yield Row(kind="arm", method=method, seed=seed, floor=None, ceiling=None, **found)


def directions(config: Config, ds: list[Row], proxy: tuple[str, dict]) -> torch.Tensor:
    """Projected gradients, one unit vector an example."""
    return GVendi(loaded(*proxy), world_tokenizer(SKILLS), config.dim, side=64).features(ds)


# ------------------------------------------------------------------- real text


def real(config: Config, lab: Lab) -> Iterator[Row]:
    """Movie snippets from few to all regions of their embeddings, tested on other texts."""
    texts, labels = {}, {}
    for name in ("movie", *TARGETS):
        splits = load_benchmark("sentiment", domain=name, balanced=True).splits
        picked = splits["train" if name == "movie" else "test"].shuffle(seed=0)
        many = config.real_test * (4 if name == "movie" else 1)
        picked = picked.select(range(min(len(picked), many)))
        texts[name], labels[name] = picked["text"][:], np.array(picked["label"][:])
    x = {name: np.array(lab.embed("minilm-l6", texts[name], max_length=48)) for name in texts}
    for seed in lab.seeds(config.seeds):
        rows = lab.step(real_subsets, config, x, labels, texts["movie"], seed)
        yield from (Row(kind="subset", floor=None, ceiling=None, **row) for row in rows)
        yield from foretold(rows, seed)


def real_subsets(config: Config, x: dict, y: dict, texts: list[str], seed: int) -> list[Row]:
    """One seed's subsets: accuracies of a linear student, and numbers about its training texts.

    The proxy learns from the first quarter of the movie snippets, which no subset has.
    """
    held, features, labels = len(texts) // 4, x["movie"], y["movie"]
    proxy = MLPClassifier(64, early_stopping=True, random_state=seed).fit(
        features[:held], labels[:held]
    )
    project = ProjectedGradients(as_module(proxy), example_loss, dim=config.dim)
    rows = []
    for subset, chosen in enumerate(
        region_subsets(
            features[held:], labels[held:], count=config.real_subsets, items=config.real_items,
            seed=seed,
        )
    ):  # fmt: skip
        picked = chosen + held
        fitted = LogisticRegression(max_iter=1000).fit(features[picked], labels[picked])
        said = [texts[row] for row in picked]
        z = project({"x": torch.as_tensor(features[picked]), "y": torch.as_tensor(labels[picked])})
        rows.append(
            Row(
                method=f"subset-{subset:02d}", seed=seed,
                score=float(np.mean([fitted.score(x[name], y[name]) for name in TARGETS])),
                in_domain=float(fitted.score(features[:held], labels[:held])),
                g_vendi=vendi_score(z), embedding_vendi=vendi_score(features[picked]),
                ngram_entropy=NGramEntropy(2)(said), distinct_n=DistinctN(2)(said),
                compression=-CompressionRatio()(said),
            )
        )  # fmt: skip
    return rows


def as_module(fitted: MLPClassifier) -> nn.Module:
    """A scikit-learn network of one hidden layer and one output, with logits 0 and that output."""
    (w1, w2), (b1, b2) = fitted.coefs_, fitted.intercepts_
    layers = nn.Linear(*w1.shape), nn.ReLU(), nn.Linear(w2.shape[0], 1)
    with torch.no_grad():
        for layer, weight, bias in ((layers[0], w1, b1), (layers[2], w2, b2)):
            layer.weight.copy_(torch.as_tensor(weight.T))
            layer.bias.copy_(torch.as_tensor(bias))
    return nn.Sequential(*layers)


def example_loss(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of each example."""
    logits = model(batch["x"].float())[:, 0]
    return nn.functional.binary_cross_entropy_with_logits(
        logits, batch["y"].float(), reduction="none"
    )


# ------------------------------------------------------------------- growing a pool


def loop(config: Config, lab: Lab) -> Iterator[Row]:
    """Pools of equal size that differ in what the filter accepts; every record says so."""
    proxy = (config.size, checkpoint(config, lab, config.size))
    for seed in lab.seeds(config.seeds):
        even = SkillMixture().sample(config.pool, seed)
        ceiling = student(config, lab, even, seed)["score"]
        found = {}
        for arm in ARMS:
            pool, rounds = lab.step(grown, config, proxy, arm, seed)
            found[arm] = student(config, lab, pool, seed) | {
                "g_vendi": lab.step(numbers, config, pool, {"g_vendi": proxy})["g_vendi"],
                "skill_entropy": LabelEntropy(labels="skill")(pool), "rounds": len(rounds),
                "accepted": sum(r["accepted"] for r in rounds) / sum(r["clean"] for r in rounds),
                "wrong": float(np.mean([r["response"] != r["truth"] for r in pool])),
            }  # fmt: skip
        for arm in ARMS:
            floor = found["naive"]["score"]
            yield Row(kind="arm", method=arm, seed=seed, floor=floor, ceiling=ceiling, **found[arm])


def grown(config: Config, proxy: tuple[str, dict], arm: str, seed: int) -> tuple[list, list]:
    """A pool of the final size, and what each round did."""
    tokenizer, model = world_tokenizer(SKILLS), loaded(*proxy)
    generator = SkewedGenerator()
    sparse = SparseClusterFilter(config.clusters, config.keep, seed=seed)
    synthesis = SynthesisLoop(
        generator=generator, solver=NoisySolvers(), judge=MajorityAgreement(answer_of),
        proxy=MeanStates(model, tokenizer) if arm == "embedding"
        else GVendi(model, tokenizer, config.dim, side=64),
        filter=AcceptAtRandom({"naive": 1.0, "random": 0.4}[arm], seed)
        if arm in ("naive", "random") else sparse,
        batch=config.batch, seed=seed,
    )  # fmt: skip
    start = generator([], config.start, seed)
    rounds = [vars(done) for done in synthesis.run(start, config.pool)]
    return [dict(record) for record in synthesis.records], rounds
