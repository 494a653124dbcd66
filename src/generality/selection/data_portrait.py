"""Quality, diversity and complexity of training data, before and after a choice, in one pass."""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from generality.measures.text_diversity import CompressionRatio, DistinctN
from generality.selection.record_screen import SeenKeys, words_in
from generality.selection.training_files import Example

_SAMPLE = 1_000  # examples whose texts are kept for the measures of diversity
_SOURCES = 8  # named in the table


class DataPortrait:
    """What a stream of examples is like; memory: some 30 bytes an example and a sample of texts.

    Measures of diversity depend on how much text there is. `portrait_table` therefore takes them
    of equally many examples of each set, drawn by the hash of their content.

    >>> portrait = DataPortrait()
    >>> portrait.add(Example(1, ({"role": "user", "content": "2 + 2?"},), "It is 4.", {}))
    >>> portrait.count, portrait.quantile("response", 0.5)
    (1, 3.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self.sources: Counter[str] = Counter()
        self.prompts = 0  # different ones
        self._words = {name: array("I") for name in ("prompt", "response", "lines")}
        self._scores = array("f")
        self._seen = SeenKeys()
        self._sample: list[tuple[int, int, str]] = []

    def add(self, example: Example, score: float = float("nan")) -> None:
        """One more example, with its score where it has one."""
        self.count += 1
        self.sources[example.source or "–"] += 1
        self._words["prompt"].append(words_in(example.prompt))
        self._words["response"].append(words_in(example.response))
        self._words["lines"].append(sum(bool(s.strip()) for s in example.response.splitlines()))
        self._scores.append(score)
        self.prompts += self._seen.add(example.prompt_key)
        entry = (-example.key, self.count, example.response)
        if len(self._sample) < _SAMPLE:
            heapq.heappush(self._sample, entry)
        elif entry > self._sample[0]:
            heapq.heapreplace(self._sample, entry)

    @property
    def sampled(self) -> int:
        """How many texts were kept for measures of diversity."""
        return len(self._sample)

    def quantile(self, what: str, share: float) -> float:
        """Of words of a "prompt" or "response", or of a response's "lines"; NaN without any."""
        values = self._words[what]
        return float(np.quantile(values, share)) if values else float("nan")

    def mean_score(self) -> float:
        """Mean score of the examples that have one; NaN without any."""
        scores = np.array(self._scores)
        return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")

    def texts(self, count: int) -> list[str]:
        """`count` responses, those whose content has the smallest hashes."""
        return [text for *_, text in sorted(self._sample, reverse=True)[:count]]


def portrait_table(
    before: DataPortrait,
    after: DataPortrait,
    *,
    score: str = "",
    further: Sequence[tuple[str, str, float, float]] = (),
) -> dict[str, Any]:
    """Both portraits side by side, as a table of words.

    Args:
        score: what the examples' scores are, for the row of quality; "" for none.
        further: rows of (aspect, measure, before, after).
    """
    size = min(before.sampled, after.sampled)
    texts = [portrait.texts(size) for portrait in (before, after)]
    rows: list[tuple[str, str, float, float]] = []
    if score:
        rows.append(("quality", score, before.mean_score(), after.mean_score()))
    rows += [row for row in further if row[0] == "quality"]
    if size:
        pairs, packed = DistinctN(2), CompressionRatio()
        rows.append(("diversity", "distinct word pairs, share", pairs(texts[0]), pairs(texts[1])))
        name = "compression ratio (less is more diverse)"
        rows.append(("diversity", name, packed(texts[0]), packed(texts[1])))
    rows += [row for row in further if row[0] == "diversity"]
    rows += [
        ("complexity", "words of a response, median",
         before.quantile("response", 0.5), after.quantile("response", 0.5)),
        ("complexity", "words of a response, nine in ten below",
         before.quantile("response", 0.9), after.quantile("response", 0.9)),
        ("complexity", "lines of a response, median",
         before.quantile("lines", 0.5), after.quantile("lines", 0.5)),
        ("complexity", "words of a prompt, median",
         before.quantile("prompt", 0.5), after.quantile("prompt", 0.5)),
    ]  # fmt: skip
    words = [[aspect, name, figure(a), figure(b)] for aspect, name, a, b in rows]
    counts = [
        ["size", "examples", str(before.count), str(after.count)],
        ["size", "different prompts", str(before.prompts), str(after.prompts)],
    ]
    return {
        "title": "Before and after",
        "columns": ["Aspect", "Measure", "Before", "After"],
        "rows": counts + words,
        "note": f"Diversity of responses is measured on {size} examples of each, since it depends "
        "on the amount of text.",
    }


def source_table(before: DataPortrait, after: DataPortrait) -> dict[str, Any] | None:
    """Who wrote the responses, before and after; None where nobody says."""
    if set(before.sources) <= {"–"}:
        return None
    rows = []
    for source, count in before.sources.most_common(_SOURCES):
        shares = (count / before.count, after.sources[source] / max(after.count, 1))
        rows.append([source, *(f"{100 * share:.1f} %" for share in shares)])
    hidden = len(before.sources) - len(rows)
    note = f"{hidden} more sources are not shown." if hidden > 0 else ""
    return {"title": "Sources", "columns": ["Source", "Before", "After"], "rows": rows,
            "note": note}  # fmt: skip


def figure(value: float) -> str:
    """A number in a table: whole if it is, else with three digits; an en dash for NaN.

    >>> figure(3.0), figure(0.12345), figure(float("nan"))
    ('3', '0.123', '–')
    """
    if value != value:
        return "–"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.3g}"
