"""Candidate responses to each prompt: verified, scored, chosen among."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xxhash
from datasets import Dataset
from numpy.typing import NDArray

from generality.selection.judge import Judge
from generality.selection.pairs_by_score import preference_pairs
from generality.selection.record_screen import words_in

Score = Callable[[list[str], list[str]], Any]
"""From prompts and responses to one number each (a list, an array or a tensor)."""


class ResponsePool:
    """Several responses to each prompt, as a `datasets.Dataset` with one response a row.

    Columns: `prompt`, `response`, and where there are any `prompt_id` (else made from the prompt's
    text), `source` (who wrote it), `reference` (what a judge compares with), `correct` and scores.
    Further columns are carried along. Nothing is changed in place: every method returns a new pool
    or a number. A prompt's choice depends on its own rows only, so a pool too large for memory may
    be worked through in parts as long as a prompt's responses are in one part.

    Args:
        rows: a dataset, a pandas DataFrame, or dicts with "prompt" and "response".

    Raises:
        ValueError: no column `prompt` or `response`, or a prompt that is no text.

    >>> pool = ResponsePool(
    ...     [{"prompt": "2 + 2?", "response": text, "source": who, "reference": "4"}
    ...      for who, text in (("long", "2 + 2 = 4"), ("short", "4"), ("wrong", "5"))]
    ... )
    >>> from generality.selection import NumberMatch
    >>> right = pool.verify(NumberMatch("last-number"), drop=True)
    >>> chosen = right.score("words", lambda prompts, texts: [len(t.split()) for t in texts])
    >>> chosen.select("words", order="min").dataset["response"][:], right.composition()
    (['4'], {'long': 0.5, 'short': 0.5})
    """

    def __init__(self, rows: Dataset | Iterable[Mapping[str, Any]]) -> None:
        dataset = as_dataset(rows)
        lacking = {"prompt", "response"} - set(dataset.column_names)
        if lacking and len(dataset):
            raise ValueError(f"a pool needs the column {' and '.join(sorted(lacking))}")
        if "prompt_id" not in dataset.column_names and len(dataset):
            prompts = list(dataset["prompt"])
            if not all(isinstance(prompt, str) for prompt in prompts):
                raise ValueError("prompts are texts; or give each row a prompt_id")
            ids = [xxhash.xxh3_64_hexdigest(prompt.encode()) for prompt in prompts]
            dataset = dataset.add_column("prompt_id", ids)
        self.dataset: Dataset = dataset

    def __len__(self) -> int:
        """Rows: prompts times responses."""
        return len(self.dataset)

    def __repr__(self) -> str:
        return f"ResponsePool({len(self)} responses to {len(self._groups())} prompts)"

    def column(self, name: str) -> list[Any]:
        """A column's values. Raises ValueError where there is no such column."""
        if not len(self):
            return []
        if name not in self.dataset.column_names:
            known = ", ".join(self.dataset.column_names)
            raise ValueError(f"the pool has no column '{name}'; it has {known}")
        return list(self.dataset[name])

    def lengths(self) -> list[int]:
        """Words of each response."""
        return [words_in(response) for response in self.column("response")]

    def verify(
        self, judge: Judge, *, reference: str = "reference", drop: bool = False
    ) -> ResponsePool:
        """With the column `correct`, the judge's score; `drop` leaves rows below 0.5 out.

        The most probable wrong answer wins in a pool that nobody verified. A judge that has a
        method `many` is asked once, for all rows.
        """
        known = reference in self.dataset.column_names
        references = self.column(reference) if known else [None] * len(self)
        asked = self.column("prompt"), self.column("response"), references
        many = getattr(judge, "many", None)
        each = (judge(*triple) for triple in zip(*asked, strict=True))
        judged = self.with_column("correct", [float(s) for s in (many(*asked) if many else each)])
        return judged.where(np.array(judged.column("correct")) >= 0.5) if drop else judged

    def score(self, name: str, score: Score, *, batch_size: int = 256) -> ResponsePool:
        """With a column of scores, asked for in batches in which a prompt's responses are together.

        Batches end between prompts, so one prompt with more responses than `batch_size` makes one
        longer batch.
        """
        prompts, responses = self.column("prompt"), self.column("response")
        values = np.full(len(self), np.nan)
        batch: list[int] = []
        groups = self._groups()
        for following, rows in itertools.zip_longest(groups[1:], groups):
            batch += rows
            if following is None or len(batch) + len(following) > batch_size:
                found = score([prompts[i] for i in batch], [responses[i] for i in batch])
                values[batch] = np.asarray(found, dtype=float)
                batch = []
        return self.with_column(name, values.tolist())

    def select(
        self,
        by: str | None = None,
        k: int | str = 1,
        order: Literal["max", "min", "random"] = "max",
        seed: int = 0,
    ) -> ResponsePool:
        """At most k responses to each prompt, the best first; ties go to the earlier row.

        Args:
            by: the score's column; NaN is never chosen. Not needed for "random".
            k: how many of each prompt; or the name of a column that says so in every row of a
                prompt, such as how many responses the original data had, so that sizes match.
            order: highest first, lowest first, or drawn by `seed` and the prompt's id.
            seed: of "random".

        Raises:
            ValueError: no such column; an unknown order; k below 1.
        """
        if order not in ("max", "min", "random") or (by is None and order != "random"):
            raise ValueError(f"order is 'max' or 'min' of a column, or 'random', not '{order}'")
        if isinstance(k, int) and k < 1:
            raise ValueError(f"k is at least 1, not {k}")
        scores = np.zeros(len(self)) if by is None else np.array(self.column(by), dtype=float)
        counts = [k] * len(self) if isinstance(k, int) else self.column(k)
        ids = self.column("prompt_id")
        chosen: list[int] = []
        for rows in self._groups():
            usable = np.array([i for i in rows if not np.isnan(scores[i])], dtype=int)
            if order == "random":
                drawn = np.random.default_rng(
                    [seed, xxhash.xxh3_64_intdigest(str(ids[rows[0]]).encode())]
                )
                usable = drawn.permutation(usable)
            else:
                sign = -1 if order == "max" else 1
                usable = usable[np.argsort(sign * scores[usable], kind="stable")]
            chosen += usable[: int(counts[rows[0]])].tolist()
        return self._rows(chosen)

    def where(self, keep: Sequence[bool] | NDArray[np.bool_]) -> ResponsePool:
        """The rows for which `keep` is true."""
        return self._rows(np.flatnonzero(np.asarray(keep, dtype=bool)).tolist())

    def with_column(self, name: str, values: list[Any]) -> ResponsePool:
        """With this column, replaced where there was one."""
        without = self.dataset
        if name in without.column_names:
            without = without.remove_columns(name)
        return ResponsePool(without.add_column(name, values) if len(self) else without)

    def composition(self, by: str = "source") -> dict[str, float]:
        """The share of rows of each source, in [0, 1]."""
        counts = Counter(map(str, self.column(by)))
        return {name: counts[name] / len(self) for name in sorted(counts)}

    def preference_pairs(self, by: str, *, min_gap: float = 0.3, max_pairs: int = 8) -> Dataset:
        """Pairs of a better and a worse response to the same prompt, as `trl.DPOTrainer` reads.

        `by` is the score's column, such as `correct`; rows where it is NaN make no pair. The rest
        is `generality.selection.preference_pairs`, prompt by prompt.
        """
        scores, responses = self.column(by), self.column("response")
        prompts = self.column("prompt")
        pairs: list[dict[str, Any]] = []
        for rows in self._groups():
            known = [i for i in rows if scores[i] is not None and not np.isnan(scores[i])]
            pairs += preference_pairs(
                prompts[rows[0]], [responses[i] for i in known], [scores[i] for i in known],
                min_gap=min_gap, max_pairs=max_pairs,
            )  # fmt: skip
        return Dataset.from_list(pairs)

    def _groups(self) -> list[list[int]]:
        """Rows of each prompt, prompts in the order in which they first come."""
        groups: dict[Any, list[int]] = {}
        for row, prompt in enumerate(self.column("prompt_id")):
            groups.setdefault(prompt, []).append(row)
        return list(groups.values())

    def _rows(self, rows: list[int]) -> ResponsePool:
        return ResponsePool(taken(self.dataset, rows))


def as_dataset(rows: Any) -> Dataset:
    """A dataset as it is, or one of a DataFrame's rows or of dicts."""
    if isinstance(rows, Dataset):
        return rows
    each = rows.to_dict("records") if hasattr(rows, "iloc") else rows
    return Dataset.from_list([dict(row) for row in each])


def taken(dataset: Dataset, rows: Sequence[int]) -> Dataset:
    """These rows as a dataset of their own, in memory."""
    return Dataset(dataset.with_format("arrow")[list(rows)], info=dataset.info.copy())
