"""What is wrong with records of training data: counted, said, and skipped or refused."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from generality.errors import UserError
from generality.selection.function_words import language_of
from generality.selection.training_files import (
    BadRecord,
    Columns,
    Example,
    Record,
    examples_of,
    pair_key,
)

KINDS = {
    "unparseable": "no JSON, or not in UTF-8",
    "not an object": "JSON, but no record of named parts",
    "missing field": "no prompt, or no response",
    "malformed messages": "messages without role or text",
    "not text": "a prompt or response that is no text",
    "empty prompt": "nothing but white space is asked",
    "empty response": "nothing but white space is answered",
    "not for the template": "roles, or an order of them, that the chat template does not take",
    "over-long": "longer than --max-length",
    "duplicate": "the same prompt and response as an earlier record",
    "near duplicate": "the same but for case, white space and punctuation",
    "not Latin script": "most of its letters are of another script",
    "not English": "its function words are those of another language",
}
"""Kinds of bad records, each with what it means."""

_SHOWN = 5  # numbers of records that are kept for each kind
_LETTERS = 2_000  # of a text that are looked at for their script


@dataclass
class Screen:
    """Lets good examples through and keeps count of the others.

    Args:
        columns: the names of a record's parts.
        max_length: the longest example allowed, in what `length` counts; None: any.
        length: of an example; by default its words.
        refuses: whether the chat template of the model does not take an example; None: never.
        duplicates: "drop" those that differ in case, white space and punctuation only, drop the
            "exact" ones, or "keep" all. Kept ones are counted too.
        other_languages: "keep" or "drop" records whose letters are mostly not Latin, or whose
            function words are of another language than English (see `language_of`).
        on_bad: "skip" bad records, or "refuse" the data at the first.

    >>> screen = Screen()
    >>> good = {"prompt": "2 + 2?", "completion": "4"}
    >>> records = [Record(1, good), Record(2, None, "unparseable"), Record(3, good)]
    >>> len(list(screen.examples(records))), screen.dropped
    (1, {'unparseable': 1, 'duplicate': 1})
    """

    columns: Columns = field(default_factory=Columns)
    max_length: int | None = None
    length: Callable[[Example], int] | None = None
    refuses: Callable[[Example], bool] | None = None
    duplicates: str = "drop"
    other_languages: str = "keep"
    on_bad: str = "skip"
    source: str = ""
    read: int = field(default=0, init=False)
    kept: int = field(default=0, init=False)
    dropped: dict[str, int] = field(default_factory=dict, init=False)
    flagged: dict[str, int] = field(default_factory=dict, init=False)
    places: dict[str, list[int]] = field(default_factory=dict, init=False)
    rejected: IO[str] | None = field(default=None, init=False, repr=False)
    lacking: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("duplicates", self.duplicates, ("drop", "exact", "keep")),
            ("other_languages", self.other_languages, ("keep", "drop")),
            ("on_bad", self.on_bad, ("skip", "refuse")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}, not '{value}'")

    def examples(
        self,
        records: Iterable[Record],
        parse: Callable[[Record, Columns], list[Example]] = examples_of,
    ) -> Iterator[Example]:
        """The good examples of the records, in order. Raises UserError where bad is refused."""
        exact, near = SeenKeys(), SeenKeys()
        for record in records:
            self.read += 1
            try:
                found = parse(record, self.columns)
            except BadRecord as error:
                self.reject(record, error.kind, str(error))
                continue
            for example in found:
                kinds = list(self._problems(example, exact, near))
                if drop := next((kind for kind, dropped in kinds if dropped), None):
                    self.reject(record, drop, KINDS[drop], example)
                    continue
                for kind, _ in kinds:
                    self._count(self.flagged, kind, record.number)
                self.kept += 1
                yield example

    def _problems(
        self, example: Example, exact: SeenKeys, near: SeenKeys
    ) -> Iterator[tuple[str, bool]]:
        """Kinds that apply, each with whether it is dropped for it."""
        if self.refuses is not None and self.refuses(example):
            yield "not for the template", True
            return
        if self.max_length is not None:
            length = (self.length or _words)(example)
            if length > self.max_length:
                yield "over-long", True
                return  # one that is dropped for its length makes no later one a duplicate
        text = f"{example.prompt} {example.response}"
        if latin_share(text) < 0.5:
            yield "not Latin script", self.other_languages == "drop"
        elif language_of(text) not in ("en", None):
            yield "not English", self.other_languages == "drop"
        if not exact.add(example.key):
            yield "duplicate", self.duplicates in ("drop", "exact")
        elif not near.add(
            pair_key(words_and_signs(example.prompt), words_and_signs(example.response))
        ):
            yield "near duplicate", self.duplicates == "drop"

    def reject(
        self, record: Record, kind: str, detail: str = "", example: Example | None = None
    ) -> None:
        """Count a record as bad and write it to the rejected ones, or refuse it."""
        if self.on_bad == "refuse":
            where = f"{self.source}, " if self.source else ""
            why = "" if detail in ("", kind) else f" ({detail})"
            raise UserError(
                f"{where}record {record.number}: {kind}{why}. Put it right, or leave such records "
                "out with --on-bad skip."
            )
        self._count(self.dropped, kind, record.number)
        if kind == "missing field" and not self.lacking:
            self.lacking = list(record.content or ())
        if self.rejected is not None:
            left: dict[str, Any] = {"number": record.number, "reason": kind, "detail": detail}
            left["record" if record.content is not None else "text"] = (
                record.raw if record.content is None else record.content
            )
            if example is not None and example.candidate is not None:
                left["response"] = example.response
            self.rejected.write(json.dumps(left, ensure_ascii=True, default=str) + "\n")

    def _count(self, counts: dict[str, int], kind: str, number: int) -> None:
        counts[kind] = counts.get(kind, 0) + 1
        places = self.places.setdefault(kind, [])
        if len(places) < _SHOWN:
            places.append(number)

    def nothing_good(self, source: str | Path, what: str, columns: str) -> UserError:
        """The error for data without one good record: why, and what to do about the usual case.

        >>> screen = Screen()
        >>> screen.reject(Record(1, {"text": "a"}), "missing field")
        >>> print(screen.nothing_good("a.csv", "prompt", "Name one by --prompt."))
        a.csv has no good prompt: 1 missing field. Its columns: text. Name one by --prompt.
        """
        counts = ", ".join(f"{n} {kind}" for kind, n in self.dropped.items()) or "it is empty"
        usual = max(self.dropped, key=lambda kind: self.dropped[kind], default="")
        hints = {
            "missing field": f"Its columns: {', '.join(self.lacking)}. {columns}",
            "unparseable": "Save it in UTF-8 with one JSON object on each line.",
            "not an object": "Save it with one JSON object on each line.",
            "over-long": "Allow longer ones with --max-length, or take another model.",
            "no reference": "Say which column holds right answers by --reference.",
            "": "",
        }
        hint = hints.get(usual, "See each of them with --rejected FILE.")
        return UserError(f"{source} has no good {what}: {counts}. {hint}".rstrip())

    @contextmanager
    def rejecting(self, path: Path | None) -> Iterator[None]:
        """Inside the block, bad records go to this JSONL file, which appears at its good end."""
        if path is None:
            yield
            return
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as self.rejected:
                yield
            temporary.replace(path)
        except FileNotFoundError as error:
            raise UserError(f"{path} cannot be written: its folder does not exist.") from error
        except IsADirectoryError as error:
            raise UserError(f"{path} is a folder; name a file.") from error
        finally:
            self.rejected = None
            temporary.unlink(missing_ok=True)

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON: records read, examples kept, and bad ones by kind."""
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "flagged": dict(self.flagged),
            "examples": {kind: list(places) for kind, places in self.places.items()},
        }


def screen_table(summary: dict[str, Any]) -> dict[str, Any]:
    """A screen's summary as a table of words: kind, how many, what became of them, where.

    >>> screen = Screen(duplicates="keep")
    >>> twice = [Record(n, {"prompt": "a", "completion": "b"}) for n in (1, 2)]
    >>> _ = list(screen.examples(twice))
    >>> screen_table(screen.summary())["rows"]
    [['duplicate', '1', 'kept', '2']]
    """
    rows = []
    for counts, fate in ((summary["dropped"], "left out"), (summary["flagged"], "kept")):
        for kind, count in sorted(counts.items(), key=lambda item: -item[1]):
            places = summary["examples"].get(kind, [])
            more = ", …" if count > len(places) else ""
            rows.append([kind, str(count), fate, ", ".join(map(str, places)) + more])
    return {
        "title": "Bad records",
        "columns": ["Kind", "Examples", "What became of them", "Lines or rows"],
        "rows": rows,
        "note": f"{summary['read']} records read, {summary['kept']} examples good.",
    }


class SeenKeys:
    """Which 64-bit keys came before: 8 bytes each, beside the newest ones.

    >>> seen = SeenKeys(newest=2)
    >>> [seen.add(key) for key in (5, 7, 5, 9, 7, 11, 9)]
    [True, True, False, True, False, True, False]
    """

    def __init__(self, newest: int = 100_000) -> None:
        self._newest = newest
        self._recent: set[int] = set()
        self._sorted = np.empty(0, np.uint64)

    def add(self, key: int) -> bool:
        """Remember a key; whether it is new."""
        if key in self._recent:
            return False
        wanted = np.uint64(key)
        place = int(np.searchsorted(self._sorted, wanted))
        if place < len(self._sorted) and self._sorted[place] == wanted:
            return False
        self._recent.add(key)
        if len(self._recent) >= self._newest:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, recent]))
            self._recent.clear()
        return True


def words_and_signs(text: str) -> str:
    """A text without what does not tell it from another: case, width, white space, punctuation.

    Signs of arithmetic stay, as they tell sums apart; `benchmarks.normalised` keeps words alone.

    >>> words_and_signs("What is\\n2 + 2 ?"), words_and_signs("what is 2+2?")
    ('what is 2 + 2', 'what is 2 + 2')
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"[^\W_]+|[+\-*/=<>^%]", plain)) or text


def latin_share(text: str) -> float:
    """Share of letters that are of the Latin script, in [0, 1]; 1 where there is no letter.

    It cannot tell English from other languages in that script.

    >>> latin_share("2 + 2 = 4"), latin_share("да, yes")
    (1.0, 0.6)
    """
    if text.isascii():
        return 1.0
    letters = [character for character in text[: 4 * _LETTERS] if character.isalpha()][:_LETTERS]
    return sum(map(_is_latin, letters)) / len(letters) if letters else 1.0


@functools.lru_cache(maxsize=10_000)
def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(("LATIN", "FULLWIDTH LATIN"))


def _words(example: Example) -> int:
    return words_in(example.prompt) + words_in(example.response)


SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Kana and Han, of which no spaces make words, as a range of a regular expression."""

_SIGNS = "\u3000-\u303f\uff01-\uff0f\uff1a-\uff20"  # what stands between them
_WORD = re.compile(f"[{SPACELESS}]|[^\\s{SPACELESS}{_SIGNS}]+")


def words_in(text: str) -> int:
    """Words of a text; where a script has no spaces between words, its letters.

    >>> words_in("2 + 2 is 4."), words_in("二加二等于四。")
    (5, 6)
    """
    return len(text.split()) if text.isascii() else len(_WORD.findall(text))
