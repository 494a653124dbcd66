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

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from generality.benchmarks import load_benchmark, stratified
from generality.claims import Claim, Row, greater, less
from generality.errors import unknown
from generality.estimators import GradientBoostedHead, GradientBoostedHeadRegressor
from generality.lab import Lab
from generality.measures import truncation_curve
from generality.modules import TruncatableMLP
from generality.studies.study import Paper

PAPER = Paper(
    "Sequential Training of Neural Networks with Gradient Boosting", arxiv="1909.12098", year=2023
)


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
NUMBERS = ["diabetes", "friedman1"]
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
        greater("boosted", -MARGIN, on="ahead_of_adam", where={**WHOLE, "data": NUMBERS}),
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
        X, y = load(name, config, lab)
        for seed in lab.seeds(config.seeds):
            split = (X, y, is_regression(name), config.train_share, seed)
            boosted = lab.step(
                boost, *split, units=config.units, units_per_step=config.units_per_step,
                learning_rate=config.learning_rate, subsample=config.subsample,
                max_iter=config.step_iterations, kept=config.kept,
            )  # fmt: skip
            joint = {
                solver: lab.step(
                    train_jointly, *split, units=config.units, solver=solver,
                    max_iter=config.iterations, kept=config.kept if solver == "adam" else (),
                )
                for solver in ("adam", "lbfgs", "sgd")
            }  # fmt: skip
            linear = lab.step(train_linear, *split)
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
                narrow = lab.step(
                    train_jointly, *split, units=max(1, int(kept * config.units)), solver="adam",
                    max_iter=config.iterations, kept=(),
                )["whole"]  # fmt: skip
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


def is_regression(name: str) -> bool:
    """Whether the labels of a data set are numbers."""
    return name in ("diabetes", "friedman1")


def load(name: str, config: Config, lab: Lab) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of one data set: class ids, or numbers of mean 0 and deviation 1."""
    from sklearn import datasets

    if name == "bbc":
        splits = load_benchmark("bbc", words=config.tokens).splits.values()
        texts = [text for split in splits for text in split["text"]]
        labels = np.array([label for split in splits for label in split["label"]])
        rows = stratified(labels, min(config.documents, len(labels)), seed=0)
        texts = [texts[row] for row in rows]
        features = lab.embed(config.encoder, texts, max_length=config.tokens)
        return np.asarray(features, dtype=np.float64), labels[rows]
    if name.startswith("openml:"):
        table = datasets.fetch_openml(name.removeprefix("openml:"), as_frame=False, parser="auto")
        return np.asarray(table.data, dtype=np.float64), np.unique(table.target, False, True)[1]
    packaged = {
        "breast-cancer": datasets.load_breast_cancer, "wine": datasets.load_wine,
        "digits": datasets.load_digits, "diabetes": datasets.load_diabetes,
    }  # fmt: skip
    if name == "friedman1":
        X, y = datasets.make_friedman1(n_samples=600, noise=1.0, random_state=0)
    elif name in packaged:
        X, y = packaged[name](return_X_y=True)
    else:
        raise unknown("data set", name, [*packaged, "friedman1", "bbc", "openml:NAME"])
    return X, (y - y.mean()) / y.std() if is_regression(name) else y


def divide(
    X: np.ndarray, y: np.ndarray, regression: bool, train_share: float, seed: int
) -> list[np.ndarray]:
    """Training and test features (standardised on the training part) and labels."""
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    train, test, y_train, y_test = train_test_split(
        X, y, train_size=train_share, random_state=seed, stratify=None if regression else y
    )
    scaler = StandardScaler().fit(train)
    return [scaler.transform(train), y_train, scaler.transform(test), y_test]


def boost(
    X: np.ndarray, y: np.ndarray, regression: bool, train_share: float, seed: int, *,
    units: int, units_per_step: int, learning_rate: float, subsample: float, max_iter: int,
    kept: tuple[float, ...],
) -> dict[str, Any]:  # fmt: skip
    """A boosted network's test score, whole and cut, and how exactly it merges its steps."""
    train, y_train, test, y_test = divide(X, y, regression, train_share, seed)
    head = (GradientBoostedHeadRegressor if regression else GradientBoostedHead)(
        total_units=units, units_per_step=units_per_step, learning_rate=learning_rate,
        subsample=subsample, max_iter=max_iter, random_state=seed,
    ).fit(train, y_train)  # fmt: skip
    network = head.to_torch()
    order = np.random.default_rng(seed).permutation(units // units_per_step)
    last = head.predict(test) if regression else head.decision_function(test)
    scale = 2 if getattr(head, "loss_", "") == "binary" else 1
    merged = network(torch.as_tensor(test)).detach().numpy()
    return {
        "whole": scores(network, test, y_test, regression, [1.0])[0],
        "in_order": scores(network, test, y_test, regression, kept),
        "in_random_order": scores(network.reordered(order), test, y_test, regression, kept),
        "merge_error": float(np.abs(merged.reshape(last.shape) - scale * last).max()),
    }


def train_jointly(
    X: np.ndarray, y: np.ndarray, regression: bool, train_share: float, seed: int, *,
    units: int, solver: str, max_iter: int, kept: tuple[float, ...],
) -> dict[str, Any]:  # fmt: skip
    """A network of the same shape trained as a whole; cut by output weight, zeros or means."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    train, y_train, test, y_test = divide(X, y, regression, train_share, seed)
    model = (MLPRegressor if regression else MLPClassifier)(
        hidden_layer_sizes=(units,), activation="logistic", solver=solver, max_iter=max_iter,
        batch_size=min(64, len(train)), random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train, y_train)
    means = expit(train @ model.coefs_[0] + model.intercepts_[0]).mean(0)
    order = np.argsort(-np.linalg.norm(model.coefs_[1], axis=1), kind="stable")
    zeros = TruncatableMLP.from_sklearn(model, order=order)
    filled = TruncatableMLP.from_sklearn(model, order=order, means=torch.as_tensor(means))
    return {
        "whole": scores(zeros, test, y_test, regression, [1.0])[0],
        "zeros": scores(zeros, test, y_test, regression, kept),
        "means": scores(filled, test, y_test, regression, kept),
    }


def train_linear(
    X: np.ndarray, y: np.ndarray, regression: bool, train_share: float, seed: int
) -> float:
    """Test score of logistic or ridge regression, as scikit-learn sets them."""
    from sklearn.linear_model import LogisticRegression, Ridge

    train, y_train, test, y_test = divide(X, y, regression, train_share, seed)
    model = Ridge() if regression else LogisticRegression(max_iter=1000)
    return float(model.fit(train, y_train).score(test, y_test))


def scores(
    network: TruncatableMLP, X: np.ndarray, y: np.ndarray, regression: bool, kept: Sequence[float]
) -> list[float]:
    """Test accuracy, or R², at each share of units kept."""
    from sklearn.metrics import r2_score

    metric = (lambda outputs, truth: r2_score(truth, outputs[:, 0])) if regression else None
    return [point.value for point in truncation_curve(network, X, y, kept, metric=metric)]
