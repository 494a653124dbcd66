"""Several hypotheses for one data set: they agree on the labels and differ where there are none."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Real
from numpy.typing import NDArray
from torch import Tensor, nn

from generality.lab.replicate import Replicas
from generality.lab.stacked import as_tensor, prepared
from generality.lab.train_streams import Batch, train_streams
from generality.objectives.dbat import DBATLoss
from generality.objectives.divdis import DivDisLoss

_BATCHES = {"labelled": 32, "unlabelled": 100}
_SEEDS_APART = 2**20  # from one of D-BAT's models to the next: each starts from weights of its own


@dataclass(frozen=True)
class Hypotheses:
    """Models that fit the same labels, for one seed or several.

    Attributes:
        members: one entry per hypothesis (D-BAT), or a single one whose network has several heads
            (DivDis).
    """

    members: list[Replicas]

    def predict_proba(
        self, inputs: Any, *, own: bool = False
    ) -> Float[NDArray, "replicas hypotheses n classes"]:
        """Class probabilities of every hypothesis.

        Args:
            inputs: (n, ...), the same for all replicas.
            own: inputs are (replicas, n, ...), each replica's own.
        """
        given = as_tensor(inputs)
        each = given if own else given.expand(len(self.members[0]), *given.shape)
        return torch.cat([_beliefs(member, each) for member in self.members], 1).cpu().numpy()

    def modules(self, replica: int = 0) -> list[nn.Module]:
        """The networks of one replica, each a module of its own."""
        return [member.module(replica) for member in self.members]


@torch.inference_mode()
def _beliefs(
    member: Replicas, inputs: Real[Tensor, "replicas n ..."], chunk: int = 2048
) -> Float[Tensor, "replicas heads n classes"]:
    """What each replica, in eval mode, says of its own inputs."""
    skeleton = copy.deepcopy(member.skeleton).eval()
    state = {**member.parameters, **member.buffers}
    like = next(iter(member.parameters.values()))

    def call(state: dict[str, Tensor], batch: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(skeleton, state, (batch,))
        return logits.softmax(-1) if logits.ndim == 3 else logits.softmax(-1)[None]

    every = torch.func.vmap(call)
    parts = [every(state, prepared(part, like)) for part in inputs.split(chunk, 1)]
    return torch.cat(parts, 2)


def fit_dbat(
    module: nn.Module | Callable[[int], nn.Module],
    inputs: Real[Any, "*replicas n ..."],
    labels: Int[Any, "*replicas n"],
    unlabelled: Real[Any, "*replicas others ..."],
    *,
    hypotheses: int = 2,
    loss: DBATLoss | None = None,
    seeds: Sequence[int] = (0,),
    steps: int = 800,
    batch_size: dict[str, int] | None = None,
    **training: Any,
) -> Hypotheses:
    """D-BAT: train models one after another, each disagreeing with all before on unlabelled data.

    The first is plain empirical risk minimisation on the labels. Earlier models are frozen and in
    eval mode; what they say of the unlabelled data is computed once. Every model starts anew,
    with a seed of its own where `module` is a function. Labelled and unlabelled batches pass
    through the network as one batch, so batch normalisation sees both (the released code passes
    them apart, which makes its statistics jump).

    Args:
        module: from inputs (batch, ...) to logits (batch, classes); a function of the seed, or one
            module whose weights every model starts from.
        inputs: labelled examples (n, ...), or (replicas, n, ...) to give every seed its own.
        labels: their classes, (n,) or (replicas, n).
        unlabelled: examples of where the models will be used, (others, ...) or (replicas, …).
        hypotheses: models in all, ≥ 1.
        loss: `DBATLoss(alpha)`; None is alpha 1.
        seeds: one per replica; several train together.
        steps: of the optimiser, for each model.
        batch_size: {"labelled": …, "unlabelled": …}; None: 32 and 100.
        training: learning_rate, optimizer, weight_decay, … of `lab.train_streams`.

    Source: Pagliardini et al. 2022 (arXiv 2202.04414), algorithm 1.

    >>> from generality.benchmarks import spurious_2d
    >>> mixture = spurious_2d(ratio=0.0)
    >>> train, others, test = mixture.training(500), mixture.unlabelled(500), mixture.test(500)
    >>> found = fit_dbat(lambda seed: nn.Linear(2, 2), train.inputs, train.labels, others.inputs,
    ...                  steps=300, learning_rate=0.03)
    >>> first, second = found.predict_proba(test.inputs)[0].argmax(-1)
    >>> bool((first == test.labels).mean() < 0.7), bool((second == test.labels).mean() > 0.9)
    (True, True)
    """
    if hypotheses < 1:
        raise ValueError(f"at least one hypothesis, not {hypotheses}")
    objective = loss or DBATLoss()
    x, y, u = _streams(inputs, labels, unlabelled, len(seeds))
    options = {"steps": steps, "batch_size": {**_BATCHES, **(batch_size or {})}, **training}

    def supervised(model: Callable[[Tensor], Tensor], batch: Batch, _: float) -> Tensor:
        inputs, labels = batch["labelled"]
        return nn.functional.cross_entropy(model(inputs), labels)

    def diverse(model: Callable[[Tensor], Tensor], batch: Batch, _: float) -> Tensor:
        (inputs, labels), (others, earlier) = batch["labelled"], batch["unlabelled"]
        logits = model(torch.cat([inputs, others]))
        fitted, apart = logits[: len(inputs)], logits[len(inputs) :]
        return objective(fitted, labels, apart, earlier.movedim(1, 0))

    members = [train_streams(module, {"labelled": (x, y)}, supervised, seeds=seeds, **options)]
    beliefs: list[Tensor] = []
    for earlier in range(1, hypotheses):
        beliefs.append(_beliefs(members[-1], u)[:, 0].to(u.device, copy=True))
        streams = {"labelled": (x, y), "unlabelled": (u, torch.stack(beliefs, 2))}
        own_seeds = [seed + earlier * _SEEDS_APART for seed in seeds]
        members.append(train_streams(module, streams, diverse, seeds=own_seeds, **options))
    return Hypotheses(members)


def fit_divdis(
    module: nn.Module | Callable[[int], nn.Module],
    inputs: Real[Any, "*replicas n ..."],
    labels: Int[Any, "*replicas n"],
    unlabelled: Real[Any, "*replicas others ..."],
    *,
    loss: DivDisLoss | None = None,
    seeds: Sequence[int] = (0,),
    steps: int = 800,
    batch_size: dict[str, int] | None = None,
    **training: Any,
) -> Hypotheses:
    """DivDis: train the heads of one network together, independent of each other without labels.

    Arguments as in `fit_dbat`, but `module` has several heads (`generality.models.MultiHead`): it
    returns logits (heads, batch, classes). Labelled and unlabelled batches pass as one batch.

    Source: Lee, Yao and Finn 2022 (arXiv 2202.03418), section 3.2.

    >>> from generality.benchmarks import spurious_2d
    >>> from generality.models import MultiHead, mlp
    >>> mixture = spurious_2d(ratio=0.5)
    >>> train, others = mixture.training(200), mixture.unlabelled(200)
    >>> two_heads = MultiHead(nn.Linear(2, 8), [nn.Linear(8, 2), nn.Linear(8, 2)])
    >>> found = fit_divdis(two_heads, train.inputs, train.labels, others.inputs, steps=10)
    >>> found.predict_proba(mixture.test(100).inputs).shape
    (1, 2, 100, 2)
    """
    objective = loss or DivDisLoss()
    x, y, u = _streams(inputs, labels, unlabelled, len(seeds))

    def diverse(model: Callable[[Tensor], Tensor], batch: Batch, _: float) -> Tensor:
        (inputs, labels), (others,) = batch["labelled"], batch["unlabelled"]
        logits = model(torch.cat([inputs, others]))
        return objective(logits[:, : len(inputs)], labels, logits[:, len(inputs) :])

    trained = train_streams(
        module,
        {"labelled": (x, y), "unlabelled": (u,)},
        diverse,
        seeds=seeds,
        steps=steps,
        batch_size={**_BATCHES, **(batch_size or {})},
        **training,
    )
    return Hypotheses([trained])


def _streams(
    inputs: Any, labels: Any, unlabelled: Any, replicas: int
) -> tuple[Tensor, Tensor, Tensor]:
    """All three with a leading dimension of replicas, which takes no memory where they share."""
    x, y, u = as_tensor(inputs), as_tensor(labels).long(), as_tensor(unlabelled)
    if y.ndim not in (1, 2) or x.shape[: y.ndim] != y.shape or u.ndim != x.ndim:
        raise ValueError(
            f"inputs {tuple(x.shape)}, labels {tuple(y.shape)} and unlabelled {tuple(u.shape)} do "
            "not fit together: (n, ...), (n,), (others, ...), each with replicas in front or none"
        )
    if y.ndim == 1:
        x, y, u = (t.expand(replicas, *t.shape) for t in (x, y, u))
    if len(x) != replicas or len(u) != replicas:
        raise ValueError(f"{len(x)} and {len(u)} replicas of data for {replicas} seeds")
    return x, y, u
