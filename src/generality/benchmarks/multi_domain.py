"""Labelled examples from several named domains, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from generality.errors import unknown


@dataclass(frozen=True, eq=False)
class MultiDomain:
    """Examples, what each is (a class) and where each comes from (a domain).

    Only itself is `==` to one: arrays have no single answer. The inputs are not copied.

    Args:
        inputs: an array of n images or feature vectors, or a list of n texts.
        labels: the class of each example, an index into `label_names`.
        domains: the domain of each example, an index into `domain_names`.
        label_names: what class 0, 1, … mean.
        domain_names: what domain 0, 1, … are called; no two alike.

    Raises:
        ValueError: where lengths differ, an index names nothing, or two domains share a name.

    >>> wards = MultiDomain(
    ...     inputs=np.eye(4, dtype=np.float32),
    ...     labels=np.array([0, 1, 0, 1]),
    ...     domains=np.array([0, 0, 1, 1]),
    ...     label_names=("well", "ill"),
    ...     domain_names=("north", "south"),
    ... )
    >>> wards.rows("south")
    array([2, 3])
    >>> wards.take(wards.rows("south")).labels
    array([0, 1])
    """

    inputs: np.ndarray | list[str]
    labels: Int[np.ndarray, " n"]
    domains: Int[np.ndarray, " n"]
    label_names: tuple[str, ...]
    domain_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for what, names in (("label", self.label_names), ("domain", self.domain_names)):
            codes = np.asarray(getattr(self, f"{what}s"))
            if codes.shape != (len(self.inputs),):
                raise ValueError(
                    f"{what}s has the shape {codes.shape}, and there are {len(self.inputs)} inputs"
                )
            if codes.size and not np.issubdtype(codes.dtype, np.integer):
                raise ValueError(f"{what}s are integers, not {codes.dtype}")
            if codes.size and not 0 <= codes.min() <= codes.max() < len(names):
                raise ValueError(
                    f"{what}s lie in {codes.min()}…{codes.max()}, but {len(names)} are named"
                )
            object.__setattr__(self, f"{what}s", codes.astype(np.int64, copy=False))
            object.__setattr__(self, f"{what}_names", tuple(names))
        if len(set(self.domain_names)) < len(self.domain_names):
            raise ValueError(f"two domains share a name: {self.domain_names}")

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, domain_name: str) -> Int[np.ndarray, " m"]:
        """Indices of a domain's examples, in order. Raises UserError for an unknown name."""
        if domain_name not in self.domain_names:
            raise unknown("domain", domain_name, self.domain_names)
        return np.flatnonzero(self.domains == self.domain_names.index(domain_name))

    def take(self, rows: Sequence[int] | np.ndarray) -> MultiDomain:
        """The examples of these rows (indices, or a mask), in this order; all names are kept."""
        chosen = np.arange(len(self))[np.asarray(rows) if len(rows) else np.empty(0, np.int64)]
        if isinstance(self.inputs, np.ndarray):
            inputs: np.ndarray | list[str] = self.inputs[chosen]
        else:
            inputs = [self.inputs[i] for i in chosen]
        return replace(
            self, inputs=inputs, labels=self.labels[chosen], domains=self.domains[chosen]
        )
