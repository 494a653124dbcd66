"""Can a network boosted a few units at a time match joint training, and lose its last units?

Protocol (Emami and Martínez-Muñoz 2023, arXiv 1909.12098). On each data set and split, a boosted
network and networks of equal width trained as a whole (Adam, L-BFGS, SGD) are fitted to the same
standardised training part and scored on the rest: accuracy, or R² for regression. Floor: a linear
model. Ceiling: the network trained by Adam. Then units are switched off: the boosted network keeps
the first ones in training order, the Adam network those with the largest output weights, and the
rest are set to 0 or to their training mean. There the floor is the Adam network cut by as much with
zeros, and the ceiling the whole Adam network.

Differences from the paper, each with its effect: no search over hyper-parameters, on any side (the
paper's 10-fold nested search favours whoever has more of them to tune); six data sets of which
three are scikit-learn's and two generated, instead of twelve of UCI (fewer rows, wider intervals);
deep features are frozen sentence embeddings of news instead of a network trained end to end. Three
controls are ours: units replaced by their means, the boosted network cut in random order, and a
small network trained at the width that is left. All networks have sigmoid units; regression's
labels are standardised, without which Adam would spend its epochs on reaching their mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from generality.benchmarks import load_benchmark, stratified
from generality.benchmarks.feature_tables import NUMBERS, divided, feature_table
from generality.claims import Claim, Row, greater, less
from generality.experiments.cut_networks import boosted_and_cut, joint_and_cut, linear_score
from generality.lab import Lab
from generality.studies.study import Paper

PAPER = Paper(
    "Sequential Training of Neural Networks with Gradient Boosting", arxiv="1909.12098", year=2023
)
FACTORS = ("data", "part", "kept")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    datasets: tuple[str, ...] = ("breast-cancer", "wine", "digits", "diabetes", "friedman1", "bbc")
    units: int = 80  # hidden units of every network, a multiple of units_per_step
    units_per_step: int = 2  # the paper's J
    learning_rate: float = 0.5  # the paper's η
    subsample: float = 0.5  # share of examples each step sees
    step_iterations: int = 50  # of L-BFGS in each boosting step
    iterations: int = 200  # epochs of Adam and SGD in batches of 64, iterations of L-BFGS
    kept: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75)  # shares of units
    train_share: float = 0.7
    documents: int = 1000  # news articles, of 2,225
    tokens: int = 64  # of each that the sentence encoder reads
    encoder: str = "minilm-l6"
    seeds: int = 5  # splits and starts


SCALES = {
    "smoke": Config(
        datasets=("wine", "diabetes"), units=12, step_iterations=15, iterations=30,
        kept=(0.25, 0.5), seeds=2,
    ),
    "small": Config(),
    "full": Config(
        datasets=(
            "breast-cancer", "wine", "digits", "diabetes", "friedman1", "bbc", "openml:spambase",
            "openml:vehicle", "openml:sonar", "openml:segment", "openml:waveform-5000",
            "openml:ionosphere", "openml:mnist_784",
        ),
        units=200, units_per_step=1, learning_rate=0.1, step_iterations=200, documents=2225,
        tokens=256, seeds=10,
    ),
}  # fmt: skip

TABLES = ["breast-cancer", "wine", "digits"]
WHOLE = {"part": "whole"}
MARGIN = 0.02  # of accuracy or R²: the paper's tables differ by less within one method's folds


def cut(kept: float) -> dict[str, Any]:
    """Rows of classification with this share of units kept."""
    return {"part": "cut", "kept": kept, "data": [*TABLES, "bbc"]}


CLAIMS = (
    Claim(
        "On tables a boosted network is at most 2 points of accuracy below one trained by Adam",
        greater("boosted", -MARGIN, on="ahead_of_adam", where={**WHOLE, "data": TABLES}),
    ),
    Claim(
        "It is at most 2 points of accuracy below one trained by L-BFGS",
        greater("boosted", -MARGIN, on="ahead_of_lbfgs", where={**WHOLE, "data": TABLES}),
    ),
    Claim(
        "It is more accurate than one trained by SGD",
        greater("boosted", "sgd", where={**WHOLE, "data": TABLES}),
    ),
    Claim(
        "In regression it is at most 2 points of R² below one trained by Adam",
        greater("boosted", -MARGIN, on="ahead_of_adam", where={**WHOLE, "data": [*NUMBERS]}),
    ),
    Claim(
        "On a sentence encoder's features it is at most 2 points below a head trained by Adam",
        greater("boosted", -MARGIN, on="ahead_of_adam", where={**WHOLE, "data": "bbc"}),
    ),
    Claim(
        "With half of the units it loses less than the Adam network with zeros in their place",
        less("boosted", "adam-zeros", on="lost", where=cut(0.5)),
    ),
    Claim(
        "With a quarter of the units it loses less than the Adam network with zeros",
        less("boosted", "adam-zeros", on="lost", where=cut(0.25)),
    ),
    Claim(
        "With a quarter of the units it loses less than the Adam network with means",
        less("boosted", "adam-means", on="lost", where=cut(0.25)),
    ),
    Claim(
        "Half of the units lose at most 2 points of accuracy",
        less("boosted", MARGIN, on="lost", where=cut(0.5)),
    ),
    Claim(
        "Training order matters: in random order the same share of units loses more",
        less("boosted", "boosted-random-order", on="lost", where=cut(0.25)),
    ),
    Claim(
        "The merged network computes what the sum of its steps does",
        less("boosted", 1e-10, on="merge_error", where=WHOLE),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every data set and split: whole networks, then the same ones cut."""
    for name in config.datasets:
        table = read(name, config, lab)
        for seed in lab.seeds(config.seeds):
            parts = divided(
                *table, regression=name in NUMBERS, train_share=config.train_share, seed=seed
            )
            boosted = lab.step(
                boosted_and_cut, parts, units=config.units, units_per_step=config.units_per_step,
                learning_rate=config.learning_rate, subsample=config.subsample,
                max_iter=config.step_iterations, kept=config.kept, seed=seed,
            )  # fmt: skip
            train = partial(lab.step, joint_and_cut, parts, max_iter=config.iterations, seed=seed)
            joint = {
                solver: train(
                    units=config.units, solver=solver, kept=config.kept if solver == "adam" else ()
                )
                for solver in ("adam", "lbfgs", "sgd")
            }
            linear = lab.step(linear_score, parts)
            adam = joint["adam"]["whole"]
            shared = {"data": name, "seed": seed}
            found = {"boosted": boosted["whole"], "linear": linear}
            found |= {solver: whole["whole"] for solver, whole in joint.items()}
            for method, score in found.items():
                yield Row(
                    method=method, score=score, floor=linear, ceiling=adam, part="whole", kept=1.0,
                    ahead_of_adam=score - adam, ahead_of_lbfgs=score - found["lbfgs"],
                    merge_error=boosted["merge_error"] if method == "boosted" else None, **shared,
                )  # fmt: skip
            for i, kept in enumerate(config.kept):
                narrow = train(units=max(1, int(kept * config.units)), solver="adam")["whole"]
                cuts = {
                    "boosted": (boosted["in_order"][i], boosted["whole"]),
                    "boosted-random-order": (boosted["in_random_order"][i], boosted["whole"]),
                    "adam-zeros": (joint["adam"]["zeros"][i], adam),
                    "adam-means": (joint["adam"]["means"][i], adam),
                    "adam-narrow": (narrow, adam),
                }
                for method, (score, whole) in cuts.items():
                    yield Row(
                        method=method, score=score, floor=cuts["adam-zeros"][0], ceiling=adam,
                        part="cut", kept=kept, lost=whole - score, **shared,
                    )  # fmt: skip


def read(name: str, config: Config, lab: Lab) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of one data set; of news articles a sentence encoder's features."""
    if name != "bbc":
        return feature_table(name)
    splits = load_benchmark("bbc", words=config.tokens).splits.values()
    texts = [text for split in splits for text in split["text"]]
    labels = np.array([label for split in splits for label in split["label"]])
    rows = stratified(labels, min(config.documents, len(labels)), seed=0)
    texts = [texts[row] for row in rows]
    features = lab.embed(config.encoder, texts, max_length=config.tokens)
    return np.asarray(features, dtype=np.float64), labels[rows]
