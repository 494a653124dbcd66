"""How many interventions must be seen before what looks invariant stays so on unseen ones?

Protocol (arXiv 2205.15196). A random linear structural equation model is one seed. Environments
are soft interventions on two nodes, never the target, drawn independently from one family; N of
them are trained on. A representation (a subset of features; behind a mixing, a learned projection)
with its pooled least squares is *kept* when ‖g_e‖ ≤ ε in all N. Its violation is the share of 1000
fresh interventions where ‖g_e‖ > ε. Moments are the population's unless samples are asked for.

Score: for "worst kept", "typical kept" (the median) and "selected" (of lowest training risk), the
violation, lower being better. Floor: the violation of least squares on all features. Ceiling: that
of the target's true parents. Where nothing is kept there is nothing that can violate, and the
score is 0. "bound" is Occam's: (ln of the number of subsets + ln 20) / N.

Panels. *size*: N and the number of features, with the two sites fixed ("restricted") or free. It
keeps subsets of at most three features (two in the next). *dimension*: one core of nodes in
which the sites are, and further nodes grown below it, so that only the ambient dimension changes;
`needed` is the least N of the grid after which the worst kept violates at most 5 %. *samples*:
moments of n samples an environment, with ε/2 asked of them. *latent*: six latent features seen
through a random mixing into 20.

The paper is theory and has no experiments to match; the complexity of its bound enters only as
"does not grow with d". Differences: the predictor on a representation is the pooled least squares,
not the best for the worst environment (fewer representations are kept); smooth families of
interventions and ε are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from generality.benchmarks.linear_sem import LinearSEM, random_sem
from generality.claims import Claim, Row, equivalent, exponent_within, greater, less, monotone
from generality.estimators.invariant_projections import invariant_projections
from generality.lab import Lab
from generality.measures.invariance import (
    Moments,
    Subsets,
    feature_subsets,
    invariant_subsets,
    jeffreys_rate,
    kept_violations,
    subset_of,
    violation_rates,
)
from generality.measures.pac import pac_gamma
from generality.studies.study import Paper

PAPER = Paper(
    "PAC Generalization via Invariant Representations", arxiv="2205.15196", year=2022
)  # ICML 2023
FACTORS = ("panel", "sites", "environments", "features", "samples")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    seeds: int = 20  # random graphs
    features: tuple[int, ...] = (8, 16)  # in the panel of sizes
    grown: tuple[int, ...] = (8, 16, 32)  # features in the panel of dimensions
    environments: tuple[int, ...] = (2, 5, 10, 20, 40, 80)  # trained on
    samples: tuple[int, ...] = (100, 400, 1600, 6400)  # of each environment
    sample_environments: int = 20  # trained on in the panel of samples
    max_size: int = 3  # features of a representation; 2 where the dimension varies
    epsilon: float = 0.15  # in pooled deviations of target × feature
    unseen: int = 1000  # fresh interventions
    latent: int = 6  # latent features
    observed: int = 20  # features they are seen through
    steps: int = 200  # of Adam, for learned projections

    def __post_init__(self) -> None:
        if min(self.environments) < 1 or self.unseen < 1 or self.epsilon <= 0:
            raise ValueError("environments, unseen and epsilon are above 0")


SCALES = {
    "smoke": Config(
        seeds=2, features=(6,), grown=(6, 8), environments=(2, 8), samples=(50, 400),
        sample_environments=4, max_size=2, unseen=100, steps=20,
    ),
    "small": Config(),
    "full": Config(
        seeds=100, features=(8, 16, 32), grown=(8, 16, 32, 64, 128),
        environments=(2, 5, 10, 20, 40, 80, 160, 320), unseen=10_000,
    ),
}  # fmt: skip

RESTRICTED = {"panel": "size", "sites": "restricted"}
CLAIMS = (
    Claim(
        "What is invariant on N interventions fails on a share of unseen ones that falls as 1/N",
        exponent_within(
            "environments", "smoothed", low=-1.5, high=-0.5,
            where={**RESTRICTED, "features": 8, "method": "worst kept"},
        ),
    ),
    Claim(
        "That share stays below the bound",
        less("worst kept", "bound", where=RESTRICTED),
    ),
    Claim(
        "With sites fixed, the number of interventions needed does not grow with the dimension",
        equivalent(
            32, 8, by="features", on="log2_needed", margin=1.0,
            where={"panel": "dimension", "sites": "restricted", "method": "worst kept"},
        ),
    ),
    Claim(
        "With sites anywhere, it grows",
        greater(
            32, 8, by="features", on="log2_needed",
            where={"panel": "dimension", "sites": "free", "method": "worst kept"},
        ),
    ),
    Claim(
        "More samples of each environment lower it",
        monotone(
            "samples", direction="decreasing",
            where={"panel": "samples", "method": "worst kept"},
        ),
    ),
    Claim(
        "The same holds for latent variables seen through a mixing",
        exponent_within(
            "environments", "smoothed", low=-1.5, high=-0.5,
            where={"panel": "latent", "method": "worst kept"},
        ),
    ),
    Claim(
        "The kept representation of lowest risk violates less than least squares on all features",
        less("selected", "floor", where={"panel": "size"}),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every graph: the four panels."""
    for seed in lab.seeds(config.seeds):
        for panel in (size_panel, dimension_panel, samples_panel, latent_panel):
            for row in lab.step(panel, config, seed):
                yield Row(seed=seed, lower_is_better=True, **row)


def size_panel(config: Config, seed: int) -> list[Row]:
    """Violation by number of interventions and features, sites fixed or free."""
    rows = []
    for features in config.features:
        rng = np.random.default_rng([seed, features])
        sem = random_sem(features, rng)
        for sites, places in (("restricted", _two(sem, rng)), ("free", None)):
            seen, unseen = _draw(config, sem, places, rng)
            for count in config.environments:
                rows += _judged(config, sem, seen, unseen, count, config.max_size, "size", sites)
    return rows


def dimension_panel(config: Config, seed: int) -> list[Row]:
    """Interventions needed as nodes are grown below one core, sites in the core or anywhere."""
    rows = []
    rng = np.random.default_rng([seed, 0])
    core = random_sem(min(config.grown), rng)
    places = _two(core, rng)
    for features in config.grown:
        sem = core.grow(features + 1, np.random.default_rng([seed, 1]))
        for sites, fixed in (("restricted", places), ("free", None)):
            seen, unseen = _draw(config, sem, fixed, np.random.default_rng([seed, 2]))
            found: list[Row] = []
            for count in config.environments:
                found += _judged(config, sem, seen, unseen, count, 2, "dimension", sites)
            worst = [row for row in found if row["method"] == "worst kept"]
            enough = [row["environments"] for row in worst if row["score"] <= 0.05]
            # never: twice the most that was tried
            needed = min(enough, default=2 * max(config.environments))
            last = {**worst[-1], "environments": None}
            rows.append({**last, "log2_needed": float(np.log2(needed))})
    return rows


def samples_panel(config: Config, seed: int) -> list[Row]:
    """Violation when each environment's moments come from n samples."""
    rng = np.random.default_rng([seed, 3])
    sem = random_sem(min(config.features), rng)
    seen, unseen = _environments(config, sem, _two(sem, rng), config.sample_environments, rng)
    exact = Moments(*seen.moments())
    fresh = Moments(*unseen.moments()).standardised(exact)
    rows = []
    for n in config.samples:
        empirical = Moments.of_samples(*seen.sample(n, rng)).standardised(exact)
        kept = invariant_subsets(empirical, max_size=config.max_size, epsilon=config.epsilon / 2)
        rows += _scored(
            config, sem, kept, exact.standardised(exact), fresh, panel="samples",
            sites="restricted", features=sem.nodes - 1, environments=config.sample_environments,
            samples=n,
        )  # fmt: skip
    return rows


def latent_panel(config: Config, seed: int) -> list[Row]:
    """Violation of learned projections of features that mix the latent ones."""
    rng = np.random.default_rng([seed, 4])
    sem = random_sem(config.latent, rng)
    mixing = rng.normal(size=(config.observed, config.latent))
    seen, unseen = _environments(config, sem, _two(sem, rng), max(config.environments), rng)
    observed, fresh = (Moments(*each.moments()).projected(mixing) for each in (seen, unseen))
    rows = []
    for count in config.environments:
        trained = observed.first(count)
        found = invariant_projections(
            trained.standardised(trained), 2, rng, rank=config.latent, steps=config.steps
        )
        kept = found.residuals(trained.standardised(trained)).max(0) <= config.epsilon
        rates = (found.residuals(fresh.standardised(trained))[:, kept] > config.epsilon).mean(0)
        rows.append(
            {
                "method": "worst kept", "panel": "latent", "sites": "restricted",
                "features": config.observed, "environments": count, "kept": int(kept.sum()),
                **_rate(config, rates.max(initial=0.0)), "floor": None, "ceiling": None,
            }
        )  # fmt: skip
    return rows


def _judged(
    config: Config, sem: LinearSEM, seen: Moments, unseen: Moments, count: int, size: int,
    panel: str, sites: str,
) -> list[Row]:  # fmt: skip
    """Rows of what is kept after the first `count` interventions."""
    trained = seen.first(count)
    fresh, trained = unseen.standardised(trained), trained.standardised(trained)
    every = feature_subsets(trained, max_size=size)
    kept = [each.where(each.residual <= config.epsilon) for each in every]
    factors = {
        "panel": panel, "sites": sites, "features": sem.nodes - 1, "environments": count,
    }  # fmt: skip
    rows = _scored(config, sem, kept, trained, fresh, **factors)
    bound = pac_gamma(count, 0.05, log_class=float(np.log(sum(map(len, every)))))
    return [*rows, {**rows[0], "method": "bound", "score": bound, "smoothed": None}]


def _scored(
    config: Config, sem: LinearSEM, kept: list[Subsets], trained: Moments, fresh: Moments,
    **factors: Any,
) -> list[Row]:  # fmt: skip
    floor, ceiling = (
        float(violation_rates(subset_of(trained, chosen), fresh, config.epsilon)[0])
        for chosen in (np.arange(sem.nodes - 1), sem.parents)
    )
    shared = {**factors, "kept": sum(map(len, kept)), "floor": floor, "ceiling": ceiling}
    return [
        {"method": name, **shared, **_rate(config, rate)}
        for name, rate in kept_violations(kept, fresh, config.epsilon).items()
    ]


def _rate(config: Config, rate: float) -> dict[str, float]:
    return {"score": float(rate), "smoothed": jeffreys_rate(rate, config.unseen)}


def _two(sem: LinearSEM, rng: np.random.Generator) -> list[int]:
    return sorted(map(int, rng.choice(sem.features, 2, replace=False)))


def _draw(
    config: Config, sem: LinearSEM, sites: list[int] | None, rng: np.random.Generator
) -> tuple[Moments, Moments]:
    """Moments of the interventions to train on and of the unseen ones."""
    seen, unseen = _environments(config, sem, sites, max(config.environments), rng)
    return Moments(*seen.moments()), Moments(*unseen.moments())


def _environments(
    config: Config, sem: LinearSEM, sites: list[int] | None, count: int, rng: np.random.Generator
) -> tuple[LinearSEM, LinearSEM]:
    """Interventions to train on, and as many fresh ones as are asked for."""
    return sem.intervene(count, rng, sites=sites), sem.intervene(config.unseen, rng, sites=sites)
