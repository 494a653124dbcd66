"""What several hypotheses for one data set believe, of the data they differ on and of a test."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real

from generality.estimators.hypotheses import fit_dbat, fit_divdis
from generality.lab.threads import available_cores, threads
from generality.measures import agreement_score
from generality.models.named_networks import named_network
from generality.objectives import DBATLoss, DivDisLoss


def diverse_beliefs(
    loss: DBATLoss | DivDisLoss,
    network: str,
    hypotheses: int,
    inputs: Real[np.ndarray, "seeds n ..."],
    labels: Int[np.ndarray, "seeds n"],
    unlabelled: Real[np.ndarray, "seeds others ..."],
    test: Real[np.ndarray, "seeds m ..."],
    *,
    seeds: Sequence[int],
    **training: Any,
) -> tuple[
    Float[np.ndarray, "seeds hypotheses others classes"],
    Float[np.ndarray, "seeds hypotheses m classes"],
]:
    """Class probabilities of diverse hypotheses, on the unlabelled and on the test data.

    Args:
        loss: `DBATLoss` trains networks one after another (`fit_dbat`; with alpha 0 they differ by
            their seed only, the control), `DivDisLoss` heads of one network (`fit_divdis`).
        network: as in `named_network`. One with batch statistics takes one seed at a time.
        hypotheses: how many.
        inputs: labelled examples of each seed.
        unlabelled: examples of each seed that the hypotheses are to differ on.
        seeds: of the replicas, which train together, small images on one thread.
        training: steps, learning_rate, … of `lab.train_streams`.

    >>> from generality.benchmarks import spurious_2d
    >>> mixture = spurious_2d(ratio=0.0)
    >>> train, others, test = mixture.training(50), mixture.unlabelled(50), mixture.test(20)
    >>> on_others, on_test = diverse_beliefs(
    ...     DBATLoss(1.0), "linear", 2, train.inputs[None], train.labels[None],
    ...     others.inputs[None], test.inputs[None], seeds=[0], steps=5)
    >>> on_others.shape, on_test.shape
    ((1, 2, 50, 2), (1, 2, 20, 2))
    """
    shape = inputs.shape[2:]
    build = functools.partial(named_network, name=network, shape=shape)
    with threads(1 if shape[-1] < 100 else available_cores()):
        if isinstance(loss, DivDisLoss):
            found = fit_divdis(
                functools.partial(build, heads=hypotheses), inputs, labels, unlabelled, loss=loss,
                seeds=seeds, **training,
            )  # fmt: skip
        else:
            found = fit_dbat(
                build, inputs, labels, unlabelled, loss=loss, hypotheses=hypotheses, seeds=seeds,
                **training,
            )  # fmt: skip
        return found.predict_proba(unlabelled, own=True), found.predict_proba(test, own=True)


def labelling_agreement(
    network: str,
    inputs: Real[np.ndarray, "n ..."],
    labels: Int[np.ndarray, " n"],
    test: Real[np.ndarray, "m ..."],
    *,
    seeds: int,
    **training: Any,
) -> float:
    """`agreement_score` of a labelling under networks that differ by their seed only, in [0, 1].

    Arguments as in `diverse_beliefs`; `seeds` networks train together.

    >>> rng = np.random.default_rng(0)
    >>> X, new = rng.normal(size=(2, 60, 3)).astype("float32")
    >>> y = (X[:, 0] > 0).astype(int)
    >>> labelling_agreement("linear", X, y, new, seeds=2, steps=200, learning_rate=0.05) > 0.9
    True
    """

    def copies(array: np.ndarray) -> np.ndarray:
        return np.broadcast_to(array, (seeds, *array.shape))

    _, said = diverse_beliefs(
        DBATLoss(0.0), network, 1, copies(inputs), copies(labels), copies(inputs), copies(test),
        seeds=range(seeds), **training,
    )  # fmt: skip
    return agreement_score(
        lambda _x, _y, _new, seed: said[seed, 0], inputs, labels, test, seeds=seeds
    )
