"""How much of a corpus is copies, within groups and between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


def duplication(keys: Iterable[Hashable]) -> float:
    """D / (U + D): occurrences of what occurs more than once, among those and the rest; in [0, 1].

    Source: Grossman et al. 2023 (arXiv 2309.15432). NaN without any.

    >>> duplication(["h1", "h1", "h1", "h2"])
    0.75
    """
    counts = Counter(keys)
    copies = sum(count for count in counts.values() if count > 1)
    return copies / counts.total() if counts else float("nan")


def overlap(a: Iterable[Hashable], b: Iterable[Hashable]) -> float:
    """The paper's share of code that two corpora have in common, in [0, 1].

    Occurrences of shared hashes in both, over those and the number of hashes that are not shared.
    That counts shared ones by occurrence and others by hash, so copies raise it: `containment` and
    `jaccard` do not. NaN without any.

    >>> round(overlap(["h1", "h1", "h1", "h2"], ["h1", "h3", "h3"]), 4)
    0.6667
    """
    first, second = Counter(a), Counter(b)
    shared = first.keys() & second.keys()
    occurrences = sum(first[key] + second[key] for key in shared)
    total = occurrences + len(first.keys() ^ second.keys())
    return occurrences / total if total else float("nan")


def jaccard(a: Iterable[Hashable], b: Iterable[Hashable]) -> float:
    """Hashes in both over hashes in either, in [0, 1]; NaN without any.

    >>> jaccard("aab", "ac")
    0.3333333333333333
    """
    first, second = set(a), set(b)
    return len(first & second) / len(first | second) if first | second else float("nan")


def containment(a: Iterable[Hashable], b: Iterable[Hashable]) -> float:
    """Share of a's distinct hashes that b has too, in [0, 1]; NaN where a has none.

    >>> containment("aab", "ac")
    0.5
    """
    first = set(a)
    return len(first & set(b)) / len(first) if first else float("nan")


@dataclass(frozen=True)
class CorpusAudit:
    """What `audit_corpus` found, for every group.

    Attributes:
        groups: their names, sorted.
        records: how many each has.
        distinct: different keys of each.
        duplication: see `duplication`.
        overlap: see `overlap`; 1 on the diagonal.
        containment: see `containment`, of the row's group in the column's.
        sizes: median size of a record, where sizes were given.
        by_size: duplication of the records below and above the median size; small ones share
            hashes by chance.
    """

    groups: tuple[str, ...]
    records: dict[str, int]
    distinct: dict[str, int]
    duplication: dict[str, float]
    overlap: Float[np.ndarray, "groups groups"]
    containment: Float[np.ndarray, "groups groups"]
    sizes: dict[str, float]
    by_size: dict[str, tuple[float, float]]


def audit_corpus(
    keys: Sequence[Hashable], groups: Sequence[str], *, sizes: Sequence[float] | None = None
) -> CorpusAudit:
    """Copies within the groups of a corpus (languages, sources, splits) and between them.

    Args:
        keys: what makes two records copies: a structural hash, a normalised text.
        groups: of each record.
        sizes: of each record, in any unit.

    Raises:
        ValueError: the lengths differ.

    >>> audit = audit_corpus(["f", "f", "g", "f"], ["c", "c", "c", "rust"])
    >>> round(audit.duplication["c"], 2), audit.containment.tolist()
    (0.67, [[1.0, 0.5], [1.0, 1.0]])
    """
    if len(keys) != len(groups) or (sizes is not None and len(sizes) != len(keys)):
        raise ValueError("keys, groups and sizes are of one length")
    names = tuple(sorted(set(groups)))
    of = {name: [key for key, g in zip(keys, groups, strict=True) if g == name] for name in names}
    medians: dict[str, float] = {}
    by_size: dict[str, tuple[float, float]] = {}
    sizes = () if sizes is None else sizes
    for name in names if len(sizes) else ():
        mine = np.array([s for s, g in zip(sizes, groups, strict=True) if g == name])
        medians[name] = float(np.median(mine))
        small = mine < medians[name]
        below = duplication(k for k, is_small in zip(of[name], small, strict=True) if is_small)
        above = duplication(k for k, is_small in zip(of[name], small, strict=True) if not is_small)
        by_size[name] = below, above
    return CorpusAudit(
        groups=names,
        records={name: len(of[name]) for name in names},
        distinct={name: len(set(of[name])) for name in names},
        duplication={name: duplication(of[name]) for name in names},
        overlap=np.array(
            [[1.0 if a == b else overlap(of[a], of[b]) for b in names] for a in names]
        ),
        containment=np.array([[containment(of[a], of[b]) for b in names] for a in names]),
        sizes=medians,
        by_size=by_size,
    )
