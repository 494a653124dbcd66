"""What made-up texts add to real ones: a probe on both, at one number of examples for every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from generality.estimators.soft_probe import probe_beliefs
from generality.lab import Lab
from generality.measures import accuracy
from generality.selection.budget import real_and_made

Texts = tuple[Sequence[str], Int[np.ndarray, " n"]]
"""Texts and their class numbers."""


def made_text_probe(
    lab: Lab,
    encoder: str,
    real: Texts,
    made: Texts,
    tests: Mapping[str, Texts],
    *,
    total: int,
    max_length: int = 64,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy, in [0, 1], on each test by a `SoftProbe` on `total` real and made texts.

    Args:
        lab: keeps features and probes.
        encoder: a name as in `lab.embed`.
        real: texts that are all trained on, as far as there is room.
        made: texts that fill what is left; none: the real ones are repeated.
        tests: by name.
        total: examples trained on.
        max_length: tokens of a text.
        seed: of the probe.

    >>> import tempfile
    >>> from pathlib import Path
    >>> real, made = (["so dull", "so fine"], np.array([0, 1])), (["dull"], np.array([0]))
    >>> lab = Lab(home=Path(tempfile.mkdtemp()), device="cpu", progress=False)
    >>> made_text_probe(lab, "bag-of-words", real, made, {"same": real}, total=8)
    {'same': 1.0}
    """
    kept = real_and_made(len(real[0]), len(made[0]), total)
    X = lab.embed(encoder, [*real[0], *made[0]], max_length=max_length)[kept]
    y = np.concatenate([real[1], made[1]])[kept]
    found = {}
    for name, (texts, labels) in tests.items():
        Z = lab.embed(encoder, list(texts), max_length=max_length)
        found[name] = accuracy(lab.step(probe_beliefs, X, y, Z, seed=seed), labels)
    return found
