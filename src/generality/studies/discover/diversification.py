"""Which unlabelled data, and which network, let diverse hypotheses find the cue that generalises?

Protocol (Benoit et al. 2023, arXiv 2312.16313). Two cues explain every training label, one of them
spurious; in the unlabelled data they agree in a share r of the examples; in the test data they are
independent. Two methods train several hypotheses that fit the labels and differ on the unlabelled
data: D-BAT (one after another, disagreeing) and DivDis (heads of one network, independent). A
hypothesis is then picked: the best on the test data (`oracle`, what the paper reports), or by 16
labels asked for where the hypotheses differ (`active`) or anywhere (`random`), or all averaged
(`ensemble`). Floor: plain training. Ceiling: the same on training data whose cues are independent.
`seeds` is the control: as many plain networks that differ by their seed only.

Differences from the paper, each with its effect: two numbers and digit dominoes (MNIST 0/1 over a
4 or 9 in some typeface, 28×14 pixels) instead of Waterbirds, Office-Home and CIFAR-10 (cues are
cleaner, so the curves are steeper); a linear model, a perceptron and a small convolutional network
from scratch instead of pretrained ones (inductive bias without pretraining); the labellings that
fool D-BAT are left out, agreement scores compare the true labelling with random ones only; the
unlabelled examples are cut from their own half of the sources, not from a validation set.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from generality.benchmarks import digit_dominoes, spurious_2d, waterbirds_parts
from generality.claims import Claim, Row, equivalent, greater, less, monotone
from generality.errors import UserError, unknown
from generality.estimators import picked_accuracy
from generality.estimators.disambiguate import Pick
from generality.experiments import diverse_beliefs, labelling_agreement
from generality.lab import Lab
from generality.measures import accuracy, chosen_elsewhere
from generality.objectives import DBATLoss, DivDisLoss
from generality.studies.study import Paper

PAPER = Paper(
    "Unraveling the Key Components of OOD Generalization via Diversification",
    arxiv="2312.16313",
    year=2023,
)
FACTORS = ("data", "network", "pick", "ratio", "hypotheses")

METHODS = ("dbat", "dbat-strong", "divdis", "seeds")
PICKS: tuple[Pick, ...] = ("oracle", "active", "random", "ensemble")


@dataclass(frozen=True)
class Config:
    """Every knob of the study; those of images are for dominoes and waterbirds."""

    data: tuple[str, ...] = ("2d", "dominoes")  # or "waterbirds"
    data_path: str | None = None  # folder of WILDS' waterbirds_v1.0
    methods: tuple[str, ...] = METHODS
    networks: tuple[str, ...] = ("linear", "mlp", "conv")  # of images; or hub names (waterbirds)
    ratios: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)  # share of cues that agree, 2d
    image_ratios: tuple[float, ...] = (0.0, 0.5, 1.0)
    hypotheses: tuple[int, ...] = (2, 4)  # K, 2d
    image_hypotheses: tuple[int, ...] = (2,)
    labelled: int = 500  # examples
    unlabelled: int = 1000
    test: int = 1000
    seeds: int = 5
    alpha: float = 1.0  # of D-BAT
    strong_alpha: float = 10.0  # of "dbat-strong"
    repulsion: float = 1.0  # λ1 of DivDis, 2d (where λ2 is 0)
    image_repulsion: float = 10.0  # λ1 and λ2
    steps: int = 800
    image_steps: int = 300
    batch: int = 32  # labelled examples a step
    unlabelled_batch: int = 100
    optimizer: str = "adam"  # or "sgd", of momentum 0.9
    learning_rate: float = 1e-3
    image_learning_rate: float = 3e-3
    weight_decay: float = 0.0
    budget: int = 16  # labels asked for
    agreement_seeds: int = 5  # trainings for an agreement score; 0: none

    def __post_init__(self) -> None:
        for data in self.data:
            if data not in ("2d", "dominoes", "waterbirds"):
                raise unknown("data", data, ("2d", "dominoes", "waterbirds"))
        for method in self.methods:
            if method not in METHODS:
                raise unknown("method", method, METHODS)
        if "waterbirds" in self.data and self.data_path is None:
            raise UserError("waterbirds needs --set data_path=FOLDER of waterbirds_v1.0.")
        if min(*self.hypotheses, *self.image_hypotheses) < 2 or self.agreement_seeds == 1:
            raise UserError("hypotheses are 2 or more, agreement_seeds 0 or 2 and more.")


SCALES = {
    "smoke": Config(
        ratios=(0.0, 0.5), image_ratios=(0.5,), hypotheses=(2, 3), labelled=60, unlabelled=80,
        test=80, seeds=2, steps=30, image_steps=5, networks=("linear", "mlp"), agreement_seeds=2,
        methods=("dbat", "divdis", "seeds"),
    ),
    "small": Config(),
    "full": Config(
        data=("waterbirds",), data_path="waterbirds_v1.0",
        networks=(
            "scratch:hf:microsoft/resnet-50", "hf:microsoft/resnet-50", "hf:facebook/dino-vitb16",
            "hf:google/vit-base-patch16-224-in21k",
        ),
        image_ratios=(0.0, 0.25, 0.5, 0.75, 1.0), image_hypotheses=(2, 3), seeds=3, alpha=0.1,
        strong_alpha=1.0, image_steps=3600, batch=128, unlabelled_batch=128, optimizer="sgd",
        image_learning_rate=1e-3, weight_decay=1e-4, agreement_seeds=0,
    ),
}  # fmt: skip

TWO = {"data": "2d", "hypotheses": 2, "pick": "oracle"}
IMAGES = {"data": ["dominoes", "waterbirds"], "pick": "oracle"}
CLAIMS = (
    Claim(
        "D-BAT is best on inversely correlated unlabelled data and worse the more the cues agree",
        monotone("ratio", direction="decreasing", where={**TWO, "method": "dbat"}),
    ),
    Claim(
        "DivDis is better on independent cues than on inversely correlated ones",
        greater(0.5, 0.0, by="ratio", where={**TWO, "method": "divdis"}),
    ),
    Claim(
        "DivDis is better on independent cues than on fully agreeing ones",
        greater(0.5, 1.0, by="ratio", where={**TWO, "method": "divdis"}),
    ),
    Claim(
        "On inversely correlated cues DivDis is below D-BAT",
        less("divdis", "dbat", where={**TWO, "ratio": 0.0}),
    ),
    Claim(
        "On independent cues DivDis is above D-BAT",
        greater("divdis", "dbat", where={**TWO, "ratio": 0.5}),
    ),
    Claim(
        "It is above a D-BAT that weighs disagreement ten times as much",
        greater("divdis", "dbat-strong", where={**TWO, "ratio": 0.5}),
    ),
    Claim(
        "Where the cues fully agree D-BAT stays within 10 points of plain training",
        equivalent("dbat", "floor", margin=0.1, where={**TWO, "ratio": 1.0}),
    ),
    Claim(
        "On images too D-BAT is better on inversely correlated cues than on independent ones",
        greater(0.0, 0.5, by="ratio", where={**IMAGES, "method": "dbat"}),
    ),
    Claim(
        "On images too DivDis is better on independent cues than on inversely correlated ones",
        greater(0.5, 0.0, by="ratio", where={**IMAGES, "method": "divdis"}),
    ),
    Claim(
        "The second-best network (ranked on other seeds) loses at least 5 points to the best",
        greater("best elsewhere", "second elsewhere", by="network", margin=0.05, where=IMAGES),
    ),
    Claim(
        "The network that is best at one mixture is not the best at another",
        greater("best elsewhere", "best at another ratio", by="network", where=IMAGES),
    ),
    Claim(
        "Four hypotheses do no better than two where the cues fully agree (within 5 points)",
        equivalent(4, 2, by="hypotheses", margin=0.05, where={
            "data": "2d", "pick": "oracle", "ratio": 1.0, "method": ["dbat", "divdis"],
        }),
    ),
    Claim(
        "Sixteen labels asked for where hypotheses differ pick as well as the test set (2 points)",
        equivalent("active", "oracle", by="pick", margin=0.02, where={
            "data": "2d", "hypotheses": 2, "method": ["dbat", "divdis"],
        }),
    ),
    Claim(
        "Diverse hypotheses beat as many that differ by their seed only, the ratio being right",
        greater("dbat", "seeds", where={**TWO, "ratio": 0.0}),
    ),
    Claim(
        "Networks trained on the true labels agree more than ones trained on random labels",
        greater("true labelling", "random labelling"),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every data set, network, method, mixture, K, pick and seed; then agreement scores."""
    for data in config.data:
        networks = ("mlp",) if data == "2d" else config.networks
        rows = [row for network in networks for row in network_rows(config, lab, data, network)]
        yield from rows
        best = [row for row in rows if row["pick"] == "oracle" and row["method"] != "seeds"]
        yield from chosen_elsewhere(best, within=("method", "hypotheses"))
    if config.agreement_seeds and "dominoes" in config.data:
        yield from agreement_rows(config, lab)


def network_rows(config: Config, lab: Lab, data: str, network: str) -> Iterator[Row]:
    """Every method at every mixture and seed, for one network."""
    image = data != "2d"
    counts = sorted(config.image_hypotheses if image else config.hypotheses, reverse=True)
    ratios = config.image_ratios if image else config.ratios
    cells = list(itertools.product(ratios, lab.seeds(config.seeds)))
    losses = {
        "dbat": DBATLoss(config.alpha), "dbat-strong": DBATLoss(config.strong_alpha),
        "seeds": DBATLoss(0.0),
        "divdis": DivDisLoss(config.image_repulsion, config.image_repulsion)
        if image else DivDisLoss(config.repulsion, 0.0),
    }  # fmt: skip
    # Batch statistics cannot be kept per replica: hub models train one at a time.
    for group in [[cell] for cell in cells] if data == "waterbirds" else [cells]:
        drawn = [draw(config, data, ratio, seed) for ratio, seed in group]
        training, asked, test, decoupled = (
            tuple(np.stack(arrays) for arrays in zip(*part, strict=True))
            for part in zip(*drawn, strict=True)
        )

        def fit(
            method: str, count: int, labelled: Any = training, asked: Any = asked,
            test: Any = test, seeds: Any = tuple(seed for _, seed in group),
        ) -> Any:  # fmt: skip
            """Beliefs of every replica's hypotheses about the unlabelled and the test data."""
            return lab.step(
                diverse_beliefs, losses[method], network, count, *labelled, asked[0], test[0],
                seeds=seeds, **training_options(config, image),
            )  # fmt: skip

        floors, ceilings = fit("seeds", counts[0])[1], fit("seeds", 1, decoupled)[1]
        for method, count in itertools.product(config.methods, counts):
            # DivDis trains its heads together; the others' first K are those of more
            said = fit(method, count if method == "divdis" else counts[0])
            for i, (ratio, seed) in enumerate(group):
                on_asked, on_test = (part[i, :count] for part in said)
                truth = test[1][i]
                for pick in PICKS:
                    score = picked_accuracy(
                        pick, on_asked, asked[1][i], on_test, truth, budget=config.budget,
                        seed=seed,
                    )  # fmt: skip
                    yield Row(
                        method=method, seed=seed, data=data, network=network, ratio=ratio,
                        hypotheses=count, pick=pick, score=score,
                        floor=accuracy(floors[i, 0], truth),
                        ceiling=accuracy(ceilings[i, 0], truth),
                    )  # fmt: skip


def draw(config: Config, data: str, ratio: float, seed: int) -> list[tuple[Any, Any]]:
    """(inputs, labels) to train on, unlabelled, to test on, and with cues apart for the ceiling."""
    if data == "waterbirds":
        return waterbirds_parts(str(config.data_path), ratio=ratio, seed=seed)
    mixture = spurious_2d(ratio) if data == "2d" else digit_dominoes(ratio)
    return mixture.parts(config.labelled, config.unlabelled, config.test, seed=seed)


def training_options(config: Config, image: bool) -> dict[str, Any]:
    """How everything is trained."""
    return {
        "steps": config.image_steps if image else config.steps,
        "learning_rate": config.image_learning_rate if image else config.learning_rate,
        "optimizer": config.optimizer,
        "momentum": 0.9 if config.optimizer == "sgd" else 0.0,
        "weight_decay": config.weight_decay,
        "batch_size": {"labelled": config.batch, "unlabelled": config.unlabelled_batch},
    }


def agreement_rows(config: Config, lab: Lab) -> Iterator[Row]:
    """How alike networks come out that are trained on the true and on random labels."""
    for network, seed in itertools.product(config.networks, lab.seeds(config.seeds)):
        (inputs, labels), _, (test, _), _ = draw(config, "dominoes", 0.5, seed)
        random_labels = np.random.default_rng(seed).permutation(labels)
        for method, labelling in (("true", labels), ("random", random_labels)):
            score = lab.step(
                labelling_agreement, network, inputs, labelling, test,
                seeds=config.agreement_seeds, **training_options(config, image=True),
            )  # fmt: skip
            yield Row(
                method=f"{method} labelling", seed=seed, data="agreement", network=network,
                score=score, floor=None, ceiling=None,
            )  # fmt: skip
