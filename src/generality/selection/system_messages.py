"""Messages that ask a teacher for explanations of many kinds, mixed over the queries."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from generality.errors import UserError


@dataclass(frozen=True)
class SystemMessage:
    """One message.

    Attributes:
        number: from 1.
        text: what the teacher is told; empty for none.
        choices_only: whether it only makes sense for a multiple-choice question.
    """

    number: int
    text: str
    choices_only: bool = False


_TEXTS = (
    "",
    "Answer in detail. Whoever reads the answer should need no other source to understand it.",
    "You are given a task. Write a long and detailed answer to it.",
    "Always explain what you answer, in words that a child of five would understand.",
    "Follow the instructions to the letter, and be as helpful as you can.",
    "You help people to find information. Answer in detail, so that they can stop looking.",
    "Do the task as faithfully as you can. Think step by step and give a reason for each step.",
    "Say what the task is and explain your answer. If there are choices, give the right ones "
    "first, then say why each of the others is wrong, in words for a child of five.",
    "Explain how the definition of the task led you to the answer.",
    "Say what the task is and explain your answer. If there are choices, give the right ones "
    "first, then say why each of the others is wrong. You may need knowledge from elsewhere.",
    "You help people to find information. Answer the question as faithfully as you can; think "
    "step by step and justify the answer.",
    "You are given a task with instructions. Follow them as faithfully as you can; think step by "
    "step and justify the answer.",
    "You are a teacher. Explain in simple steps what the task asks for, what guidelines it gives, "
    "and how to find the answer with them.",
    "You know every language and translate between any two. Explain in simple steps what the task "
    "asks for and what guidelines it gives; then solve it, and show where you used them.",
    "Take the definition of the task apart. For each part say what it asks for, show it on an "
    "example, and apply it to the input that is given.",
    "You help people to find information.",
)
_CHOICES_ONLY = (8, 10)

ORCA_COLLECTIONS: dict[str, tuple[int, ...]] = {
    "cot": (6, 11, 16),
    "niv2": (1, 2, 5, 7, 9, 12, 13, 14, 15),
    "t0": (1, 2, 3, 5, 7),
    "flan": (3, 4, 7, 8, 10),
}
"""Which messages each collection of FLAN gets, by Open-Orca's names of the collections."""

_CHOICE = re.compile(
    r"(?:^|[\s(\[])(?:A|a|1)[).:\]]\s.*?(?:^|[\s(\[])(?:B|b|2)[).:\]]\s", re.S | re.M
)


def orca_style_messages() -> tuple[SystemMessage, ...]:
    """Sixteen messages, from none at all to "take the definition apart", in our own words.

    Source: what each asks for follows table 2 of Mukherjee et al. 2023 (arXiv 2306.02707), in the
    same order, so that the paper's numbers mean the same message.

    >>> messages = orca_style_messages()
    >>> len(messages), messages[0].text, messages[15].text
    (16, '', 'You help people to find information.')
    """
    return tuple(
        SystemMessage(number, text, number in _CHOICES_ONLY)
        for number, text in enumerate(_TEXTS, 1)
    )


class SystemMessageMixer:
    """Gives each query one message, drawn evenly from those of its collection.

    The draw depends on the seed and the query's text only: not on its place in a file, on the
    order of reading or on what was read before, so a job that stops and goes on gives what it
    would have given. Messages for multiple choice go to queries that offer choices only
    (`offers_choices`); the paper's condition is that of its collections.

    Args:
        collections: collection → numbers of its messages. None: every message for all ("*").
        messages: to draw from. None: `orca_style_messages()`.
        seed: of the draws.

    Raises:
        ValueError: a collection without messages for open questions, or a number that no message
            has.

    >>> mixer = SystemMessageMixer({"arithmetic": [7, 16]})
    >>> mixer("arithmetic", "What is 3 + 4?").text
    'Do the task as faithfully as you can. Think step by step and give a reason for each step.'
    >>> rows = [{"collection": "arithmetic", "prompt": "What is 3 + 4?", "response": "7"}]
    >>> [sorted(row) for row in mixer.mix(rows)]
    [['collection', 'prompt', 'response', 'system']]
    """

    def __init__(
        self,
        collections: Mapping[str, Sequence[int]] | None = None,
        messages: Iterable[SystemMessage] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        by_number = {m.number: m for m in messages or orca_style_messages()}
        self.seed = seed
        self.collections: dict[str, tuple[SystemMessage, ...]] = {}
        for name, numbers in (collections or {"*": tuple(by_number)}).items():
            absent = [number for number in numbers if number not in by_number]
            if absent:
                raise ValueError(f"'{name}' names message {absent[0]}, and there is no such number")
            chosen = tuple(by_number[number] for number in numbers)
            if all(message.choices_only for message in chosen):
                raise ValueError(f"'{name}' has no message for a question without choices")
            self.collections[name] = chosen

    def __call__(self, collection: str, query: str) -> SystemMessage:
        """The message for one query.

        Raises:
            UserError: there is no such collection, nor one named "*".
        """
        known = self.collections.get(collection, self.collections.get("*"))
        if known is None:
            names = ", ".join(sorted(self.collections))
            raise UserError(f"There are no system messages for '{collection}'. Known: {names}.")
        choices = offers_choices(query)
        fitting = [message for message in known if choices or not message.choices_only]
        digest = hashlib.blake2b(f"{self.seed}/{query}".encode(errors="surrogatepass"))
        return fitting[int.from_bytes(digest.digest()[:8], "big") % len(fitting)]

    def mix(
        self,
        rows: Iterable[Mapping[str, Any]],
        *,
        query: str = "prompt",
        collection: str = "collection",
    ) -> Iterator[dict[str, Any]]:
        """The rows, one after another, each with its message as "system".

        A row without a collection is of "*".
        """
        for row in rows:
            message = self(str(row.get(collection, "*")), str(row[query]))
            yield {**row, "system": message.text}


def offers_choices(query: str) -> bool:
    """Whether a text lists choices as A) B), (a) (b), 1. 2. or the like.

    >>> offers_choices("Which is a fruit? (A) brick (B) plum"), offers_choices("Name a fruit.")
    (True, False)
    """
    return _CHOICE.search(query) is not None
