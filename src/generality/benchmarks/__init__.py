"""Data with a named shift between what is trained on and what is tested on.

What belongs here: datasets (fetched, read or generated) as `datasets.Dataset` splits with a
`Shift`, the reader for people's own tables, and how rows are split. What does not: anything that
tokenises, embeds or trains. To add a benchmark: a module with one function that takes keyword
options and returns a `Benchmark`, parsing kept apart from fetching so that it is tested on a tiny
folder, and one line in `benchmark.BENCHMARKS`.

Every split has the columns `text` or `image`, `label` (an int) and where a row comes from
(`domain`, `id`, `source_id`, …). Membership in a split depends on the content of a row only, never
on its place in a file or on options. Images and feature vectors that fit into memory also come as
`MultiDomain`: arrays, labels and domains.
"""

from generality.benchmarks.benchmark import BENCHMARKS, Benchmark, Shift, load_benchmark
from generality.benchmarks.digits import digit_domains, digits
from generality.benchmarks.multi_domain import MultiDomain
from generality.benchmarks.splits import (
    Leaks,
    balance,
    halves,
    hash_split,
    leaks,
    normalised,
    stratified,
)
from generality.benchmarks.table import encode_labels, read_probabilities, read_rows, read_table
from generality.benchmarks.transfer_task import TransferTask, load_transfer_task

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Leaks",
    "MultiDomain",
    "Shift",
    "TransferTask",
    "balance",
    "digit_domains",
    "digits",
    "encode_labels",
    "halves",
    "hash_split",
    "leaks",
    "load_benchmark",
    "load_transfer_task",
    "normalised",
    "read_probabilities",
    "read_rows",
    "read_table",
    "stratified",
]
