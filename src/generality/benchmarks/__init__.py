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

from generality.benchmarks.augmentation_bank import AugmentationBank, table_bank, text_bank
from generality.benchmarks.benchmark import BENCHMARKS, Benchmark, Shift, load_benchmark
from generality.benchmarks.captioned_images import captioned_images
from generality.benchmarks.cluster_tasks import (
    ClusterTasks,
    Episode,
    cluster_names,
    cluster_tasks,
)
from generality.benchmarks.code_words import code_words
from generality.benchmarks.colored_digits import colored_digits, inverse_colored_digits
from generality.benchmarks.colored_panel import ColoredPanel
from generality.benchmarks.corruptions import CORRUPTIONS, corrupt_inputs
from generality.benchmarks.crop_and_flip import crop_and_flip
from generality.benchmarks.dedup_split import LeakageGap, dedup_split, leakage_gap
from generality.benchmarks.digit_dominoes import digit_dominoes, mnist_cifar
from generality.benchmarks.digits import digit_domains, digits, over_photographs
from generality.benchmarks.domain_checks import DomainFinding, DomainReport, check_domains
from generality.benchmarks.domain_vectors import (
    colored_vectors,
    leave_out,
    stack_domains,
    turned_vectors,
)
from generality.benchmarks.few_shot_task import FewShotTask, domain_task
from generality.benchmarks.hospital_notes import hospital_notes
from generality.benchmarks.hub_classes import hub_classes
from generality.benchmarks.image_bank import image_bank
from generality.benchmarks.image_domains import folder_or_digits, image_domains, listed_images
from generality.benchmarks.image_folders import load_images, read_images
from generality.benchmarks.ir_compilers import IRModule, NotCompiled, compile_package
from generality.benchmarks.ir_corpus import IRRecord, ir_records
from generality.benchmarks.licences import license_filter
from generality.benchmarks.linear_sem import LinearSEM, random_sem
from generality.benchmarks.llvm_ir import (
    ir_counts,
    ir_functions,
    module_hash,
    normalize_ir,
    structural_hash,
)
from generality.benchmarks.multi_domain import MultiDomain
from generality.benchmarks.news_and_conditions import news_and_conditions
from generality.benchmarks.paired_blocks import PairedBlocks, paired_blocks
from generality.benchmarks.planted_word import plant_word
from generality.benchmarks.rotated_digits import rotated_digits
from generality.benchmarks.sentiment_domains import sentiment_domains
from generality.benchmarks.sequence_tasks import SequenceTask, list_ops, lookup, pixel_digits
from generality.benchmarks.shifted_digits import ShiftedDigits, shifted_digits
from generality.benchmarks.shuffled_block import shuffle_block
from generality.benchmarks.simple_feature import SimpleFeature, block_features, slab_features
from generality.benchmarks.site_splits import hospital_splits, read_sites, split_sites
from generality.benchmarks.slabs import SlabData, slab_dataset
from generality.benchmarks.splits import (
    Leaks,
    balance,
    halves,
    hash_split,
    holdout,
    leaks,
    normalised,
    stratified,
)
from generality.benchmarks.spurious_mixture import SpuriousMixture, spur_above, spurious_2d
from generality.benchmarks.table import encode_labels, read_probabilities, read_rows, read_table
from generality.benchmarks.transfer_task import TransferTask, load_transfer_task
from generality.benchmarks.two_digits import two_digits
from generality.benchmarks.waterbirds_cc import waterbirds_cc, waterbirds_parts

__all__ = [
    "BENCHMARKS",
    "CORRUPTIONS",
    "AugmentationBank",
    "Benchmark",
    "ClusterTasks",
    "ColoredPanel",
    "DomainFinding",
    "DomainReport",
    "Episode",
    "FewShotTask",
    "IRModule",
    "IRRecord",
    "LeakageGap",
    "Leaks",
    "LinearSEM",
    "MultiDomain",
    "NotCompiled",
    "PairedBlocks",
    "SequenceTask",
    "Shift",
    "ShiftedDigits",
    "SimpleFeature",
    "SlabData",
    "SpuriousMixture",
    "TransferTask",
    "balance",
    "block_features",
    "captioned_images",
    "check_domains",
    "cluster_names",
    "cluster_tasks",
    "code_words",
    "colored_digits",
    "colored_vectors",
    "compile_package",
    "corrupt_inputs",
    "crop_and_flip",
    "dedup_split",
    "digit_domains",
    "digit_dominoes",
    "digits",
    "domain_task",
    "encode_labels",
    "folder_or_digits",
    "halves",
    "hash_split",
    "holdout",
    "hospital_notes",
    "hospital_splits",
    "hub_classes",
    "image_bank",
    "image_domains",
    "inverse_colored_digits",
    "ir_counts",
    "ir_functions",
    "ir_records",
    "leakage_gap",
    "leaks",
    "leave_out",
    "license_filter",
    "list_ops",
    "listed_images",
    "load_benchmark",
    "load_images",
    "load_transfer_task",
    "lookup",
    "mnist_cifar",
    "module_hash",
    "news_and_conditions",
    "normalised",
    "normalize_ir",
    "over_photographs",
    "paired_blocks",
    "pixel_digits",
    "plant_word",
    "random_sem",
    "read_images",
    "read_probabilities",
    "read_rows",
    "read_sites",
    "read_table",
    "rotated_digits",
    "sentiment_domains",
    "shifted_digits",
    "shuffle_block",
    "slab_dataset",
    "slab_features",
    "split_sites",
    "spur_above",
    "spurious_2d",
    "stack_domains",
    "stratified",
    "structural_hash",
    "table_bank",
    "text_bank",
    "turned_vectors",
    "two_digits",
    "waterbirds_cc",
    "waterbirds_parts",
]
