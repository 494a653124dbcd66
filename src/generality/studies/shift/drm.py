"""Domain-specific heads: can each target example find the source domain's head that fits it?

Protocol (Zhang et al. 2023, arXiv 2208.08661). One featurizer learns with a linear head for each
source domain and a global one; on a target nobody saw, the heads' predictions are combined example
by example. Floor: the same network with one head (ERM), same batches and steps. Ceiling: a linear
head on DRM's features refitted on the labels of half of the target and scored on the other, both
ways. Panels: coloured digits (each of three colours' flips left out once), sentiment of four kinds
of texts (each left out once), digits turned further than the sources. `source_score` is the mean
accuracy on a fifth of every source that nothing was trained on; `gap` is the adaptivity gap, the
best single head's target accuracy minus the method's. The settings of DRM-T are chosen on that
fifth; "best-head" is a choice in hindsight and no method.

Differences from the paper, each with its effect: thousands of small images and frozen sentence
embeddings instead of DomainBed's sets (smaller sources, noisier heads); heads are chosen for each
example and not for a batch, which would leak that its examples share a domain; the global head
votes; prototypes are means over all training rows, not a ring buffer; last step instead of a
checkpoint chosen on sources.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from generality.benchmarks import sentiment_domains
from generality.benchmarks.domain_vectors import (
    Domains,
    colored_vectors,
    leave_out,
    stack_domains,
    turned_vectors,
)
from generality.claims import Claim, Row, equivalent, greater, interacts
from generality.errors import UserError, unknown
from generality.estimators import adaptivity_gap
from generality.experiments import combine_domain_heads
from generality.lab import Lab
from generality.models import Featurized, hidden_network
from generality.objectives import ALGORITHMS
from generality.objectives.domain_algorithms import DomainAlgorithm
from generality.objectives.drm_algorithm import DRMAlgorithm
from generality.studies.study import Paper

PAPER = Paper(
    "Domain-Specific Risk Minimization for Out-of-Distribution Generalization",
    arxiv="2208.08661", year=2023,
)  # fmt: skip
FACTORS = ("panel", "target")

PANELS = ("colored", "sentiment", "rotated")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    seeds: int = 5
    panels: tuple[str, ...] = PANELS
    color_flips: tuple[float, ...] = (0.1, 0.2, 0.9)  # P(colour contradicts the label), by domain
    label_noise: float = 0.25
    source_angles: tuple[int, ...] = (0, 15, 30)  # degrees
    target_angles: tuple[int, ...] = (45, 60, 75, 90)  # degrees
    size: int = 14  # pixels a side of the digits
    per_domain: int = 1500  # most digits of each domain
    texts_per_domain: int = 400
    encoder: str = "minilm-l6"
    widths: tuple[int, ...] = (128, 64)  # of the featurizer; the last are the features
    steps: int = 400
    batch: int = 64  # of each domain and step
    learning_rate: float = 1e-3  # Adam
    coral_weight: float = 1.0
    stream: int = 32  # batch of the target's stream
    rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2)  # of DRM-T
    thresholds: tuple[float, ...] = (0.25, 0.75)  # of DRM-T

    def __post_init__(self) -> None:
        for panel in self.panels:
            if panel not in PANELS:
                raise unknown("panel", panel, PANELS)
        if min(len(self.source_angles), len(self.color_flips) - 1) < 2 or self.seeds < 1:
            raise UserError("There are at least two sources in every panel, and a seed.")


SCALES = {
    "smoke": Config(
        seeds=2, panels=("rotated",), per_domain=100, target_angles=(45,), steps=20,
        rates=(1e-3,), thresholds=(0.25,),
    ),
    "small": Config(),
    "full": Config(
        size=28, per_domain=25_000, texts_per_domain=800, widths=(390, 390), steps=5000,
    ),
}  # fmt: skip

CLAIMS = (
    Claim(
        "DRM beats ERM where what a cue means differs between sources (coloured digits)",
        greater("entropy", "floor", where={"panel": "colored"}),
    ),
    Claim(
        "DRM beats ERM on turned digits", greater("entropy", "floor", where={"panel": "rotated"})
    ),
    Claim("DRM beats ERM across texts", greater("entropy", "floor", where={"panel": "sentiment"})),
    Claim(
        "DRM gains most where P(y|x) differs between sources",
        interacts(("method", "entropy", "erm"), ("panel", "colored", "rotated")),
    ),
    Claim(
        "DRM is as good as ERM on the sources (within 2 points)",
        equivalent("entropy", "erm", margin=0.02, on="source_score"),
    ),
    Claim("DRM adds to an invariant learner (CORAL)", greater("coral+drm", "coral")),
    Claim(
        "Weighing heads by their certainty beats weighing them alike",
        greater("entropy", "uniform"),
    ),
    Claim("Refitting to pseudo-labels (DRM-T) adds to DRM", greater("drm-t", "entropy")),
    Claim(
        "There is a gap to close: some source's head, chosen in hindsight, beats the mixture",
        greater("best-head", "entropy"),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every panel, seed, target and method."""
    for panel in config.panels:
        data = [load(config, lab, panel, seed) for seed in lab.seeds(config.seeds)]
        cuts = leave_out(tuple(data[0]), len(config.source_angles) if panel == "rotated" else None)
        jobs = list(itertools.product(lab.seeds(config.seeds), [sources for sources, _ in cuts]))
        networks = trained(config, lab, data, jobs)
        for seed, (sources, targets) in itertools.product(lab.seeds(config.seeds), cuts):
            states = {arm: networks[arm][jobs.index((seed, sources))] for arm in networks}
            for row in scores(config, lab, seed, data[seed], sources, targets, states):
                yield Row(seed=seed, panel=panel, **row)


def load(config: Config, lab: Lab, panel: str, seed: int) -> Domains:
    """Inputs and labels of each domain."""
    shape: dict[str, Any] = {"size": config.size, "per_domain": config.per_domain, "seed": seed}
    if panel == "rotated":
        angles = (*config.source_angles, *config.target_angles)
        return lab.step(turned_vectors, angles, **shape)
    if panel == "colored":
        flips, noise = config.color_flips, config.label_noise
        return lab.step(colored_vectors, flips, label_noise=noise, **shape)
    texts = sentiment_domains(per_domain=config.texts_per_domain, seed=seed)
    inputs = np.asarray(lab.embed(config.encoder, texts.inputs, max_length=64))
    rows = {name: texts.rows(name) for name in texts.domain_names}
    return {name: (inputs[own], texts.labels[own]) for name, own in rows.items()}


def trained(
    config: Config, lab: Lab, data: list[Domains], jobs: list[tuple[int, tuple[str, ...]]]
) -> dict[str, list[dict[str, Tensor]]]:
    """Weights with one head and with many, with and without CORAL, for every seed and sources."""
    X, y, everything = stack_domains(data)
    rows = {
        (seed, name): own[~held(data[seed][name], seed)] for (seed, name), own in everything.items()
    }
    classes, heads = int(y.max()) + 1, len(jobs[0][1]) + 1
    both = DRMAlgorithm(name="DRM", coral_weight=config.coral_weight)
    arms: dict[str, tuple[DomainAlgorithm, int, dict[str, float]]] = {
        "erm": (ALGORITHMS["erm"], classes, {}),
        "coral": (ALGORITHMS["coral"], classes, {"weight": config.coral_weight}),
        "drm": (DRMAlgorithm(name="DRM"), heads * classes, {}),
        "coral+drm": (both, heads * classes, {}),
    }

    def network(outputs: int, _seed: int) -> Featurized:
        return hidden_network(X.shape[1], config.widths, outputs)

    states: dict[str, list[dict[str, Tensor]]] = {}
    for arm, (algorithm, outputs, hyper) in arms.items():
        replicas = lab.replicate_domains(
            functools.partial(network, outputs), X, np.eye(outputs, dtype=np.float32)[y],
            [[rows[seed, name] for name in sources] for seed, sources in jobs],
            algorithm=algorithm, seeds=[seed for seed, _ in jobs], steps=config.steps,
            per_domain=config.batch, hyper=hyper, learning_rate=config.learning_rate,
        )  # fmt: skip
        states[arm] = [replicas.module(i).state_dict() for i in range(len(jobs))]
    return states


def held(domain: tuple[np.ndarray, np.ndarray], seed: int) -> np.ndarray:
    """A fifth of a domain that nothing trains on."""
    return np.asarray(np.random.default_rng(seed).random(len(domain[1])) < 0.2)


def scores(
    config: Config, lab: Lab, seed: int, domains: Domains, sources: tuple[str, ...],
    targets: tuple[str, ...], states: dict[str, dict[str, Tensor]],
) -> Iterator[Row]:  # fmt: skip
    """A row for each target and method."""
    classes = 1 + max(int(labels.max()) for _, labels in domains.values())
    out = {name: held(domains[name], seed) for name in sources}
    kept = [domains[name][0][~out[name]] for name in sources]
    source = np.concatenate(kept), np.repeat(np.arange(len(sources)), [len(X) for X in kept])
    checks = {n: (domains[n][0][out[n]], domains[n][1][out[n]]) for n in sources}
    found = lab.step(
        combine_domain_heads, states, config.widths, classes, source, checks,
        {name: domains[name] for name in targets},
        [{"learning_rate": r, "threshold": t} for r in config.rates for t in config.thresholds],
        batch=config.stream, seed=seed,
    )  # fmt: skip
    accuracy = found["accuracy"]
    for target in targets:
        for method, by_domain in accuracy.items():
            own = {} if method == "best-head" else {
                "source_score": float(np.mean([by_domain[name] for name in sources]))
            }  # fmt: skip
            yield Row(
                method=method, target=target, score=by_domain[target],
                floor=accuracy["erm"][target], ceiling=found["ceilings"][target],
                gap=adaptivity_gap([accuracy["best-head"][target]], by_domain[target]), **own,
            )  # fmt: skip
