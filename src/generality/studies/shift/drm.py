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
import torch
from torch import Tensor, nn

from generality.benchmarks import colored_digits, digits, sentiment_domains
from generality.claims import Claim, Row, equivalent, greater, interacts
from generality.errors import UserError, unknown
from generality.estimators import (
    DiscriminatorSelector,
    DomainSelector,
    EntropySelector,
    PrototypeSelector,
    PseudoLabelRefit,
    adaptivity_gap,
    evaluate_online,
)
from generality.lab import Lab
from generality.measures import refit_ceiling
from generality.models import Featurized, MultiHead, combine_heads, mlp
from generality.objectives import ALGORITHMS
from generality.objectives.domain_algorithms import DomainAlgorithm
from generality.objectives.drm_algorithm import DRMAlgorithm
from generality.studies.shift.adanpc import Domains, turned
from generality.studies.study import Paper

PAPER = Paper(
    "Domain-Specific Risk Minimization for Out-of-Distribution Generalization",
    arxiv="2208.08661", year=2023,
)  # fmt: skip

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
        cuts = splits(config, panel, tuple(data[0]))
        jobs = list(itertools.product(lab.seeds(config.seeds), [sources for sources, _ in cuts]))
        networks = trained(config, lab, data, jobs)
        for seed, (sources, targets) in itertools.product(lab.seeds(config.seeds), cuts):
            states = {arm: networks[arm][jobs.index((seed, sources))] for arm in networks}
            for row in scores(config, lab, seed, data[seed], sources, targets, states):
                yield Row(seed=seed, panel=panel, **row)


def splits(
    config: Config, panel: str, names: tuple[str, ...]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Sources and targets."""
    if panel == "rotated":
        return [(names[: len(config.source_angles)], names[len(config.source_angles) :])]
    return [(tuple(name for name in names if name != target), (target,)) for target in names]


def load(config: Config, lab: Lab, panel: str, seed: int) -> Domains:
    """Inputs and labels of each domain."""
    if panel == "rotated":
        angles = (*config.source_angles, *config.target_angles)
        return dict(lab.step(turned, angles, config.size, config.per_domain, seed))
    if panel == "colored":
        flips, noise = config.color_flips, config.label_noise
        return dict(lab.step(colored, flips, noise, config.size, config.per_domain, seed))
    texts = sentiment_domains(per_domain=config.texts_per_domain, seed=seed)
    inputs = np.asarray(lab.embed(config.encoder, texts.inputs, max_length=64))
    rows = {name: texts.rows(name) for name in texts.domain_names}
    return {name: (inputs[own], texts.labels[own]) for name, own in rows.items()}


def colored(
    flips: tuple[float, ...], noise: float, size: int, per_domain: int, seed: int
) -> Domains:
    """Coloured digits as rows of pixels, by the probability that the colour misleads."""
    pictures, shown = digits("mnist", size=size)
    data = colored_digits(pictures[:, 0], shown, label_noise=noise, color_flips=flips, seed=seed)
    pixels = np.asarray(data.inputs).reshape(len(data), -1)
    rows = {name: data.rows(name)[:per_domain] for name in data.domain_names}
    return {name: (pixels[own], data.labels[own]) for name, own in rows.items()}


def trained(
    config: Config, lab: Lab, data: list[Domains], jobs: list[tuple[int, tuple[str, ...]]]
) -> dict[str, list[dict[str, Tensor]]]:
    """Weights with one head and with many, with and without CORAL, for every seed and sources."""
    X = np.concatenate([X for domains in data for X, _ in domains.values()])
    y = np.concatenate([y for domains in data for _, y in domains.values()])
    starts = np.cumsum([0, *(len(labels) for domains in data for _, labels in domains.values())])
    places = [(seed, name) for seed, domains in enumerate(data) for name in domains]
    rows = {
        (seed, name): starts[i] + np.flatnonzero(~held(data[seed][name], seed))
        for i, (seed, name) in enumerate(places)
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
        return featurized(X.shape[1], config.widths, outputs)

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


def featurized(inputs: int, widths: tuple[int, ...], outputs: int) -> Featurized:
    """A perceptron whose last hidden layer are the features, and one wide head."""
    body = nn.Sequential(mlp(inputs, *widths), nn.ReLU())
    return Featurized(body, nn.Linear(widths[-1], outputs))


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
        combined, states, source[0].shape[1], config.widths, classes, source, checks,
        {name: domains[name] for name in targets},
        [{"learning_rate": r, "threshold": t} for r in config.rates for t in config.thresholds],
        config.stream, seed,
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


def combined(
    states: dict[str, dict[str, Tensor]], inputs: int, widths: tuple[int, ...], classes: int,
    source: tuple[np.ndarray, np.ndarray], checks: Domains, streams: Domains,
    settings: list[dict[str, float]], batch: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Accuracy by method and domain; and the ceilings."""
    models = {}
    for name, state in states.items():
        network: Any = featurized(inputs, widths, len(state["head.bias"]))
        network.load_state_dict(state)
        models[name] = MultiHead.from_wide_head(network.featurizer, network.head, classes)
    with torch.inference_mode():
        seen = models["drm"].features(torch.from_numpy(source[0]))
    seen = seen.clone()
    selectors: dict[str, DomainSelector] = {
        "entropy": EntropySelector(1.0), "argmin": EntropySelector(float("inf")),
        "discriminator": DiscriminatorSelector(seen, source[1]),
        "prototypes": PrototypeSelector(seen, source[1]),
    }  # fmt: skip
    accuracy: dict[str, dict[str, float]] = {}
    for name, (X, y) in {**checks, **streams}.items():
        with torch.inference_mode():
            x, truth = torch.from_numpy(X), torch.from_numpy(y)
            heads, z = models["drm"](x), models["drm"].features(x)
            mixed = {
                "erm": models["erm"](x)[0], "coral": models["coral"](x)[0],
                "coral+drm": combine_heads(models["coral+drm"](x), "entropy"),
                "global-head": heads[-1], "uniform": combine_heads(heads, "uniform"),
            }  # fmt: skip
            for rule, selector in selectors.items():
                weights = selector.weights(z, heads)
                mixed[rule] = combine_heads(heads, "weights", weights=weights)
            hits = {
                rule: (p.argmax(-1) == truth).float().mean().item() for rule, p in mixed.items()
            }
            own = (heads[:-1].argmax(-1) == truth).float().mean(-1)
        for rule, hit in {**hits, "best-head": own.max().item()}.items():
            accuracy.setdefault(rule, {})[name] = hit
    accuracy["drm-t"] = refit(models["drm"], settings, checks, streams, batch, seed)
    with torch.inference_mode():
        ceilings = {
            name: refit_ceiling(models["drm"].features(torch.from_numpy(X)).numpy(), y)
            for name, (X, y) in streams.items()
        }
    return {"accuracy": accuracy, "ceilings": ceilings}


def refit(
    model: MultiHead, settings: list[dict[str, float]], checks: Domains, streams: Domains,
    batch: int, seed: int,
) -> dict[str, float]:  # fmt: skip
    """DRM-T's accuracy in the stream, with the setting best on the sources' held-out part."""

    def online(options: dict[str, float], data: Domains) -> dict[str, float]:
        adapter = PseudoLabelRefit(model, **options)  # type: ignore[arg-type]
        found = evaluate_online(adapter, data, batch_size=batch, seed=seed)
        return {name: score.accuracy for name, score in found.items()}

    tried = [online(options, checks) for options in settings]
    best = int(np.argmax([np.mean(list(each.values())) for each in tried]))
    return {**tried[best], **online(settings[best], streams)}
