"""Domains as rows of numbers with labels, by name: what small networks and probes train on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from generality.benchmarks.colored_digits import colored_digits
from generality.benchmarks.digits import digits
from generality.benchmarks.multi_domain import MultiDomain
from generality.benchmarks.rotated_digits import rotated_digits

Domains = dict[str, tuple[Float[np.ndarray, "n dim"], Int[np.ndarray, " n"]]]
"""Inputs and labels of each domain."""


def turned_vectors(
    angles: tuple[int, ...], *, size: int = 14, per_domain: int | None = None, seed: int = 0
) -> Domains:
    """Grey handwritten digits as rows of pixels, each domain turned by its angle in degrees.

    >>> turned_vectors((0, 45), per_domain=3)["45°"][0].shape  # doctest: +SKIP
    (3, 196)
    """
    pictures, labels = digits("mnist", size=size)
    return _vectors(rotated_digits(pictures[:, :1], labels, angles, seed=seed), per_domain)


def colored_vectors(
    flips: tuple[float, ...],
    *,
    label_noise: float = 0.25,
    size: int = 14,
    per_domain: int | None = None,
    seed: int = 0,
) -> Domains:
    """Coloured digits as rows of pixels, by the probability that the colour misleads.

    >>> list(colored_vectors((0.1, 0.9), per_domain=3))  # doctest: +SKIP
    ['flip 0.1', 'flip 0.9']
    """
    pictures, shown = digits("mnist", size=size)
    data = colored_digits(
        pictures[:, 0], shown, label_noise=label_noise, color_flips=flips, seed=seed
    )
    return _vectors(data, per_domain)


def leave_out(
    names: Sequence[str], sources: int | None = None
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Pairs of source and target domains: each left out in turn, or the first `sources` kept.

    >>> leave_out(["a", "b", "c"])
    [(('b', 'c'), ('a',)), (('a', 'c'), ('b',)), (('a', 'b'), ('c',))]
    >>> leave_out(["a", "b", "c"], sources=2)
    [(('a', 'b'), ('c',))]
    """
    if sources is not None:
        return [(tuple(names[:sources]), tuple(names[sources:]))]
    return [(tuple(name for name in names if name != out), (out,)) for out in names]


def stack_domains(
    data: Sequence[Domains],
) -> tuple[
    Float[np.ndarray, "all dim"],
    Int[np.ndarray, " all"],
    dict[tuple[int, str], Int[np.ndarray, " n"]],
]:
    """All domains of every seed as one array, for trainers that train replicas on rows of it.

    Returns the inputs, the labels, and the rows of each (seed, domain).

    >>> one = {"a": (np.zeros((2, 3)), np.zeros(2, int)), "b": (np.ones((1, 3)), np.ones(1, int))}
    >>> X, y, rows = stack_domains([one, one])
    >>> X.shape, rows[1, "b"]
    ((6, 3), array([5]))
    """
    parts = [part for domains in data for part in domains.values()]
    X, y = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    places = [(seed, name) for seed, domains in enumerate(data) for name in domains]
    ends = itertools.accumulate(len(labels) for _, labels in parts)
    bounds = itertools.pairwise([0, *ends])
    return X, y, {at: np.arange(*bound) for at, bound in zip(places, bounds, strict=True)}


def _vectors(data: MultiDomain, per_domain: int | None) -> Domains:
    pixels = np.asarray(data.inputs).reshape(len(data), -1)
    rows = {name: data.rows(name)[:per_domain] for name in data.domain_names}
    return {name: (pixels[own], data.labels[own]) for name, own in rows.items()}
