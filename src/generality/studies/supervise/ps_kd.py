"""Self-distillation: do a model's own predictions of an epoch ago make better targets than labels?

Protocol (Kim et al. 2021, arXiv 2006.12000). A network learns from few labelled images, clean or
with some of the labels wrong. PS-KD mixes into each label, with a weight that grows to `alpha`,
what the network said of that very example one epoch earlier. Every arm has the same start, order
and number of steps. Floor: hard labels. Ceiling: the same network and number of steps with true
labels of all images of the pool. Beside accuracy each row has likelihood, calibration and how well
confidence ranks errors, on test images like the training ones, on the same digits over photographs
(columns in `_shifted`), and after temperature scaling on held-out (as noisy) labels (`_scaled`).
`hard-scaled` is the floor's network, temperature-scaled: what calibration costs without training.

Differences from the paper, each with its effect: 600 images of ten digits, a perceptron and a small
convolutional network instead of CIFAR-100 and deep residual ones (there is less to learn from the
classes' likeness, and gains in error are small); no augmentation at `small` (the past prediction is
of the same image, not of another crop); Adam, not SGD with milestones (`full`: SGD with a cosine,
without Nesterov's correction). CutMix, detection and translation are not run. Accuracy is of the
last epoch; the released code reports the best epoch on the test set, which no one can choose.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from generality.benchmarks import crop_and_flip, digits, over_photographs, stratified
from generality.claims import Claim, Row, equivalent, greater, less
from generality.errors import UserError, unknown
from generality.lab import Lab, TrainConfig
from generality.measures import accuracy, calibration_report, temperature_scaled
from generality.models import TinyConvNet
from generality.models.preact_resnet import PreActResNet18
from generality.modules import EmaTaught, EmaTaughtLoss
from generality.objectives import SelfDistillation, indexed, soft_cross_entropy
from generality.studies.study import Paper

PAPER = Paper(
    "Self-Knowledge Distillation with Progressive Refinement of Targets",
    arxiv="2006.12000", year=2021,
)  # fmt: skip
FACTORS = ("network", "noise")

METHODS = ("hard", "label-smoothing", "ps-kd-0.3", "ps-kd-0.8", "constant-0.8", "ema-teacher")

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "perceptron": lambda classes: nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, classes)
    ),
    "convolutional": lambda classes: nn.Sequential(TinyConvNet(1, 8), nn.Linear(32, classes)),
    "preact-resnet-18": PreActResNet18,
}
"""By name, from the number of classes."""


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    data: Literal["digits", "cifar100"] = "digits"
    networks: tuple[str, ...] = ("perceptron", "convolutional")  # or "preact-resnet-18"
    noise: tuple[float, ...] = (0.0, 0.2)  # share of the training labels that are wrong
    labelled: int = 600  # images the network learns from
    pool: int = 2800  # images with true labels that the ceiling learns from
    held_out: int = 200  # images with labels as noisy as the training ones, for temperatures
    test: int = 2000  # images
    methods: tuple[str, ...] = METHODS
    epochs: int = 60
    batch_size: int = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rates: tuple[float, ...] = (3e-3, 1e-2)  # of each network, cosine to 0; at these the
    # floor fits its training labels (column `fitted`), chosen on those alone
    weight_decay: float = 0.0
    augment: bool = False  # random crops and flips
    seeds: int = 5

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise unknown("method", method, METHODS)
        for network in self.networks:
            if network not in NETWORKS:
                raise unknown("network", network, NETWORKS)
        if len(self.learning_rates) != len(self.networks):
            raise UserError("learning_rates names one for each of networks.")
        if self.labelled > self.pool or not all(0 <= share < 1 for share in self.noise):
            raise UserError("labelled is at most pool, and noise a share in [0, 1).")


SCALES = {
    "smoke": Config(networks=("perceptron",), noise=(0.2,), labelled=60, pool=120, held_out=60,
                    test=100, epochs=2, seeds=2, learning_rates=(3e-3,)),
    "small": Config(),
    "full": Config(
        data="cifar100", networks=("preact-resnet-18",), noise=(0.0,), labelled=45_000,
        pool=45_000, held_out=5_000, test=10_000, epochs=300, batch_size=128, optimizer="sgd",
        learning_rates=(0.1,), weight_decay=5e-4, augment=True, seeds=3,
    ),
}  # fmt: skip

OURS, CLEAN = "ps-kd-0.8", {"noise": 0.0}
CLAIMS = (
    Claim("PS-KD makes fewer errors than hard labels", greater(OURS, "hard", where=CLEAN),
          expected_at="full", paper_says="CIFAR-100, ResNet-18: error 24.18 -> 20.82 %"),
    Claim("It does so under label noise too", greater(OURS, "hard", where={"noise": 0.2})),
    Claim("Its probabilities are likelier", less(OURS, "hard", on="nll"),
          paper_says="NLL 1.10 -> 0.76"),
    Claim("It is better calibrated", less(OURS, "hard", on="ece"),
          paper_says="ECE 11.84 -> 1.77 %"),
    Claim("Its confidence ranks errors better", less(OURS, "hard", on="aurc"),
          paper_says="AURC 67.65 -> 52.10"),
    Claim("It ranks errors better than label smoothing does",
          less(OURS, "label-smoothing", on="aurc"),
          paper_says="PyramidNet-200: AURC 105 with smoothing, 32 with PS-KD"),
    Claim("It is better calibrated than label smoothing", less(OURS, "label-smoothing", on="ece")),
    Claim("It stays likelier when both are temperature-scaled",
          less(OURS, "hard", on="nll_scaled")),
    Claim("It is better calibrated under a shift too", less(OURS, "hard", on="ece_shifted")),
    Claim("A weight that grows beats a constant one", greater(OURS, "constant-0.8")),
    Claim("A network's past is as accurate a teacher as the average of its weights",
          equivalent(OURS, "ema-teacher", margin=0.01)),
)  # fmt: skip


@dataclass(frozen=True)
class Images:
    """All images and labels, and the test images once more, shifted (or none)."""

    pool: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    shifted: np.ndarray | None
    classes: int


def load(config: Config) -> Images:
    """The pool (and what is held out), the test set and its shifted copy."""
    if config.data == "cifar100":
        import datasets

        splits = datasets.load_dataset("uoft-cs/cifar100")
        (x, y), (tx, ty) = (
            (np.stack([np.asarray(image) for image in splits[name]["img"]]),
             np.array(splits[name]["fine_label"])) for name in ("train", "test")
        )  # fmt: skip
        mean, scale = x.mean((0, 1, 2)), x.std((0, 1, 2))
        x, tx = (((a - mean) / scale).transpose(0, 3, 1, 2).astype(np.float16) for a in (x, tx))
        size = config.pool + config.held_out
        return Images((x[:size], y[:size]), (tx[: config.test], ty[: config.test]), None, 100)
    images, labels = digits("mnist", seed=0)
    images = images[:, 0]
    tested = stratified(labels, config.test, seed=0)
    rest = np.setdiff1d(np.arange(len(labels)), tested)[: config.pool + config.held_out]
    blended = over_photographs(images[tested], seed=0).mean(1, keepdims=True)
    one = images[:, None]
    return Images((one[rest], labels[rest]), (one[tested], labels[tested]), blended, 10)


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Every network and share of wrong labels, every seed, every method."""
    data = load(config)
    settings = list(itertools.product(config.networks, config.noise, lab.seeds(config.seeds)))
    for rows in lab.map(arms, [(config, data, *setting) for setting in settings],
                        description="Training"):  # fmt: skip
        yield from rows


def arms(lab: Lab, item: tuple[Config, Images, str, float, int]) -> list[Row]:
    """All methods with one network, noise and seed, beside their floor and ceiling."""
    config, data, network, noise, seed = item
    x, y = data.pool
    order = np.random.default_rng(seed).permutation(len(y))
    held, pool = order[: config.held_out], order[config.held_out :]
    rows, said = pool[: config.labelled], corrupted(y, noise, data.classes, seed)
    fit = functools.partial(trained, lab, config, data, network, seed, x[held])
    ceiling = accuracy(fit("hard", pool, y[pool])["test"], data.test[1])
    found = {method: fit(method, rows, said[rows]) for method in config.methods}
    shared = {"seed": seed, "network": network, "noise": noise, "ceiling": ceiling}
    measured = {
        method: measures(answers, data.test[1], said[held])
        | {"fitted": accuracy(answers["train"], said[rows])}
        for method, answers in found.items()
    }
    if "hard" in found:
        test, kept = found["hard"]["test"], found["hard"]["held"]
        after = calibration_report(temperature_scaled(test, kept, said[held]), data.test[1])
        measured["hard-scaled"] = {**vars(after), "score": after.accuracy}
        del measured["hard-scaled"]["accuracy"]
    floor = measured.get("hard", {}).get("score")
    return [
        Row(method=method, **shared, floor=floor, **values) for method, values in measured.items()
    ]


def corrupted(labels: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """Labels of which this share is replaced by another class, at random."""
    rng = np.random.default_rng([seed, 1])
    wrong = (labels + rng.integers(1, classes, len(labels))) % classes
    return np.where(rng.random(len(labels)) < share, wrong, labels)


def trained(
    lab: Lab, config: Config, data: Images, network: str, seed: int, held: np.ndarray, method: str,
    rows: np.ndarray, labels: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Class probabilities of the test images, the shifted and the held-out ones."""
    steps = config.epochs * -(-config.labelled // config.batch_size)
    epochs = max(1, round(steps / -(-len(rows) // config.batch_size)))  # equal updates for all
    targets = torch.eye(data.classes)[torch.from_numpy(labels)]
    taught = method == "ema-teacher"
    make = functools.partial(made, name=network, classes=data.classes, taught=taught)
    loss: Any = soft_cross_entropy
    name, _, alpha = method.rpartition("-")
    if method == "label-smoothing":
        targets = 0.9 * targets + 0.1 / data.classes
    elif taught:
        loss = EmaTaughtLoss(epochs=epochs)
    elif name in ("ps-kd", "constant"):
        schedule: Any = "linear" if name == "ps-kd" else "constant"
        loss = SelfDistillation(
            len(rows), data.classes, epochs=epochs, alpha=float(alpha), schedule=schedule
        )
        targets = indexed(targets)
    groups = {"test": data.test[0], "shifted": data.shifted, "held": held}
    groups["train"] = data.pool[0][rows]
    return lab.fit(
        make, data.pool[0][rows], targets, objective=loss, seed=seed,
        augment=crop_and_flip if config.augment else None,
        predict={name: group for name, group in groups.items() if group is not None},
        config=TrainConfig(
            epochs=epochs, batch_size=config.batch_size, optimizer=config.optimizer,
            learning_rate=config.learning_rates[config.networks.index(network)],
            weight_decay=config.weight_decay, dropout=True,
            momentum=0.9 if config.optimizer == "sgd" else 0.0,
        ),
    ).probabilities  # fmt: skip


def made(seed: int, name: str, classes: int, taught: bool) -> nn.Module:
    """A network with random weights, beside the average of its weights if it is `taught`."""
    network = NETWORKS[name](classes)
    return EmaTaught(network) if taught else network


def measures(answers: dict[str, np.ndarray], truth: np.ndarray, held: np.ndarray) -> dict[str, Any]:
    """Of the test images, the shifted ones, and the former after temperature scaling."""
    columns = {**vars(calibration_report(answers["test"], truth))}
    columns["score"] = columns.pop("accuracy")
    for name, said in (
        ("shifted", answers.get("shifted")),
        ("scaled", temperature_scaled(answers["test"], answers["held"], held)),
    ):
        if said is not None:
            report = vars(calibration_report(said, truth))
            columns |= {f"{measure}_{name}": value for measure, value in report.items()}
    return columns
