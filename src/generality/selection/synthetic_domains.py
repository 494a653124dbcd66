"""Examples that were made, with what made each; and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset
from jaxtyping import Bool, Float

from generality.benchmarks import MultiDomain
from generality.selection.domain_proposer import DomainSpec
from generality.selection.synthesisers import Synthesiser

Score = Callable[[Any, list[str]], Float[np.ndarray, " n"]]


@dataclass(frozen=True, eq=False)
class SyntheticDomains:
    """Made examples as domains, and for each what made it.

    Attributes:
        data: the examples; a domain for each `DomainSpec` name.
        provenance: a dict for each: `synthesiser`, `domain`, `label`, `seed`.
    """

    data: MultiDomain
    provenance: tuple[dict[str, Any], ...]

    def take(self, rows: Sequence[int] | np.ndarray) -> SyntheticDomains:
        """The examples of these rows (indices, or a mask)."""
        kept = np.arange(len(self.data))[np.asarray(rows)] if len(rows) else []
        return replace(
            self, data=self.data.take(kept), provenance=tuple(self.provenance[k] for k in kept)
        )

    def to_dataset(self) -> Dataset:
        """Columns `input`, `label` (its number) and the provenance as `synthesiser`, …"""
        columns = {
            name: [each[name] for each in self.provenance]
            for name in ("synthesiser", "domain", "seed")
        }
        inputs = list(self.data.inputs)
        return Dataset.from_dict({"input": inputs, "label": self.data.labels.tolist(), **columns})


def synthesise_domains(
    synthesiser: Synthesiser,
    specs: Sequence[DomainSpec],
    labels: Sequence[str],
    *,
    per_class: int,
    seed: int = 0,
) -> SyntheticDomains:
    """Examples of every class in every domain (of one class where a spec names it).

    Args:
        synthesiser: makes them.
        specs: domains; those with one name are one domain.
        labels: the classes, in the order of their numbers.
        per_class: examples wanted for each class and domain.
        seed: every class and domain gets its own from it.

    Raises:
        ValueError: nothing could be made.
    """
    names = tuple(dict.fromkeys(spec.name for spec in specs))
    parts: list[Any] = []
    codes: list[tuple[int, int, dict[str, Any]]] = []
    for place, spec in enumerate(specs):
        for k, label in enumerate(labels):
            if spec.label not in (None, label):
                continue
            own = (seed * len(specs) + place) * len(labels) + k
            made = synthesiser.synthesise(spec, label, per_class, own)
            record = {
                "synthesiser": synthesiser.name, "domain": spec.name, "label": label, "seed": own
            }  # fmt: skip
            parts.append(made)
            codes += [(k, names.index(spec.name), record)] * len(made)
    if not codes:
        raise ValueError("no example was made")
    arrays = isinstance(parts[0], np.ndarray)
    data = MultiDomain(
        inputs=np.concatenate(parts) if arrays else [text for part in parts for text in part],
        labels=np.array([label for label, _, _ in codes]),
        domains=np.array([domain for _, domain, _ in codes]),
        label_names=tuple(labels),
        domain_names=names,
    )
    return SyntheticDomains(data, tuple(record for _, _, record in codes))


def agreement_filter(
    data: MultiDomain, score: Score, *, keep: float = 0.85
) -> Bool[np.ndarray, " n"]:
    """Which examples to keep: of each class those that show it most, and no text twice.

    With CLIP's zero-shot probability of the class as score this is the paper's filter. Taking a
    share of each class, instead of a threshold for all, keeps rare classes.

    Args:
        data: made examples.
        score: from inputs and the names of their classes to numbers, higher for better ones.
        keep: share of each class that is kept, in (0, 1], rounded up.

    Returns:
        A mask; `data.take(mask)`.

    >>> data = MultiDomain(["a dog", "a dog", "a dot", "dogs"], np.zeros(4, int), np.zeros(4, int),
    ...                    ("dog",), ("words",))
    >>> agreement_filter(data, lambda inputs, names: np.array(["dog" in i for i in inputs]),
    ...                  keep=0.5).tolist()
    [True, False, False, True]
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is a share in (0, 1], not {keep}")
    values = np.asarray(score(data.inputs, [data.label_names[k] for k in data.labels]), dtype=float)
    first = np.ones(len(data), dtype=bool)
    if not isinstance(data.inputs, np.ndarray):
        places = {text: row for row, text in reversed(list(enumerate(data.inputs)))}
        first = np.array([places[text] == row for row, text in enumerate(data.inputs)], dtype=bool)
    kept = np.zeros(len(data), dtype=bool)
    for label in np.unique(data.labels):
        rows = np.flatnonzero(data.labels == label)
        wanted = int(np.ceil(keep * len(rows)))
        unique = rows[first[rows]]
        kept[unique[np.argsort(-values[unique], kind="stable")[:wanted]]] = True
    return kept
