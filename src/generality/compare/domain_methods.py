"""The methods that prepare for a domain nobody has seen, and which of them apply.

Each is one line: the algorithm that trains it and, for a method that learns from the stream it is
asked about, the adapter that sits on what was trained. To add one: a line in `DOMAIN_METHODS`, its
loss in `objectives.domain_algorithms` or its adapter in `estimators`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from generality.errors import UserError, unknown
from generality.estimators import (
    SHOT,
    T3A,
    AdaNPCAdapter,
    FeatureMemory,
    PseudoLabel,
    PseudoLabelRefit,
    Tent,
)
from generality.estimators.adanpc import stratified_part
from generality.models.multi_head import MultiHead
from generality.objectives.domain_algorithms import ALGORITHMS as PLAIN
from generality.objectives.domain_algorithms import DomainAlgorithm, Range
from generality.objectives.drm_algorithm import DRMAlgorithm

FLOOR = "erm"
ALGORITHMS: dict[str, DomainAlgorithm] = {**PLAIN, "drm": DRMAlgorithm(name="DRM")}
"""What is trained, by name."""
SHARED = {
    "learning_rate": Range(1e-3, 10**-3.5, 1e-2),
    "weight_decay": Range(0.0, 1e-6, 1e-2),
}
"""Of Adam, for a small network on standardised features. A draw has the same ones for every method,
so that no method wins by a luckier learning rate."""


@dataclass(frozen=True)
class DomainMethod:
    """How a method is trained and, perhaps, how it adapts.

    Attributes:
        algorithm: key of `ALGORITHMS`.
        adapter: from (trained `Featurized` network, features and labels of its training rows or
            None and None, hyper-parameters, classes) to a `TestTimeAdapter`; None where the
            network answers as it is.
        ranges: of the adapter's own hyper-parameters.
        on_inputs: the adapter is asked about the network's inputs, not about its features.
        diverse: the kind of hypotheses that learn from unlabelled rows of the target, "divdis" or
            "dbat"; "" for methods that see none of its rows before they are asked about them.
        active: one of the hypotheses is chosen by labels asked for at the target.
    """

    algorithm: str = FLOOR
    adapter: Callable[..., Any] | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    on_inputs: bool = False
    diverse: str = ""
    active: bool = False

    @property
    def sources(self) -> int:
        """Fewest training domains with which it is itself."""
        return ALGORITHMS[self.algorithm].min_domains

    @property
    def tunable(self) -> bool:
        """Whether it is a loss over one batch: no adapter, memory, averaging or mixed inputs."""
        algorithm = ALGORITHMS[self.algorithm]
        kind = type(algorithm)
        plain = (
            kind.initial_state is DomainAlgorithm.initial_state
            and kind.transform is DomainAlgorithm.transform
            and self.algorithm != "drm"
        )
        apart = self.adapter is None and not self.diverse
        return plain and apart and algorithm.average_from is None


def t3a(model: Any, features: Any, labels: Any, hyper: Mapping[str, float], classes: int) -> T3A:
    """Prototypes adjusted by confident rows of the stream."""
    return T3A(model.head, supports=round(hyper["supports"]))


def tent(model: Any, features: Any, labels: Any, hyper: Mapping[str, float], classes: int) -> Tent:
    """Scale and shift before the head, tuned towards certain answers."""
    return Tent(model.head, params="prebn", learning_rate=hyper["learning_rate"], source=features)


def pseudo_label(
    model: Any, features: Any, labels: Any, hyper: Mapping[str, float], classes: int
) -> PseudoLabel:
    """The head, trained on its own confident answers."""
    return PseudoLabel(
        model.head, threshold=hyper["threshold"], learning_rate=hyper["learning_rate"]
    )


def shot(model: Any, features: Any, labels: Any, hyper: Mapping[str, float], classes: int) -> SHOT:
    """The layers under a fixed head, tuned towards certain and diverse answers."""
    return SHOT(model, params="featurizer", learning_rate=hyper["learning_rate"])


def adanpc(
    model: Any, features: Any, labels: Any, hyper: Mapping[str, float], classes: int
) -> AdaNPCAdapter:
    """A memory of training rows that votes and grows by confident rows of the stream."""
    memory = FeatureMemory(
        model.head.in_features,
        classes,
        k=round(hyper["k"]),
        temperature=hyper["temperature"],
        capacity=2 * _REMEMBERED,
    )
    if features is not None:
        kept = stratified_part(np.asarray(labels), _REMEMBERED, 0)
        memory.add(features[kept], labels[kept])
        memory.protect()
    return AdaNPCAdapter(memory, threshold=hyper["threshold"])


def heads(
    model: Any, features: Any, labels: Any, hyper: Mapping[str, float], classes: int
) -> PseudoLabelRefit:
    """Heads of the training domains, weighted by how certain each is, refitted where asked."""
    weight, bias = model.head.weight.detach(), model.head.bias.detach()
    linear = [nn.Linear(weight.shape[1], classes) for _ in range(len(weight) // classes)]
    for place, head in enumerate(linear):
        rows = slice(place * classes, (place + 1) * classes)
        head.load_state_dict({"weight": weight[rows], "bias": bias[rows]})
    return PseudoLabelRefit(
        MultiHead(None, linear),
        gamma=hyper["gamma"],
        threshold=hyper.get("threshold", 2.0),  # never reached: nothing is learned
        learning_rate=hyper.get("learning_rate", 1e-3),
    )


_REMEMBERED = 50_000  # training rows in a memory at most; the stream may add as many
_RATE = Range(1e-3, 1e-4, 1e-2)
_SURE = Range(0.9, 0.5, 0.99, log=False)
_GAMMA = Range(1.0, 0.1, 5.0)
_DIVDIS = {"repulsion": Range(10.0, 1e-2, 1e2), "regularisation": Range(10.0, 1e-2, 1e2)}
_DBAT = {"alpha": Range(1.0, 1e-4, 1e1)}

DOMAIN_METHODS: dict[str, DomainMethod] = {
    **{name.replace("_", "-"): DomainMethod(name) for name in PLAIN},
    "drm": DomainMethod("drm", heads, ranges={"gamma": _GAMMA}),
    "drm-t": DomainMethod(
        "drm",
        heads,
        ranges={"gamma": _GAMMA, "learning_rate": _RATE, "threshold": _SURE},
    ),
    "t3a": DomainMethod(adapter=t3a, ranges={"supports": Range(100, 1, 100)}),
    "tent": DomainMethod(adapter=tent, ranges={"learning_rate": _RATE}),
    "pseudo-label": DomainMethod(
        adapter=pseudo_label,
        ranges={"learning_rate": _RATE, "threshold": _SURE},
    ),
    "shot": DomainMethod(adapter=shot, ranges={"learning_rate": _RATE}, on_inputs=True),
    "adanpc": DomainMethod(
        adapter=adanpc,
        ranges={
            "k": Range(100, 1, 200),
            "temperature": Range(0.1, 0.01, 0.5),
            "threshold": Range(0.0, 0.0, 1.0, log=False),
        },
    ),
    "divdis": DomainMethod(diverse="divdis", ranges=_DIVDIS),
    "dbat": DomainMethod(diverse="dbat", ranges=_DBAT),
    "divdis-active": DomainMethod(diverse="divdis", active=True, ranges=_DIVDIS),
    "dbat-active": DomainMethod(diverse="dbat", active=True, ranges=_DBAT),
}
"""By name. The floor comes first."""

FEWEST_UNLABELLED = 64
"""Unlabelled rows below which nothing is learned from them: DivDis' measures need such batches."""


def applicable(
    asked: Sequence[str] | None,
    *,
    sources: int,
    tuned: bool = False,
    unlabelled: int = 0,
    sample: int = 0,
) -> tuple[list[str], list[str]]:
    """The methods to run, the floor first, and sentences about those left out.

    Args:
        asked: names; None for all.
        sources: domains that are trained on.
        tuned: whether the backbone learns, rather than a small network on its frozen features.
        unlabelled: rows without a label.
        sample: labelled rows of the target that one has.

    Raises:
        UserError: a name that there is not.

    >>> applicable(["sd", "coral"], sources=1)[1]
    ['coral is left out: it compares training domains and needs at least 2; there is 1.']
    """
    names = list(dict.fromkeys([FLOOR, *(DOMAIN_METHODS if asked is None else asked)]))
    kept, left_out = [], []
    for name in names:
        if name not in DOMAIN_METHODS:
            raise unknown("method", name, DOMAIN_METHODS)
        method = DOMAIN_METHODS[name]
        if method.sources > sources:
            there = "there is 1" if sources == 1 else f"there are {sources}"
            left_out.append(
                f"{name} is left out: it compares training domains and needs at least "
                f"{method.sources}; {there}."
            )
        elif tuned and not method.tunable:
            left_out.append(
                f"{name} is left out: it is more than a loss over one batch, and runs on frozen "
                "features only (--tuning probe)."
            )
        elif method.diverse and unlabelled < FEWEST_UNLABELLED:
            there = {0: "there is none", 1: "there is 1"}.get(unlabelled, f"there are {unlabelled}")
            left_out.append(
                f"{name} is left out: it learns from rows of the domain to come, which have no "
                f"label, and needs at least {FEWEST_UNLABELLED}; {there}."
            )
        elif method.active and not sample:
            left_out.append(
                f"{name} is left out: it asks for labels of the target; say with --target-labels "
                "how many can be had."
            )
        else:
            kept.append(name)
    if asked is not None and not kept[1:] and left_out:
        raise UserError(" ".join(left_out))
    return kept, left_out


def hypers_of(name: str, count: int) -> list[dict[str, dict[str, float]]]:
    """A method's hyper-parameters in each draw: those it is trained with, and its adapter's own.

    Draw 0 has the defaults. The others depend on the draw's number and on the name of what they are
    drawn for (all methods, the algorithm, the adapter), so that adapters share their trainings.

    >>> [draw["trained"]["learning_rate"] for draw in hypers_of("t3a", 2)][0]
    0.001
    """
    method = DOMAIN_METHODS[name]
    own = ALGORITHMS[method.algorithm].ranges
    return [
        {
            "trained": {**_drawn("", SHARED, draw), **_drawn(method.algorithm, own, draw)},
            "adapter": _drawn(method.diverse or name, method.ranges, draw),
        }
        for draw in range(count)
    ]


def _drawn(name: str, ranges: Mapping[str, Range], draw: int) -> dict[str, float]:
    rng = np.random.default_rng((zlib.crc32(name.encode()), draw))
    return {key: each.draw(rng) if draw else each.default for key, each in ranges.items()}
