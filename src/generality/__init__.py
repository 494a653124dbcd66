"""generality: how far does a model's skill reach beyond what it was taught, and how to push it.

The names most people need are importable from here and loaded on first use, so that
`import generality` stays fast:

>>> import generality
>>> round(float(generality.gap_recovered(56.6, 61.9, 64.5)), 3)
0.671
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from generality import objectives
    from generality.benchmarks import load_benchmark
    from generality.claims import Claim
    from generality.errors import UserError
    from generality.gap import gap_recovered, ratio_to_ceiling, recovered_interval
    from generality.lab import Lab
    from generality.models import fetch_model, load_model, load_tokenizer

__version__ = "0.1.0"

_HOMES = {
    "Claim": "generality.claims",
    "Lab": "generality.lab",
    "UserError": "generality.errors",
    "fetch_model": "generality.models",
    "gap_recovered": "generality.gap",
    "load_benchmark": "generality.benchmarks",
    "load_model": "generality.models",
    "load_tokenizer": "generality.models",
    "ratio_to_ceiling": "generality.gap",
    "recovered_interval": "generality.gap",
}

__all__ = [
    "Claim",
    "Lab",
    "UserError",
    "__version__",
    "fetch_model",
    "gap_recovered",
    "load_benchmark",
    "load_model",
    "load_tokenizer",
    "objectives",
    "ratio_to_ceiling",
    "recovered_interval",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "objectives":
        return import_module("generality.objectives")
    raise AttributeError(f"module 'generality' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
