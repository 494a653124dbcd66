"""Which cases to ask about, which examples to show, and how to disturb what is asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from generality.agents.choice import Demo
from generality.benchmarks import MultiDomain, corrupt_inputs
from generality.errors import unknown

KINDS = ("gaussian_noise", "typos", "jpeg")


def stratified_cases(
    data: MultiDomain,
    by: Sequence[Literal["domain", "label"]] = ("domain", "label"),
    *,
    per_cell: int = 20,
    seed: int = 0,
) -> Int[np.ndarray, " cases"]:
    """Rows of up to `per_cell` cases from every cell, drawn without replacement, in mixed order.

    A cell with fewer gives all it has. The same seed with a larger `per_cell` adds to the cases.

    Args:
        data: what to draw from.
        by: what makes a cell.
        per_cell: at least 1; the paper takes 20, and 80 of PACS.
        seed: of the draw.

    >>> domains = np.array([0, 0, 0, 0, 1, 1])
    >>> data = MultiDomain(list("abcdef"), np.array([0, 0, 0, 1, 1, 1]), domains,
    ...                    ("no", "yes"), ("here", "there"))
    >>> sorted(stratified_cases(data, per_cell=2).tolist())[2:]
    [3, 4, 5]
    """
    if per_cell < 1 or not by or set(by) - {"domain", "label"}:
        raise ValueError(f"cells are by 'domain' and 'label', of at least 1: {by}, {per_cell}")
    columns = {"domain": data.domains, "label": data.labels}
    cells = np.stack([columns[name] for name in by], axis=1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data))
    _, cell = np.unique(cells[order], axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    chosen = [order[cell == which][:per_cell] for which in range(int(cell.max(initial=-1)) + 1)]
    rows = np.concatenate([np.empty(0, np.int64), *chosen])
    return rng.permutation(rows)


def known_and_asked(
    data: MultiDomain, known: int, asked: int, *, seed: int = 0
) -> tuple[MultiDomain, MultiDomain]:
    """Labelled examples, `known` of each domain and class, and others to ask about, `asked` each.

    A cell with fewer than both gives its first to the known.

    >>> data = MultiDomain(list("abcdef"), np.array([0, 0, 0, 1, 1, 1]), np.zeros(6, int),
    ...                    ("no", "yes"), ("here",))
    >>> [len(part) for part in known_and_asked(data, 2, 1)]
    [4, 2]
    """
    drawn = data.take(stratified_cases(data, per_cell=known + asked, seed=seed))
    cells = len(drawn.label_names) * drawn.domains + drawn.labels
    nth = np.zeros(len(drawn), np.int64)
    for cell in np.unique(cells):
        nth[cells == cell] = np.arange((cells == cell).sum())
    return drawn.take(nth < known), drawn.take(nth >= known)


def paired_failures(
    right: Bool[np.ndarray, " cases"], count: int | None = None, *, seed: int = 0
) -> Int[np.ndarray, " failures"]:
    """Rows that a reference model has wrong, to ask others about; at most `count`, at random.

    The reference scores 0 on them by construction, and a model that is wrong where the reference is
    has a low score there whatever its own worth: compare only others with each other.

    >>> paired_failures(np.array([True, False, True, False]))
    array([1, 3])
    """
    rows = np.flatnonzero(~np.asarray(right, bool))
    if count is None or count >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def select_demos(
    source: MultiDomain,
    queries: Sequence[Any] | np.ndarray,
    k: int,
    how: Literal["random", "class_balanced", "nearest"] = "class_balanced",
    *,
    encode: Callable[[Any], Float[np.ndarray, "n dim"]] | None = None,
    seed: int = 0,
) -> list[list[Demo]]:
    """For each query k examples of a source, to be shown before it.

    Args:
        source: labelled examples; hold the queries' own out of it.
        queries: the items to be asked about.
        k: examples for each, 0 to all there are.
        how: "random" (anew for each query); "class_balanced" (at random, classes in turn in an
            order at random, as the paper's two images of two classes); "nearest" (by the cosine of
            the encodings, the nearest last, next to the question).
        encode: from items to vectors, for "nearest".
        seed: of the draws; a query's do not depend on the others.

    Raises:
        ValueError: more examples than there are, or "nearest" without `encode`.
    """
    if not 0 <= k <= len(source):
        raise ValueError(f"k is 0 to {len(source)}, the examples there are, not {k}")
    if how not in ("random", "class_balanced", "nearest"):
        raise unknown("way to select demos", how, ("random", "class_balanced", "nearest"))
    if how == "nearest":
        if encode is None:
            raise ValueError("the nearest examples need `encode`, from items to vectors")
        known, asked = (_unit(encode(items)) for items in (source.inputs, queries))
        rows = np.argsort(asked @ known.T, axis=1, kind="stable")[:, len(source) - k :]
        return [_demos(source, row) for row in rows]
    found = []
    for index in range(len(queries)):
        rng = np.random.default_rng((seed, index))
        order = rng.permutation(len(source))
        if how == "class_balanced":
            turn = rng.permutation(len(source.label_names))[source.labels[order]]
            nth = np.zeros(len(order), np.int64)  # the how-manieth of its class each one is
            for label in range(len(source.label_names)):
                own = source.labels[order] == label
                nth[own] = np.arange(own.sum())
            order = order[np.lexsort((turn, nth))]
        found.append(_demos(source, order[:k]))
    return found


def perturb(
    items: Any, kind: str | Callable[[Any], Any], amount: float = 0.01, *, seed: int = 0
) -> Any:
    """The items disturbed in a way that a person would see through.

    Args:
        items: images (n, channels, height, width) in [0, 1], or texts.
        kind: "gaussian_noise" (`amount` is its variance, as in skimage; the paper's is 0.01),
            "typos" (`amount` is the share of letters that are dropped, doubled, replaced or swapped
            with the next), "jpeg" (`amount` is the strength, 1 to 5, of `corrupt_inputs`), or a
            function from the items to as many.
        amount: 0 changes nothing.
        seed: of what is drawn. Noise of two amounts is the same noise, scaled.

    Raises:
        UserError: an unknown kind.
        ValueError: an amount below 0, or a share of letters above 1.

    >>> perturb(["a plot without surprises"], "typos", 0.2)
    ['a pptot withooutt usrprsies']
    """
    if callable(kind):
        return kind(items)
    if kind not in KINDS:
        raise unknown("kind of perturbation", kind, KINDS)
    if amount < 0 or (kind == "typos" and amount > 1):
        raise ValueError(f"the amount is at least 0, and of typos at most 1, not {amount}")
    if amount == 0:
        return items
    if kind == "jpeg":
        return corrupt_inputs(items, "jpeg", int(amount), seed)
    if kind == "gaussian_noise":
        noise = np.random.default_rng(seed).standard_normal(items.shape, dtype=np.float32)
        return np.clip(items + np.float32(amount**0.5) * noise, 0, 1).astype(np.float32)
    return [_typos(text, amount, np.random.default_rng((seed, i))) for i, text in enumerate(items)]


def _typos(text: str, share: float, rng: np.random.Generator) -> str:
    letters = list(text)
    typed: list[str] = []
    hit = (rng.random(len(letters)) < share) & [letter.isalpha() for letter in letters]
    at = 0
    while at < len(letters):
        letter = letters[at]
        kind = int(rng.integers(4)) if hit[at] else -1
        if kind == 3 and at + 1 < len(letters):
            typed += [letters[at + 1], letter]
            at += 1
        elif kind == 2:
            typed.append(chr(ord("a") + int(rng.integers(26))))
        else:
            typed += [letter] * {0: 0, 1: 2}.get(kind, 1)
        at += 1
    return "".join(typed)


def _demos(source: MultiDomain, rows: np.ndarray) -> list[Demo]:
    return [Demo(source.inputs[int(r)], source.label_names[int(source.labels[r])]) for r in rows]


def _unit(vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
