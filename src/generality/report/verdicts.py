"""A verdict in words: what the page and the terminal say about one claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

SYMBOLS = {"holds": "✓", "fails": "✕", "inconclusive": "?"}


@dataclass(frozen=True)
class Shown:
    """A verdict as text; a dash stands for what is not known."""

    statement: str
    verdict: str
    symbol: str
    effect: str
    interval: str
    p: str
    p_holm: str
    seeds: str
    expected_at: str
    test: str
    note: str


def shown(verdict: Mapping[str, Any]) -> Shown:
    """The words for one verdict, a dict as `claims.json` holds it.

    >>> shown({"statement": "It helps", "verdict": "holds", "effect": 0.0312, "p_holm": 0.0004})
    Shown(statement='It helps', verdict='holds', symbol='✓', effect='+0.0312', interval='–', ...
    """
    low, high = number(verdict.get("low")), number(verdict.get("high"))
    word = str(verdict.get("verdict") or "inconclusive")
    return Shown(
        statement=str(verdict.get("statement") or ""),
        verdict=word,
        symbol=SYMBOLS.get(word, "?"),
        effect=number(verdict.get("effect"), unit=str(verdict.get("unit") or "")),
        interval=f"{low} to {high}" if "–" not in (low, high) else "–",
        p=probability(verdict.get("p")),
        p_holm=probability(verdict.get("p_holm")),
        seeds="–" if verdict.get("seeds") is None else str(verdict["seeds"]),
        expected_at=str(verdict.get("expected_at") or "–"),
        test=str(verdict.get("test") or ""),
        note=str(verdict.get("note") or ""),
    )


def number(value: Any, unit: str = "") -> str:
    """A signed effect with three digits.

    >>> number(-0.01234), number(2, unit="points"), number(None)
    ('−0.0123', '+2 points', '–')
    """
    if not isinstance(value, int | float) or not isfinite(value):
        return "–"
    return f"{value:+.3g} {unit}".replace("-", "−").strip()


def probability(value: Any) -> str:
    """A p-value, no more precise than it deserves.

    >>> probability(0.0312), probability(1e-9), probability(None)
    ('0.031', '< 0.001', '–')
    """
    if not isinstance(value, int | float) or not isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.0995 else f"{value:.2f}"
