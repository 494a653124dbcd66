"""Adversarial style augmentation: does a learnt perturbation of channel statistics find new styles?

Protocol (Zhang et al. 2023, arXiv 2301.12643, single source). A network is trained on one domain
and tested on each of the others; means and spreads of some of its feature maps' channels are
perturbed while it trains. Floor: the same network without. Ceiling: trained on the target's own
training part. All are the last epoch's; nothing is selected.

Differences from the paper, each with its effect: four styles of digits and a network of three
convolutions from scratch instead of PACS and ImageNet's ResNet-50 (a learnt style starts on
features that are not yet good); a head on all places of the last maps, not on their mean (which
tells a digit of another hand or size hardly at all); two insertion points instead of six; 6 epochs
instead of 50, at a rate of 0.02 instead of 1e-3; S has no weight decay (the paper's joint trainer
has 5e-4 on it, which works against the ascent; `decay_style` puts it back). Beside the paper's
competitors stand the method with λ = 0, whose style stays where it starts (what learning adds), and
colour jitter.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from generality.benchmarks import MultiDomain, folder_or_digits
from generality.claims import Claim, Row, greater, less
from generality.errors import UserError, unknown
from generality.lab import Lab, TrainConfig
from generality.measures import accuracy
from generality.models import Featurized
from generality.models.named_networks import image_body
from generality.modules import FeatureStatPerturb, insert_after, style_parameters
from generality.studies.study import Paper
from generality.training.style_ascent import fit_style_ascent

PAPER = Paper(
    "Adversarial Style Augmentation for Domain Generalization", arxiv="2301.12643", year=2023
)
FACTORS = ("source", "target")

MODES: dict[str, Any] = {
    "erm": None, "colour-jitter": None, "mixstyle": "mixstyle", "dsu": "dsu", "efdmix": "efdmix",
    "advstyle": "advstyle", "advstyle-unlearnt": "advstyle", "advstyle-alternating": "advstyle",
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    seeds: int = 8
    sources: tuple[str, ...] = ("mnist", "fonts")  # trained on; empty: every domain
    methods: tuple[str, ...] = tuple(MODES)
    alternating_sources: int = (
        1  # sources on which the alternating trainer, four times as dear, runs
    )
    layout: str | None = None  # of `data_path`, see `read_images`
    data_path: str | None = None  # folder of images by domain and class; None: the digits
    size: int = 28  # pixels a side
    per_domain: int | None = 1797  # images of each style of digits
    train_share: float = 2 / 3  # of a domain; the rest is for testing
    backbone: str = "tiny"  # or a ResNet as transformers loads it
    width: int = 16  # channels of the tiny network's first block
    insert: tuple[str, ...] = ("block1", "block2")  # layers followed by a perturbation
    adv_weight: float = 5.0  # λ
    decay_style: bool = False
    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 0.02  # SGD, momentum 0.9, cosine to 0
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in MODES:
                raise unknown("method", method, MODES)
        if not 0 < self.train_share < 1 or not self.methods or self.seeds < 1:
            raise UserError("train_share lies between 0 and 1, and there are methods and seeds.")

    @property
    def training(self) -> TrainConfig:
        """How every network is trained."""
        return TrainConfig(
            epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate,
            weight_decay=self.weight_decay, optimizer="sgd", momentum=0.9, dropout=True,
        )  # fmt: skip


RESNET = ("embedder.embedder", "embedder.pooler", *(f"encoder.stages.{k}" for k in range(4)))
SCALES = {
    "smoke": Config(
        seeds=2, sources=("mnist",), per_domain=60, width=4, epochs=1, batch_size=16,
        methods=("erm", "mixstyle", "dsu", "advstyle", "advstyle-unlearnt", "advstyle-alternating"),
    ),
    "small": Config(),
    "full": Config(
        seeds=5, sources=(), alternating_sources=4, layout="PACS", data_path="PACS", size=224,
        train_share=0.8, backbone="hf:microsoft/resnet-50", insert=RESNET, adv_weight=10.0,
        epochs=50, learning_rate=1e-3,
    ),
}  # fmt: skip

CLAIMS = (
    Claim(
        "Trained on one domain, a learnt style raises accuracy on the others",
        greater("advstyle", "floor"),
        paper_says="61.2 to 67.1 on single-source PACS, ResNet-50",
    ),
    Claim(
        "It does so where the domains differ in style: handwriting over photographs",
        greater("advstyle", "floor", where={"source": "mnist", "target": "mnist_over_photos"}),
    ),
    Claim("MixStyle raises accuracy on the others", greater("mixstyle", "floor")),
    Claim("A learnt style does better than MixStyle", greater("advstyle", "mixstyle")),
    Claim("A learnt style does better than EFDMix", greater("advstyle", "efdmix")),
    Claim(
        "A learnt intensity does better than the batch's own (DSU)", greater("advstyle", "dsu")
    ),
    Claim(
        "Learning is what helps: the same perturbation at its first intensity does worse",
        greater("advstyle", "advstyle-unlearnt"),
    ),
    Claim("The learnt style grows beyond its start", greater("advstyle", 1.0, on="growth")),
    Claim(
        "Accuracy swings less from target to target", less("advstyle", "erm", on="fluctuation")
    ),
    Claim("A learnt style does better than colour jitter", greater("advstyle", "colour-jitter")),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every source, seed, method and target."""
    if config.backbone != "tiny":
        lab.fetch(config.backbone)
    sources = config.sources or load(config).domain_names
    items = [(config, seed, source) for source in sources for seed in lab.seeds(config.seeds)]
    for rows in lab.map(source_rows, items, description="Training on one domain"):
        yield from rows


def source_rows(lab: Lab, item: tuple[Config, int, str]) -> list[Row]:
    """One source and seed: every method on every other domain, beside floor and ceiling."""
    config, seed, source = item
    data = load(config)
    parts = {name: split(data.rows(name), config.train_share, seed) for name in data.domain_names}
    targets = [name for name in parts if name != source]

    def trained(method: str, domain: str) -> tuple[dict[str, float], Any]:
        """Accuracy on the test part of every domain, and how much the style grew."""
        rows = parts[domain][0]
        arguments: dict[str, Any] = {
            "network": network_of(config, method, len(data.label_names)),
            "inputs": data.inputs[rows], "targets": data.labels[rows],
            "config": config.training, "seed": seed,
            "predict": {name: data.inputs[parts[name][1]] for name in parts},
        }  # fmt: skip
        if method == "advstyle-alternating":
            kept = lab.step(fit_style_ascent, device=lab.device, **arguments)
            said, weights = kept["probabilities"], kept["weights"]
        else:
            jitter = colour_jitter if method == "colour-jitter" else None
            fitted = lab.fit(keep_weights=MODES[method] == "advstyle", augment=jitter, **arguments)
            said, weights = fitted.probabilities, fitted.weights
        scores = {name: accuracy(said[name], data.labels[parts[name][1]]) for name in parts}
        return scores, growth(weights)

    plain = {name: trained("erm", name)[0] for name in parts}
    found: list[Row] = []
    for method in config.methods:
        dear = (config.sources or data.domain_names)[: config.alternating_sources]
        if method == "advstyle-alternating" and source not in dear:
            continue
        scores, grown = trained(method, source)
        fluctuation = float(np.std([scores[name] for name in targets]))
        found += [
            Row(
                method=method, seed=seed, source=source, target=name, score=scores[name],
                floor=plain[source][name], ceiling=plain[name][name],
                source_accuracy=scores[source],
                fluctuation=fluctuation, growth=grown,
            )
            for name in targets
        ]  # fmt: skip
    return found


class Styled(Featurized):
    """A classifier whose styles do not decay."""

    def no_weight_decay(self) -> list[str]:
        """Names of the learnt styles."""
        return list(style_parameters(self))


def network_of(config: Config, method: str, classes: int) -> functools.partial[Featurized]:
    """What makes a method's network; holds only what that network depends on."""
    mode = MODES[method]
    learning = 0.0 if method == "advstyle-unlearnt" else config.adv_weight
    return functools.partial(
        network, backbone=config.backbone, width=config.width, size=config.size, classes=classes,
        mode=mode, insert=config.insert if mode else (), decay=config.decay_style,
        adv_weight=learning if mode == "advstyle" else 0.0,
    )  # fmt: skip


def network(
    seed: int, *, backbone: str, width: int, size: int, classes: int, mode: Any,
    insert: tuple[str, ...], adv_weight: float, decay: bool,
) -> Featurized:  # fmt: skip
    """A network of a method: the same first weights for all methods of a seed."""
    body, features = image_body(backbone, width=width, side=size)
    head = nn.Linear(features, classes)
    places = insert if backbone == "tiny" else tuple(f"model.{name}" for name in insert)
    if places:
        style = functools.partial(FeatureStatPerturb, mode=mode, adv_weight=adv_weight)
        insert_after(body, places, style, torch.zeros(1, 3, size, size))
    return (Featurized if decay else Styled)(body, head)


def growth(weights: dict[str, Tensor]) -> float | None:
    """How many times as strong as at their start the styles are, all insertion points together."""
    now = [t for name, t in weights.items() if name.endswith((".style_mean", ".style_std"))]
    start = [t for name, t in weights.items() if name.endswith(".start")]
    if not start:
        return None
    first = torch.cat([t.flatten() for t in start]).norm()
    return float(torch.cat(now).norm() / first) if first > 0 else None


def colour_jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Every channel of every image scaled by 0.6 to 1.4 and moved by −0.2 to 0.2, within [0, 1]."""
    scale, move = torch.rand(2, len(images), images.shape[1], 1, 1, generator=generator)
    return (images * (0.6 + 0.8 * scale) + 0.4 * move - 0.2).clamp(0, 1)


def split(rows: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A domain's training and test part, drawn by the seed."""
    order = np.random.default_rng(seed).permutation(rows)
    cut = round(share * len(order))
    return order[:cut], order[cut:]


def load(config: Config) -> MultiDomain:
    """The domains, a folder's or generated digits."""
    return folder_or_digits(
        config.data_path, layout=config.layout, size=config.size, per_domain=config.per_domain
    )
