"""Which rows go where: stable splits, halves, later times, other sites, samples, leaks."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from re import compile as pattern
from typing import Any, Literal

import numpy as np
import xxhash
from jaxtyping import Bool, Int, Shaped

from generality.errors import UserError

_WORDS = pattern(r"\w+")


def normalised(text: str) -> str:
    """The text as its case-folded words, so that copies differing in form only compare equal.

    A text without any letter or digit is kept as it is, less its whitespace.

    >>> normalised("  It's GREAT,\\nreally!")
    'it s great really'
    >>> normalised(" :) ")
    ':)'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORDS.findall(folded)) or "".join(folded.split())


def hash_point(key: str, salt: str = "") -> float:
    """A fixed, uniformly spread point in [0, 1) for a key; another salt gives an unrelated one.

    >>> 0 <= hash_point("a row") < 1 and hash_point("a row") != hash_point("a row", "other salt")
    True
    """
    data = f"{salt}\x1f{key}".encode("utf-8", "surrogatepass")
    return (xxhash.xxh3_64_intdigest(data) >> 11) / 2**53


def hash_points(keys: Iterable[str], salt: str = "") -> np.ndarray:
    """`hash_point` of every key, as a float64 array."""
    return np.fromiter((hash_point(key, salt) for key in keys), dtype=np.float64)


def hash_split(keys: Iterable[str], share: float, salt: str = "") -> Bool[np.ndarray, " n"]:
    """True for about `share` of the keys, each decided by itself, whatever the other rows.

    Equal keys land on the same side. Raises ValueError for a share outside [0, 1].

    >>> bool(hash_split(["a", "b"], 0.5)[0] == hash_split(["c", "a"], 0.5)[1])
    True
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is in [0, 1], not {share}")
    return hash_points(keys, salt) < share


def halves(n: int, seed: int) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """Two disjoint, sorted index sets that cover range(n); the first is larger by one if n is odd.

    >>> a, b = halves(5, seed=0)
    >>> len(a), len(b), sorted([*a.tolist(), *b.tolist()])
    (3, 2, [0, 1, 2, 3, 4])
    """
    order = np.random.default_rng(seed).permutation(n)
    middle = (n + 1) // 2
    return np.sort(order[:middle]), np.sort(order[middle:])


def stratified(
    labels: Sequence[int] | Int[np.ndarray, " n"], size: int, seed: int
) -> Int[np.ndarray, " size"]:
    """Sorted indices of `size` rows, without replacement, each class at its share of `labels`.

    Shares are rounded by largest remainder, so every class count is within one of its exact share.

    Raises:
        UserError: when there are fewer than `size` rows.
        ValueError: for a negative size.

    >>> labels = [0, 0, 1, 0, 0, 1]
    >>> sum(labels[i] for i in stratified(labels, size=3, seed=0))
    1
    """
    codes = np.asarray(labels)
    if size < 0:
        raise ValueError(f"size is at least 0, not {size}")
    if size > len(codes):
        raise UserError(f"There are {len(codes)} rows, fewer than the {size} asked for.")
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(codes == c)) for c in np.unique(codes)]
    exact = np.array([len(m) for m in members]) * size / max(len(codes), 1)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: size - counts.sum()]] += 1
    taken = [m[:count] for m, count in zip(members, counts, strict=True)]
    return np.sort(np.concatenate([np.empty(0, dtype=int), *taken]))


def balance(
    labels: Sequence[int] | Int[np.ndarray, " n"],
    keys: Sequence[str],
    *,
    size: int | None = None,
    salt: str = "",
) -> Int[np.ndarray, " m"]:
    """Sorted indices of as many rows of every class; larger classes keep their lowest hashes.

    Args:
        labels: the class of each row.
        keys: what identifies each row; the choice depends on nothing else.
        size: at most so many rows in all, None for as many as the rarest class allows.
        salt: another one makes another choice.

    >>> balance([0, 0, 0, 1], ["a", "b", "c", "d"]).shape
    (2,)
    """
    codes = np.asarray(labels)
    classes, counts = np.unique(codes, return_counts=True)
    if len(classes) == 0:
        return np.empty(0, dtype=int)
    each = int(counts.min()) if size is None else min(int(counts.min()), size // len(classes))
    points = hash_points(keys, salt)
    members = [np.flatnonzero(codes == c) for c in classes]
    kept = [m[np.argsort(points[m], kind="stable")[:each]] for m in members]
    return np.sort(np.concatenate(kept))


def holdout(
    values: Sequence[Any] | Shaped[np.ndarray, " n"],
    *,
    by: Literal["time", "site"],
    held: Any = None,
    share: float | None = None,
    groups: Sequence[Any] | None = None,
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
    """Training rows and test rows: tested on what comes later, or from elsewhere.

    Args:
        values: of each row its time (numbers, dates, ISO strings: anything that sorts), or its
            site.
        by: "time": rows at `held` or later are test. "site": rows of the site `held`, or of any in
            a list, tuple or set, are.
        held: see `by`.
        share: for "time", in place of `held`: the latest so many of the rows. Rows of one time stay
            together, so test may be larger.
        groups: of each row what must not be on both sides (the patient): training rows of a group
            that is also in test are dropped.

    Raises:
        UserError: when a side is empty.
        ValueError: unless exactly one of `held` and `share` is given, and `share` in (0, 1).

    >>> train, test = holdout([2014, 2016, 2015, 2016], by="time", held=2016, groups="abca")
    >>> train.tolist(), test.tolist()
    ([2], [1, 3])
    >>> holdout(["A", "B", "A"], by="site", held="B")[1].tolist()
    [1]
    """
    column = np.asarray(values)
    if by not in ("time", "site") or (held is None) == (share is None):
        raise ValueError("by is 'time' or 'site', with one of held and share")
    if share is not None and (by == "site" or not 0 < share < 1):
        raise ValueError(f"share is for by='time', in (0, 1), not {share}")
    if share is not None and len(column):
        held = np.sort(column)[::-1][max(1, round(share * len(column))) - 1]
    if by == "time":
        in_test = column >= held
    else:
        several = isinstance(held, list | tuple | set | frozenset | np.ndarray)
        in_test = np.isin(column, list(held) if several else [held])
    in_train = ~in_test
    if groups is not None:
        keys = np.asarray(list(groups))
        in_train &= ~np.isin(keys, np.unique(keys[in_test]))
    for side, rows in (("test", in_test), ("train on", in_train)):
        if not rows.any():
            raise UserError(f"There is nothing to {side} with {by} held out at {held}.")
    return np.flatnonzero(in_train), np.flatnonzero(in_test)


@dataclass(frozen=True)
class Leaks:
    """How many test texts also occur in training.

    Args:
        exact: test rows whose text is in training, character for character.
        normalised: test rows whose `normalised` text is in training; includes the exact ones.
        share: `normalised` as a share of the test rows, in [0, 1].
        rows: index of every such test row.
    """

    exact: int
    normalised: int
    share: float
    rows: tuple[int, ...]


def leaks(train_texts: Iterable[str], test_texts: Iterable[str]) -> Leaks:
    """Test texts that training has already shown, exactly or up to case, space and punctuation.

    >>> leaks(["Good film.", "Bad film."], ["good film", "Bad film.", "A new one"])
    Leaks(exact=1, normalised=2, share=0.6666666666666666, rows=(0, 1))
    """
    exact_seen: set[str] = set()
    seen: set[str] = set()
    for text in train_texts:
        exact_seen.add(text)
        seen.add(normalised(text))
    exact, rows, total = 0, [], 0
    for row, text in enumerate(test_texts):
        total += 1
        exact += text in exact_seen
        if normalised(text) in seen:
            rows.append(row)
    return Leaks(exact, len(rows), len(rows) / total if total else 0.0, tuple(rows))
