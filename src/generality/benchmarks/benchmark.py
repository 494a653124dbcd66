"""A benchmark: splits, what its labels mean, and the shift between training and test."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets

from generality.errors import unknown

BENCHMARKS: dict[str, str] = {
    "amazon_polarity": "generality.benchmarks.binary_tasks:load_amazon_polarity",
    "bbc": "generality.benchmarks.bbc:load_bbc",
    "boolq": "generality.benchmarks.binary_tasks:load_boolq",
    "cosmos_qa": "generality.benchmarks.binary_tasks:load_cosmos_qa",
    "digits": "generality.benchmarks.digits:load_digits",
    "drug_reviews": "generality.benchmarks.drug_reviews:load_drug_reviews",
    "hh_rlhf": "generality.benchmarks.binary_tasks:load_hh_rlhf",
    "sciq": "generality.benchmarks.binary_tasks:load_sciq",
    "sentiment": "generality.benchmarks.sentiment:load_sentiment",
    "spam": "generality.benchmarks.spam:load_spam",
}
"""Where each benchmark's function lives, as `module:function`; it is imported when asked for."""


@dataclass(frozen=True)
class Shift:
    """What differs between the rows trained on and the rows tested on.

    Args:
        kind: "none" or what shifts, such as "domain".
        between: the property that differs, in words.
        trained_on: its values in the training split.
        tested_on: its values in the test split.
    """

    kind: str
    between: str
    trained_on: tuple[str, ...]
    tested_on: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """Splits with a `label` and a `text` or `image`, and what a reader of a result must know.

    Args:
        name: the name it was loaded by.
        splits: at least "train" and "test".
        label_names: what label 0, 1, … mean.
        shift: between train and test.
        source: who made the data, and where it is read from.
        licence: the terms it comes under.
        notes: what was done to it, and what to mind.
    """

    name: str
    splits: DatasetDict
    label_names: tuple[str, ...]
    shift: Shift
    source: str
    licence: str
    notes: str = ""

    def all_rows(self) -> Dataset:
        """The rows of all splits, those of "train" first, for a study that splits them anew."""
        rest = [name for name in self.splits if name != "train"]
        return concatenate_datasets([self.splits[name] for name in ("train", *rest)])


def load_benchmark(name: str, /, **options: Any) -> Benchmark:
    """Load a benchmark by name; what it can be asked for is its function's keyword arguments.

    Raises:
        UserError: for an unknown name or option (with the nearest known one), or an option's value
            that makes no sense.

    >>> load_benchmark("sentimet")
    Traceback (most recent call last):
    generality.errors.UserError: There is no benchmark 'sentimet'. Did you mean 'sentiment'? ...
    """
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    module, function = BENCHMARKS[name].split(":")
    load: Callable[..., Benchmark] = getattr(import_module(module), function)
    known = inspect.signature(load).parameters
    for option in options:
        if option not in known:
            raise unknown(f"option of the benchmark {name}", option, known)
    return load(**options)
