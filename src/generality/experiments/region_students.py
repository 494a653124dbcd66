"""Linear students of subsets that cover few or many regions of a pool, and what describes these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.measures import ProjectedGradients, vendi_score, word_variety
from generality.models import sklearn_mlp
from generality.selection import region_subsets

Examples = tuple[Float[np.ndarray, "n dim"], Int[np.ndarray, " n"]]
"""Features and labels (0 or 1)."""


def region_students(
    pool: Examples,
    texts: Sequence[str],
    tests: Mapping[str, Examples],
    *,
    count: int,
    items: int,
    dim: int = 512,
    seed: int = 0,
) -> list[dict[str, float]]:
    """What each of many subsets of one size teaches, beside numbers about its variety.

    A small network, the proxy of `ProjectedGradients`, learns from the first quarter of the pool;
    subsets are drawn from the rest by `region_subsets`, and a logistic regression learns each.

    Args:
        pool: features and labels, 0 or 1, of which subsets are taken.
        texts: what the features are of.
        tests: features and labels by name; `score` is the mean accuracy on them.
        count: how many subsets.
        items: rows of each.
        dim: numbers of a projected gradient.
        seed: of the proxy, of regions and of draws.

    Returns:
        For each subset accuracies `score` and `in_domain` (on the first quarter of the pool), then
        `g_vendi`, `embedding_vendi` and the numbers of `word_variety`.

    Raises:
        ValueError: too few rows of a class, as for `region_subsets`.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(200, 5)).astype(np.float32)
    >>> y, texts = (x[:, 0] > 0).astype(int), ["a word"] * 200
    >>> found = region_students((x, y), texts, {"same": (x, y)}, count=2, items=20, dim=16)
    >>> [row["score"] > 0.6 and row["g_vendi"] > 1 for row in found]
    [True, True]
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    features, labels = pool
    held = len(texts) // 4
    proxy = MLPClassifier(64, early_stopping=True, random_state=seed)
    project = ProjectedGradients(
        sklearn_mlp(proxy.fit(features[:held], labels[:held])), _losses, dim=dim
    )
    found = []
    for chosen in region_subsets(
        features[held:], labels[held:], count=count, items=items, seed=seed
    ):
        x, y = features[chosen + held], labels[chosen + held]
        student = LogisticRegression(max_iter=1000).fit(x, y)
        found.append({
            "score": float(np.mean([student.score(*test) for test in tests.values()])),
            "in_domain": float(student.score(features[:held], labels[:held])),
            "g_vendi": vendi_score(project({"x": torch.as_tensor(x), "y": torch.as_tensor(y)})),
            "embedding_vendi": vendi_score(x),
            **word_variety([texts[row] for row in chosen + held]),
        })  # fmt: skip
    return found


def _losses(model: Any, batch: Mapping[str, Tensor]) -> Float[Tensor, " batch"]:
    """Cross-entropy of each example."""
    logits = model(batch["x"].float())[:, 0]
    return nn.functional.binary_cross_entropy_with_logits(
        logits, batch["y"].float(), reduction="none"
    )
