"""A question with a fixed set of answers, and how an answer in free text is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np


@dataclass(frozen=True)
class Choice:
    """What a model answered.

    Attributes:
        label: one of the task's classes; None where it refused or could not be understood.
        confidence: how sure it is, in [0, 1]: what it says, or its own probability of the label;
            None where there is none.
        raw: the words as they came, "" for models that say none.
    """

    label: str | None
    confidence: float | None = None
    raw: str = ""


class Demo(NamedTuple):
    """An example shown before the question: the item, and which of the classes it is."""

    item: Any
    label: str


@dataclass(frozen=True)
class ChoiceTask:
    """Items, each of which is one of the same classes.

    Args:
        items: n texts or images (arrays in [0, 1] or of bytes, or Pillow's).
        classes: all answers there are, whichever occur among the items. The released run lists
            only those that occur, which is easier.
        question: asked about every item.
        item_name, answer_name: what stands before an item and before its answer in a prompt for
            completion ("Review: … / Sentiment: …").
        order_seed: None lists the classes as they are; else each item gets an order of its own,
            drawn by this seed, so that a liking for the first or last does not favour a class.

    Raises:
        ValueError: fewer than two classes, or two that read alike.

    >>> task = ChoiceTask(["dull", "a gem"], ("negative", "positive"), "What is the sentiment?")
    >>> print(task.prompt(1, [Demo("awful", "negative")]))
    Text: awful
    Answer: negative
    <BLANKLINE>
    Text: a gem
    Answer:
    """

    items: Sequence[Any]
    classes: tuple[str, ...]
    question: str = "What is in the image?"
    item_name: str = "Text"
    answer_name: str = "Answer"
    order_seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        if len({_words(name) for name in self.classes} - {""}) < max(2, len(self.classes)):
            raise ValueError(f"a task has two or more classes that read apart, not {self.classes}")

    def __len__(self) -> int:
        return len(self.items)

    def listed(self, index: int) -> tuple[str, ...]:
        """The classes in the order in which item `index` is asked about."""
        if self.order_seed is None:
            return self.classes
        order = np.random.default_rng((self.order_seed, index)).permutation(len(self.classes))
        return tuple(self.classes[i] for i in order)

    def prompt(self, index: int, demos: Sequence[Demo] = ()) -> str:
        """What a model of plain text completes with a class, without a space at the end."""
        shown = [f"{self.item_name}: {d.item}\n{self.answer_name}: {d.label}\n\n" for d in demos]
        return "".join(shown) + f"{self.item_name}: {self.items[index]}\n{self.answer_name}:"

    def ask(self, index: int) -> str:
        """The question as the paper puts it to a chat model, with its answer in three lines.

        Source: Han et al. 2023 (arXiv 2312.07424), section 2; paraphrased, same fields.
        """
        return (
            f"{self.question} Choose one of these classes: {', '.join(self.listed(index))}.\n"
            "Answer in exactly three lines:\n"
            "Answer Choice: [one class of the list, word for word]\n"
            "Confidence Score: [a number from 0 to 1]\n"
            "Reasoning: [why]"
        )


class ChoiceModel(Protocol):
    """Something that chooses. `fingerprint` names its weights and settings."""

    @property
    def fingerprint(self) -> str:
        """What the answers depend on, beside the task."""

    def predict(
        self, task: ChoiceTask, demos: Sequence[Sequence[Demo]] | None = None
    ) -> list[Choice]:
        """An answer for every item; `demos` holds for each item those shown before it."""


def parse_choice(text: str, classes: Sequence[str]) -> str | None:
    """The class that follows "Answer Choice:", or None where no single one does.

    Case, quotes, brackets, underscores and hyphens do not matter, and a class counts only as whole
    words. Where one name lies within another ("airport" in "airport_hangar") the longest counts.
    Two different classes, in one answer or in two, are ambiguous: None.

    The released parser takes the first class of the list that occurs in the line at all, so that
    "airport_hangar" is read as "airport".

    >>> parse_choice("Answer Choice: [airport_hangar]", ["airport", "airport_hangar"])
    'airport_hangar'
    >>> parse_choice("answer choice: 'Dog'\\nConfidence Score: 0.9", ["cat", "dog"])
    'dog'
    >>> parse_choice("Answer: dog", ["cat", "dog"]) is None
    True
    """
    answers = re.findall(r"answer\s+choice\W*?:([^\n]*)", text, flags=re.IGNORECASE)
    found = {name for answer in answers for name in _named(_words(answer), classes)}
    return found.pop() if len(found) == 1 else None


def parse_confidence(text: str) -> float | None:
    """The number in [0, 1] after "Confidence" or "Confidence Score"; None where there is none.

    >>> parse_confidence("Answer Choice: dog\\nConfidence Score: [0.85]")
    0.85
    >>> parse_confidence("Confidence: 90%"), parse_confidence("Confidence: 7")
    (0.9, None)
    """
    match = re.search(
        r"confidence(?:\s+score)?\W*?:[^\d\n.-]*(\d*\.?\d+)\s*(%?)", text, flags=re.IGNORECASE
    )
    if match is None:
        return None
    value = float(match[1]) / (100 if match[2] else 1)
    return value if value <= 1 else None


def _words(text: str) -> str:
    """Small letters, with a single space for whatever is no letter, digit or sign like + and #."""
    return " ".join(re.sub(r"[^\w+#&]|_", " ", text.casefold()).split())


def _named(answer: str, classes: Sequence[str]) -> set[str]:
    """The classes named in an answer, without those that lie within a longer one there."""
    spans = [
        (match.start(), match.end(), name)
        for name in classes
        for match in re.finditer(rf"(?<!\S){re.escape(_words(name))}(?!\S)", answer)
    ]
    return {
        name
        for start, end, name in spans
        if not any(a <= start and end <= b and b - a > end - start for a, b, _ in spans)
    }
