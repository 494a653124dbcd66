"""Question answering, reviews and preferences as the binary tasks of weak-to-strong generalization.

Each task turns rows of a public dataset into a text and a label: is this answer right, is this
review positive, is this the reply people preferred. Where a coin decides what is shown, it is a
hash of the seed and the row, so that neither the order nor the number of rows matters.

Source: Burns et al. 2023 (arXiv 2312.09390), and the datasets' own papers named at each function.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, concatenate_datasets

from generality.benchmarks.benchmark import Benchmark, Shift
from generality.benchmarks.splits import balance, hash_point, hash_points
from generality.benchmarks.table import FORMATS, hub_dataset, pick_split, read_rows
from generality.errors import UserError, unknown

_NONE_OF_THE_ABOVE = "none of the above choices"
_SPARE = 4  # rows converted for each row wanted, so that balancing has enough of the rarer label
_ROWS = 10_000


@dataclass(frozen=True)
class Task:
    """A public dataset and how one of its rows becomes (text, label); None leaves the row out."""

    repository: str
    columns: tuple[str, ...]
    label_names: tuple[str, str]
    example: Callable[[dict[str, Any], str], tuple[str, int] | None]
    licence: str
    test_split: str = "test"
    revision: str | None = None


def _sciq(row: dict[str, Any], salt: str) -> tuple[str, int]:
    label = _coin(salt)
    wrong = [row[f"distractor{i}"] for i in (1, 2, 3)]
    answer = row["correct_answer"] if label else _draw(wrong, salt)
    return f"Question: {row['question']}\nAnswer: {answer}", label


def _boolq(row: dict[str, Any], salt: str) -> tuple[str, int]:
    return f"Passage: {row['passage']}\nQuestion: {row['question']}", int(row["answer"])


def _cosmos_qa(row: dict[str, Any], salt: str) -> tuple[str, int]:
    answers = [row[f"answer{i}"] for i in range(4)]
    right = answers[int(row["label"])]
    label = 0 if _NONE_OF_THE_ABOVE in right.lower() else _coin(salt)
    answer = right if label else _draw([a for a in answers if a != right], salt)
    return f"Context: {row['context']}\nQuestion: {row['question']}\nAnswer: {answer}", label


def _amazon_polarity(row: dict[str, Any], salt: str) -> tuple[str, int]:
    return f"{row['title'] or ''}\n{row['content']}".strip(), int(row["label"])


def _hh_rlhf(row: dict[str, Any], salt: str) -> tuple[str, int] | None:
    if row["chosen"] == row["rejected"]:
        return None
    label = _coin(salt)
    return (row["chosen"] if label else row["rejected"]).strip(), label


TASKS = {
    "amazon_polarity": Task(
        repository="fancyzhx/amazon_polarity",
        columns=("title", "content", "label"),
        label_names=("negative", "positive"),
        example=_amazon_polarity,
        licence="Apache-2.0",
    ),
    "boolq": Task(
        repository="google/boolq",
        columns=("passage", "question", "answer"),
        label_names=("no", "yes"),
        example=_boolq,
        licence="CC BY-SA 3.0",
        test_split="validation",
    ),
    "cosmos_qa": Task(
        repository="allenai/cosmos_qa",
        columns=("context", "question", "answer0", "answer1", "answer2", "answer3", "label"),
        label_names=("wrong", "right"),
        example=_cosmos_qa,
        licence="CC BY 4.0",
        test_split="validation",  # its test split has no labels
        revision="refs/convert/parquet",  # the repository itself is a loading script
    ),
    "hh_rlhf": Task(
        repository="Anthropic/hh-rlhf",
        columns=("chosen", "rejected"),
        label_names=("rejected", "chosen"),
        example=_hh_rlhf,
        licence="MIT",
    ),
    "sciq": Task(
        repository="allenai/sciq",
        columns=("question", "correct_answer", "distractor1", "distractor2", "distractor3"),
        label_names=("wrong", "right"),
        example=_sciq,
        licence="CC BY-NC 3.0",
    ),
}


def sciq(dataset: Dataset, *, seed: int = 0) -> Dataset:
    """Is this the answer to the question? A fair coin shows the right one or one of three wrong.

    Columns in: question, correct_answer, distractor1 … 3. Out: text, label, source_id (a hash of
    the row). Source: Welbl et al. 2017.

    >>> rows = {"question": ["2 + 2?"], "correct_answer": ["4"]}
    >>> rows |= {f"distractor{i}": ["5"] for i in (1, 2, 3)}
    >>> sciq(Dataset.from_dict(rows))["text"][0] in ("Question: 2 + 2?\\nAnswer: 4",
    ...                                              "Question: 2 + 2?\\nAnswer: 5")
    True
    """
    return _convert("sciq", dataset, seed)


def boolq(dataset: Dataset, *, seed: int = 0) -> Dataset:
    """Is the answer to the question about the passage yes (label 1)? About 62 % are.

    Columns in: passage, question, answer. Out: text, label, source_id. Source: Clark et al. 2019.
    """
    return _convert("boolq", dataset, seed)


def cosmos_qa(dataset: Dataset, *, seed: int = 0) -> Dataset:
    """Is this the answer to the question about the context? A fair coin shows the right one or
    another of the four, except that where "None of the above choices" is right, another is shown.

    So that choice, where it is shown, is always wrong: a cue the published task has too.
    Columns in: context, question, answer0 … 3, label. Out: text, label, source_id. Source: Huang
    et al. 2019.
    """
    return _convert("cosmos_qa", dataset, seed)


def amazon_polarity(dataset: Dataset, *, seed: int = 0) -> Dataset:
    """Is the review (title and content) positive?

    Columns in: title, content, label. Out: text, label, source_id. Source: Zhang et al. 2015.
    """
    return _convert("amazon_polarity", dataset, seed)


def hh_rlhf(dataset: Dataset, *, seed: int = 0) -> Dataset:
    """Is this the dialogue people preferred? A fair coin shows the chosen or the rejected one.

    Columns in: chosen, rejected. Out: text, label, source_id; pairs of equal dialogues are left
    out. Source: Bai et al. 2022.
    """
    return _convert("hh_rlhf", dataset, seed)


def load_binary_task(
    name: str,
    *,
    path: str | Path | None = None,
    train: int = 20_000,
    test: int = 10_000,
    seed: int = 0,
) -> Benchmark:
    """A binary task with as many rows of either label in each split.

    The rows with the lowest hashes (of seed and row) are taken, so the same rows whatever the
    order of the source; duplicates count once, and a row of test is never in train. Where the
    source has too few rows of one label the splits are smaller: `notes` says how large they are.

    Args:
        name: amazon_polarity, boolq, cosmos_qa, hh_rlhf or sciq.
        path: a folder with train and test (boolq, cosmos_qa: validation) files of the hub's
            columns, such as train.jsonl or test-0.parquet; None loads from the Hugging Face hub.
        train: rows of training at most, at least 2; the published code takes 20,000.
        test: rows of test at most, at least 2; the published code takes 10,000.
        seed: of the coins and of the choice of rows.

    Raises:
        UserError: for an unknown name, sizes below 2, a source that cannot be reached or read,
            columns that are not those of the dataset, or rows of one label only.
    """
    if name not in TASKS:
        raise unknown("binary task", name, TASKS)
    if train < 2 or test < 2:
        raise UserError(f"train and test are at least 2 rows each, not {train} and {test}.")
    task = TASKS[name]
    wanted = {"train": train, "test": test}
    raw = _from_hub(task) if path is None else _from_folder(task, Path(path))
    for split, dataset in raw.items():
        _check_columns(task, dataset, f"{split} split of {path or task.repository}")
    splits = DatasetDict()
    taken: set[str] = set()
    for split in ("test", "train"):  # test first, so that training can leave out what is in it
        sample = _sample(raw[split], _SPARE * wanted[split], seed, task, taken)
        converted = _convert(name, sample, seed)
        labels, ids = converted["label"][:], converted["source_id"][:]
        if len(set(labels)) < 2:
            raise UserError(f"The {split} split of {path or task.repository} has one label only.")
        kept = balance(labels, ids, size=wanted[split], salt=f"{seed}-balance")
        splits[split] = Dataset.from_dict(converted[kept], features=converted.features)
        taken |= {ids[i] for i in kept}
    return Benchmark(
        name=name,
        splits=DatasetDict(train=splits["train"], test=splits["test"]),
        label_names=task.label_names,
        shift=Shift("none", "dataset", (name,), (name,)),
        source=f"{task.repository} on the Hugging Face hub" if path is None else str(path),
        licence=task.licence,
        notes=f"balanced; {len(splits['train'])} training and {len(splits['test'])} test rows",
    )


load_amazon_polarity = partial(load_binary_task, "amazon_polarity")
load_boolq = partial(load_binary_task, "boolq")
load_cosmos_qa = partial(load_binary_task, "cosmos_qa")
load_hh_rlhf = partial(load_binary_task, "hh_rlhf")
load_sciq = partial(load_binary_task, "sciq")


def _coin(salt: str) -> int:
    return int(hash_point("coin", salt) < 0.5)


def _draw(choices: Sequence[str], salt: str) -> str:
    return choices[int(hash_point("draw", salt) * len(choices))]


def _row_id(row: dict[str, Any], task: Task) -> str:
    content = json.dumps([row[column] for column in task.columns], ensure_ascii=False)
    return xxhash.xxh3_64_hexdigest(content.encode("utf-8", "surrogatepass"))


def _convert(name: str, dataset: Dataset, seed: int) -> Dataset:
    task = TASKS[name]
    _check_columns(task, dataset, f"dataset given to {name}")
    examples = []
    for number, row in enumerate(_rows(dataset, task), start=1):
        _check_row(row, f"Row {number} of the dataset given to {name}")
        source_id = _row_id(row, task)
        example = task.example(row, f"{seed}/{source_id}")
        if example is not None:
            examples.append((*example, source_id))
    texts, labels, ids = zip(*examples, strict=True) if examples else ((), (), ())
    features = {
        "text": Value("string"),
        "label": ClassLabel(names=list(task.label_names)),
        "source_id": Value("string"),
    }
    columns = {"text": list(texts), "label": list(labels), "source_id": list(ids)}
    return Dataset.from_dict(columns, features=Features(features))


def _check_row(row: dict[str, Any], where: str) -> None:
    absent = [column for column, value in row.items() if value is None and column != "title"]
    if absent:
        raise UserError(f"{where} has no {absent[0]}; fill it in or drop the row.")
    answers = sum(column.startswith("answer") for column in row) or 2
    if not 0 <= int(row.get("label", 0)) < answers:
        raise UserError(f"{where} has the label {row['label']}, not one of 0 … {answers - 1}.")


def _rows(dataset: Dataset, task: Task) -> Iterable[dict[str, Any]]:
    for batch in dataset.select_columns(list(task.columns)).iter(_ROWS):
        for values in zip(*(batch[column] for column in task.columns), strict=True):
            yield dict(zip(task.columns, values, strict=True))


def _sample(dataset: Dataset, size: int, seed: int, task: Task, taken: set[str]) -> Dataset:
    """The `size` distinct rows with the lowest hashes, less those already taken."""
    first: dict[str, int] = {}
    for index, row in enumerate(_rows(dataset, task)):
        first.setdefault(_row_id(row, task), index)
    ids = [source_id for source_id in first if source_id not in taken]
    order = np.argsort(hash_points(ids, f"{seed}-sample"), kind="stable")[:size]
    return dataset.select(sorted(first[ids[i]] for i in order))


def _check_columns(task: Task, dataset: Dataset, where: str) -> None:
    absent = [column for column in task.columns if column not in dataset.column_names]
    if absent:
        raise UserError(
            f"The {where} lacks the column{'s' if len(absent) > 1 else ''} {', '.join(absent)}; "
            f"it has {', '.join(dataset.column_names)}."
        )


def _from_hub(task: Task) -> dict[str, Dataset]:
    splits = hub_dataset(task.repository, revision=task.revision)
    return {
        "train": pick_split(splits, "train", task.repository),
        "test": pick_split(splits, task.test_split, task.repository),
    }


def _from_folder(task: Task, folder: Path) -> dict[str, Dataset]:
    return {
        "train": _read_split(folder, "train", task),
        "test": _read_split(folder, task.test_split, task),
    }


def _read_split(folder: Path, split: str, task: Task) -> Dataset:
    kinds = tuple(f".{kind}{zipped}" for kind in FORMATS for zipped in ("", ".gz"))
    files = [f for f in sorted(folder.glob(f"{split}[.-]*")) if f.name.lower().endswith(kinds)]
    if not files:
        raise UserError(f"There is no {split} file ({split}.jsonl, .csv or .parquet) in {folder}.")
    texts = [c for c in task.columns if c not in ("label", "answer")]
    parts = [read_rows(file, as_text=texts) for file in files]
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]
