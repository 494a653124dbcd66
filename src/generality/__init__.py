"""generality: how far does a model's skill reach beyond what it was taught, and how to push it.

The names most people need are importable from here and loaded on first use, so that
`import generality` stays fast:

>>> import generality
>>> round(float(generality.gap_recovered(56.6, 61.9, 64.5)), 3)
0.671
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from generality.lazy import lazy_names

if TYPE_CHECKING:
    from generality import objectives
    from generality.benchmarks import load_benchmark
    from generality.claims import Claim
    from generality.errors import UserError
    from generality.gap import gap_recovered, ratio_to_ceiling, recovered_interval
    from generality.lab import Lab
    from generality.models import fetch_model, load_model, load_tokenizer

__version__ = "0.1.0"

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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Claim": "claims",
        "Lab": "lab",
        "UserError": "errors",
        "fetch_model": "models",
        "gap_recovered": "gap",
        "load_benchmark": "benchmarks",
        "load_model": "models",
        "load_tokenizer": "models",
        "ratio_to_ceiling": "gap",
        "recovered_interval": "gap",
    },
)
