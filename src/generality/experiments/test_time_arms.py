"""Every test-time method with every setting, on streams of target domains, over one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from generality.benchmarks.domain_vectors import Domains
from generality.estimators.adanpc import AdaNPCAdapter, AdaNPCBatchNorm
from generality.estimators.feature_memory import FeatureMemory
from generality.estimators.pseudo_label import PseudoLabel
from generality.estimators.shot import SHOT
from generality.estimators.t3a import T3A
from generality.estimators.tent import Tent
from generality.estimators.test_time import evaluate_online
from generality.measures import refit_ceiling

NEIGHBOURS = ("adanpc", "knn-frozen", "knn-true-labels")
"""One memory: it grows, it stays, or it is told the truth after each batch."""

Labelled = tuple[Float[np.ndarray, "n dim"], Int[np.ndarray, " n"]]
Head = Sequence[Float[np.ndarray, "..."]]
"""Weights (classes, dim) and bias (classes,) of the linear head."""


def adapter_of(method: str, setting: Mapping[str, Any], source: Labelled, head: Head) -> Any:
    """The adapter of a method over features.

    Args:
        method: one of `NEIGHBOURS` (settings k, temperature, threshold), "adanpc-bn"
            (learning_rate, k), "t3a" (supports), "pseudo-label", "shot", "tent" (learning_rate;
            the last two also params).
        setting: see above.
        source: labelled features of the sources, for the memory.
        head: the network's own.

    >>> import torch
    >>> source = np.eye(3, dtype=np.float32), np.arange(3)
    >>> adapter = adapter_of("t3a", {"supports": 5}, source, (np.eye(3), np.zeros(3)))
    >>> adapter.predict(torch.eye(3)).shape
    torch.Size([3, 3])
    """
    linear, options = tuple(head), {k: v for k, v in setting.items() if k != "threshold"}
    if method in (*NEIGHBOURS, "adanpc-bn"):
        rate = options.pop("learning_rate", None)
        memory = FeatureMemory(source[0].shape[1], len(head[0]), **options)
        if method == "adanpc-bn":
            return AdaNPCBatchNorm(memory, *source, learning_rate=rate)
        memory.add(*source)
        memory.protect()
        return AdaNPCAdapter(memory, threshold=setting["threshold"])
    makers = {"t3a": T3A, "pseudo-label": PseudoLabel, "shot": SHOT}
    return makers.get(method, Tent)(linear, **options)


class TrueLabels:
    """The memory when someone labels each batch after it was predicted: an upper bound.

    Args:
        adapter: whose memory it is.
        streams: that will come, in this order.
        batch: size of a batch, as `evaluate_online` is told.
        seed: of the streams' order, likewise.
    """

    def __init__(self, adapter: AdaNPCAdapter, streams: Domains, batch: int, seed: int) -> None:
        self.memory, self.reset = adapter.memory, adapter.reset
        answers = [np.random.default_rng(seed).permutation(y) for _, y in streams.values()]
        self.batches = (y[i : i + batch] for y in answers for i in range(0, len(y), batch))

    def predict(self, batch: Any, adapt: bool = True) -> Tensor:
        """The vote; then the truth is stored."""
        scores = self.memory.scores(batch)
        self.memory.add(batch, next(self.batches))
        return scores


def follow_streams(
    source: Labelled,
    head: Head,
    streams: Domains,
    grid: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    reset: bool = True,
    batch: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy by method, setting and target, with the floor and the ceiling of each target.

    Args:
        source: labelled features of the sources.
        head: the network's own.
        streams: features and labels of each target, in the order they come.
        grid: settings of each method; see `adapter_of`.
        reset: empty the memory (undo the adaptation) between targets.
        batch: of the stream.
        seed: of the order within a stream.

    Returns:
        `curves`: of each method and setting {target: [accuracy, in the first quarter of the
        stream, in the last]}; `floors`: the head's own accuracy; `ceilings`: `refit_ceiling`.

    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> X = (np.eye(2)[y] + 0.1 * rng.normal(size=(40, 2))).astype(np.float32)
    >>> head = np.eye(2, dtype=np.float32), np.zeros(2, dtype=np.float32)
    >>> found = follow_streams((X, y), head, {"same": (X, y)}, {"t3a": [{"supports": 5}]})
    >>> found["curves"]["t3a"][0]["same"][0], found["floors"]["same"]
    (1.0, 1.0)
    """
    known: dict[Any, dict[str, list[float]]] = {}
    curves: dict[str, list[dict[str, list[float]]]] = {}
    for method, settings in grid.items():
        for setting in settings:
            matters = {k: v for k, v in setting.items() if k != "threshold" or method == "adanpc"}
            key = method, *matters.items()
            if key not in known:
                adapter = adapter_of(method, setting, source, head)
                if method == "knn-true-labels":
                    adapter = TrueLabels(adapter, streams, batch, seed)
                found = evaluate_online(
                    adapter, streams, batch_size=batch, reset_between=reset, seed=seed,
                    adapt=method != "knn-frozen",
                )  # fmt: skip
                known[key] = {
                    name: [s.accuracy, s.first_quarter, s.last_quarter] for name, s in found.items()
                }
            curves.setdefault(method, []).append(known[key])
    right = {n: (z @ head[0].T + head[1]).argmax(1) == y for n, (z, y) in streams.items()}
    floors = {name: float(hits.mean()) for name, hits in right.items()}
    ceilings = {name: refit_ceiling(*stream) for name, stream in streams.items()}
    return {"curves": curves, "floors": floors, "ceilings": ceilings}
