"""Which rows of each domain train, validate and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from generality.benchmarks import stratified

HELD = 0.2
"""Share of a training domain's rows that is kept from training, as in DomainBed."""


@dataclass(frozen=True)
class DomainSplit:
    """The rows of one domain in one seed, by what they are for.

    Attributes:
        train: four fifths of the labelled rows, where the domain is trained on.
        held: the others, on which candidates are chosen.
        known: half of the labelled rows, where the domain is the target: the ceiling learns from
            their labels, the oracle chooses by them; no method sees these labels, but those of
            a sample that one says one has.
        score: the other half, on which everything is scored.
    """

    train: Int[np.ndarray, " a"]
    held: Int[np.ndarray, " b"]
    known: Int[np.ndarray, " c"]
    score: Int[np.ndarray, " d"]


def split_domain(
    labels: Int[np.ndarray, " n"], rows: Int[np.ndarray, " m"], seed: int
) -> DomainSplit:
    """Split a domain's labelled rows both ways, classes in proportion.

    The split depends on the seed and these rows only, so that a domain trains with the same rows
    whichever other domain is left out.

    >>> split = split_domain(np.array([0, 1] * 10), np.arange(20), seed=0)
    >>> [len(part) for part in (split.train, split.held, split.known, split.score)]
    [16, 4, 10, 10]
    """
    rows = rows[labels[rows] >= 0]
    train = rows[stratified(labels[rows], len(rows) - round(HELD * len(rows)), seed)]
    known = rows[stratified(labels[rows], len(rows) // 2, seed)]
    return DomainSplit(train, np.setdiff1d(rows, train), known, np.setdiff1d(rows, known))


def split_domains(
    labels: Int[np.ndarray, " n"], domains: Int[np.ndarray, " n"], count: int, seeds: Sequence[int]
) -> list[list[DomainSplit]]:
    """`split_domain` of every seed and domain: `splits[seed][domain]`."""
    members = [np.flatnonzero(domains == domain) for domain in range(count)]
    return [[split_domain(labels, rows, seed) for rows in members] for seed in seeds]
