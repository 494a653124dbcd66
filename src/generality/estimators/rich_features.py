"""Rich Feature Construction: find several predictive features before choosing among them.

Penalties that ask for the same risk everywhere (IRM, V-REx, …) choose among the features that a
network has; one trained plainly has the easiest only. `discover` trains networks one after another,
each right where an earlier one is right and where it is wrong, so that it needs another feature.
`distill_multi_head` makes one featurizer from which all of them can be read, `hand_over` puts the
mean of their heads on it, and `fit_penalised` trains that under a penalty, whole or the head alone.

Everything takes one's own modules and arrays, trains several seeds together and uses Adam with a
squared norm of all trained weights, biases included, in the loss (`l2`, not decoupled decay).

Source: Zhang, Lopez-Paz and Bottou 2022 (arXiv 2203.15516), algorithm 1 and appendix A.

>>> from generality.benchmarks import colored_digits
>>> from generality.models import Featurized, mlp
>>> rng = np.random.default_rng(0)
>>> shape = rng.integers(0, 10, 1200)  # one's own images: here a stripe that says the digit
>>> images = np.zeros((1200, 4, 10), np.float32)
>>> images[np.arange(1200), :, shape] = 1
>>> data = colored_digits(images, shape, color_flips=(0.1, 0.2))
>>> def make(seed):
...     return Featurized(nn.Sequential(mlp(80, 32), nn.ReLU()), nn.Linear(32, 1))
>>> training = {"learning_rate": 0.01, "seeds": [0]}
>>> rounds = discover(make, data.inputs, data.labels, first_steps=30, steps=100, **training)
>>> rich = hand_over(distill_multi_head(make, rounds, data.inputs, steps=100, **training))
>>> final = fit_penalised(rich, data.inputs, data.labels, data.domains, penalty="vrex",
...                       weight=1e4, frozen=True, steps=300, **training)
>>> test = colored_digits(images, shape, color_flips=(0.9,), seed=1)  # the colour now misleads
>>> def accuracy(networks):
...     return float(split_by_correctness(networks.module(0), test.inputs, test.labels).mean())
>>> accuracy(rounds[0].networks) < 0.3, accuracy(final) > 0.6
(True, True)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Real
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from generality.lab.full_batch import Memory, full_batch, starts
from generality.lab.replicate import Replicas
from generality.lab.stacked import as_tensor, prepared
from generality.models.featurized import Featurized
from generality.models.multi_head import MultiHead
from generality.objectives.domain_penalties import (
    Penalty,
    domain_penalty,
    domain_risks,
    group_dro,
    penalised,
)

Start = nn.Module | Callable[[int], nn.Module] | Sequence[nn.Module]
Step = Literal["max", "eg"]

_SEEDS_APART = 2**20  # from one round to the next: each starts from weights of its own


@dataclass(frozen=True)
class DiscoveryRound:
    """Networks of one round, one per seed, and what they say of the examples they learnt from.

    Attributes:
        networks: as trained.
        predictions: the class each says.
        correct: where that is the label.
    """

    networks: Replicas
    predictions: Int[NDArray[np.int64], "replicas n"]
    correct: Bool[NDArray[np.bool_], "replicas n"]


def discover(
    module: Callable[[int], nn.Module],
    inputs: Real[Any, "*replicas n ..."],
    labels: Int[Any, "*replicas n"],
    *,
    rounds: int = 2,
    step: Step = "max",
    eta: float = 0.01,
    seeds: Sequence[int] = (0,),
    first_steps: int = 50,
    steps: int = 500,
    learning_rate: float = 5e-4,
    l2: float = 1.1e-3,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
) -> list[DiscoveryRound]:
    """Train a network plainly, then others that need another feature than those before.

    Round 0 is plain training, stopped early: once it remembers wrong labels, its errors say nothing
    of features. Each later round is a fresh network with the smallest worst loss over the examples
    that an earlier round gets right and those that it gets wrong, two groups for each.

    Args:
        module: builds a network from a seed; logits (batch, classes), one column for two classes.
        inputs: (n, ...), or (replicas, n, ...) to give every seed its own.
        labels: class ids, (n,) or (replicas, n).
        rounds: networks in all, ≥ 1.
        step, eta: see `fit_group_dro`.
        first_steps: of round 0.
        steps: of each later round.
        l2: factor of the squared norm of all weights in the loss.
        batch_size: None takes all examples in each step; see `fit_group_dro`.

    Raises:
        ValueError: without a round, or where `module` is a network: each round starts afresh; for
            NaN or infinite inputs, labels below 0, no examples, or shapes that do not fit.
    """
    if rounds < 1:
        raise ValueError(f"at least one round, not {rounds}")
    if isinstance(module, nn.Module):
        raise ValueError("give a function that builds a fresh network from a seed, not a network")
    x, y = _per_replica(inputs, labels, len(seeds))
    found: list[DiscoveryRound] = []
    for k in range(rounds):
        groups = correctness_groups([r.correct for r in found]) if found else np.ones((*y.shape, 1))
        networks = fit_group_dro(
            module, x, y, groups,
            step=step, eta=eta, seeds=[seed + k * _SEEDS_APART for seed in seeds],
            steps=steps if k else first_steps, learning_rate=learning_rate, l2=l2,
            batch_size=batch_size, device=device,
        )  # fmt: skip
        predictions = _classes(own_logits(networks, x)).numpy()
        found.append(DiscoveryRound(networks, predictions, predictions == y.numpy()))
    return found


def fit_group_dro(
    module: Start,
    inputs: Real[Any, "*replicas n ..."],
    labels: Int[Any, "*replicas n"],
    groups: Bool[Any, "*replicas n groups"],
    *,
    step: Step = "max",
    eta: float = 0.01,
    seeds: Sequence[int] = (0,),
    steps: int = 500,
    learning_rate: float = 5e-4,
    l2: float = 1.1e-3,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
) -> Replicas:
    """Train for the worst mean loss of groups that may overlap; empty groups do not count.

    Args:
        module: builds a start from a seed, or one network or one for each seed to start from.
        inputs, labels: see `discover`.
        groups: which example is in which group, (n, groups) or (replicas, n, groups).
        step: "max", the largest loss of each step; "eg", all of them, weighted by weights that grow
            as exp(eta·loss) (GroupDRO, Sagawa et al. 2020, arXiv 1911.08731).
        batch_size: None takes all examples in each step; else this many are drawn, every group
            equally often, and weighted so that a group's mean stays that of all its examples.

    Raises:
        ValueError: for shapes that do not fit, or where all groups are empty.
    """
    if step not in ("max", "eg"):
        raise ValueError(f"step is 'max' or 'eg', not '{step}'")
    x, y = _per_replica(inputs, labels, len(seeds))
    given = as_tensor(groups)
    member = (given if given.ndim == 3 else given.expand(len(seeds), *given.shape)).float()
    if member.ndim != 3 or member.shape[:2] != y.shape:
        raise ValueError(f"groups are (n, groups) or (replicas, n, groups), not {given.shape}")
    counts = member.sum(1)
    if not bool((counts > 0).any(1).all()):
        raise ValueError("all groups are empty")
    odds = (member / counts.clamp(min=1)[:, None]).sum(-1)
    if batch_size is not None:
        member = member / odds.clamp(min=torch.finfo(odds.dtype).tiny)[..., None]
    filled = (counts > 0).float()

    def worst(network: Any, examples: tuple[Tensor, ...], memory: Memory) -> tuple[Tensor, Memory]:
        risks, present = _group_risks(_losses(network(examples[0]), examples[1]), examples[2])
        if step == "max":
            return risks.masked_fill(~present, -torch.inf).amax(), memory
        loss, weights = group_dro(risks, memory["weights"], eta)
        return loss, {"weights": weights}

    return full_batch(
        module, (x, y, member), worst,
        seeds=seeds, steps=steps, learning_rate=learning_rate, weight_decay=2 * l2,
        memory={"weights": filled / filled.sum(1, keepdim=True)} if step == "eg" else None,
        batch_size=batch_size, odds=odds, device=device,
    )  # fmt: skip


def correctness_groups(
    correct: Sequence[Bool[NDArray[np.bool_], "*replicas n"]],
) -> Bool[NDArray[np.bool_], "*replicas n groups"]:
    """Two groups for every network: what it gets right, and what it gets wrong.

    >>> correctness_groups([np.array([True, False, True])]).T
    array([[ True, False,  True],
           [False,  True, False]])
    """
    return np.stack([side for one in correct for side in (one, ~one)], -1)


def split_by_correctness(
    model: nn.Module, inputs: Real[Any, "n ..."], labels: Int[Any, " n"]
) -> Bool[NDArray[np.bool_], " n"]:
    """Where a network, in eval mode, says the label.

    >>> model = nn.Linear(1, 1)
    >>> _ = nn.init.ones_(model.weight), nn.init.zeros_(model.bias)
    >>> split_by_correctness(model, np.array([[1.0], [2.0], [-1.0]], np.float32), [1, 0, 0])
    array([ True, False,  True])
    """
    x = as_tensor(inputs)
    quiet = copy.deepcopy(model).eval()
    with torch.inference_mode():
        like = next(quiet.parameters(), torch.empty(0))
        says = torch.cat([_classes(quiet(prepared(part, like)).cpu()) for part in x.split(4096)])
    return says.numpy() == np.asarray(labels)


def distill_multi_head(
    module: Callable[[int], nn.Module],
    rounds: Sequence[DiscoveryRound],
    inputs: Real[Any, "*replicas n ..."],
    *,
    balance: Literal["agreement", "none"] = "agreement",
    own: bool = False,
    seeds: Sequence[int] = (0,),
    steps: int = 500,
    learning_rate: float = 5e-4,
    l2: float = 1.1e-3,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
) -> Replicas:
    """One featurizer with a head for each round, which learns what that round said of the examples.

    The targets are the rounds' predictions, not the labels: a head on labels would read the
    strongest feature only.

    Args:
        module: builds a `Featurized` from a seed; its head says what each head looks like.
        rounds: of `discover`, with the same seeds.
        inputs: what the rounds learnt from.
        balance: "agreement" trains on n draws with replacement, made once, half from the examples
            that all rounds get right or all get wrong, half from the others; "none" on all.
        own: inputs are (replicas, n, ...), each seed's own.

    Returns:
        Networks `MultiHead(featurizer, heads)`.
    """
    predictions = torch.as_tensor(np.stack([r.predictions for r in rounds], -1))
    correct = np.stack([r.correct for r in rounds], 1)
    x = as_tensor(inputs)
    x = x if own else x.expand(len(seeds), *x.shape)
    if x.shape[:2] != predictions.shape[:2]:
        raise ValueError(f"the rounds saw {tuple(predictions.shape[:2])} (replicas, examples)")
    if balance == "agreement":
        rows = [agreement_rows(c, seed) for c, seed in zip(correct, seeds, strict=True)]
        index = torch.arange(len(seeds))[:, None], torch.as_tensor(np.stack(rows))
        x, predictions = x[index], predictions[index]

    def build(seed: int) -> MultiHead:
        first = module(seed)
        if not isinstance(first, Featurized):
            raise ValueError("module builds a Featurized(featurizer, head)")
        heads = [module(seed + k * _SEEDS_APART).get_submodule("head") for k in range(len(rounds))]
        return MultiHead(first.featurizer, heads)

    def imitate(
        network: Any, examples: tuple[Tensor, ...], memory: Memory
    ) -> tuple[Tensor, Memory]:
        said, logits = examples[1].T, network(examples[0])
        return torch.stack([_losses(*pair).mean() for pair in zip(logits, said, strict=True)]).mean(
            0
        ), memory

    return full_batch(
        build, (x, predictions), imitate,
        seeds=seeds, steps=steps, learning_rate=learning_rate, weight_decay=2 * l2,
        batch_size=batch_size, device=device,
    )  # fmt: skip


def agreement_rows(
    correct: Bool[NDArray[np.bool_], "rounds n"], seed: int
) -> Int[NDArray[np.int64], " n"]:
    """n draws with replacement, half from where all rounds are right or all wrong, half elsewhere.

    Where one of the two is empty all come from the other.

    >>> agreement_rows(np.array([[True, True, False], [True, False, False]]), 0).tolist()[1:]
    [1, 1]
    """
    rng = np.random.default_rng(seed)
    alike, n = correct.all(0) | ~correct.any(0), correct.shape[1]
    sides = [np.flatnonzero(alike), np.flatnonzero(~alike)]
    counts = [n // 2, n - n // 2] if len(sides[0]) and len(sides[1]) else [len(s) for s in sides]
    drawn = [rng.choice(s, c) for s, c in zip(sides, counts, strict=True) if c]
    return np.concatenate(drawn)


def mean_head(heads: Sequence[nn.Module]) -> nn.Linear:
    """A linear layer whose weights and biases are the mean of these layers'.

    >>> heads = [nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)]
    >>> _ = nn.init.constant_(heads[0].weight, 1.0), nn.init.constant_(heads[1].weight, 3.0)
    >>> mean_head(heads).weight.item()
    2.0
    """
    linear = [head for head in heads if isinstance(head, nn.Linear)]
    if not heads or len(linear) != len(heads):
        raise ValueError("the mean is of linear layers, at least one")
    mean = copy.deepcopy(linear[0])
    with torch.no_grad():
        for name, parameter in mean.named_parameters():
            parameter.copy_(torch.stack([head.get_parameter(name) for head in linear]).mean(0))
    return mean


def hand_over(distilled: Replicas) -> list[Featurized]:
    """For every seed the distilled featurizer under the mean of its heads, to train from."""
    found = []
    for i in range(len(distilled)):
        model = distilled.module(i)
        if not isinstance(model, MultiHead):
            raise ValueError("networks of distill_multi_head are handed over")
        found.append(Featurized(model.body, mean_head(list(model.heads))))
    return found


def fit_penalised(
    module: Start,
    inputs: Real[Any, "*replicas n ..."],
    labels: Int[Any, "*replicas n"],
    domains: Int[Any, "*replicas n"],
    *,
    penalty: str | Penalty | None = "vrex",
    weight: float | Sequence[float] = 1e4,
    frozen: bool = False,
    seeds: Sequence[int] = (0,),
    steps: int = 1000,
    learning_rate: float = 5e-4,
    l2: float = 1.1e-3,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
) -> Replicas:
    """Train `Featurized` networks for the sum of the domains' risks and a penalty.

    The loss is Σ_e risk_e + l2·‖θ‖² + weight·penalty, all divided by the weight where that is above
    1; l2 counts for less by as much. Domains of different size are cut at random to the smallest.

    Args:
        module: builds a start from a seed, or one network or one for each seed to start from.
        inputs, labels: see `discover`.
        domains: ids, (n,) or (replicas, n).
        penalty: of `domain_penalty`, or a function like those; None: the risks alone. IGA and Fishr
            look at the head's gradients only.
        weight: one, or one for each seed; repeat seeds to train several weights together.
        frozen: train the head alone, on features that are computed once.
        batch_size: examples of each domain and step, drawn with replacement; None: all.

    Raises:
        ValueError: where `module` is no `Featurized`, or shapes do not fit.
    """
    x, y = _per_replica(inputs, labels, len(seeds))
    rows = torch.as_tensor(_domain_rows(domains, y, seeds))
    models = [model for model in starts(module, seeds) if isinstance(model, Featurized)]
    if len(models) < len(seeds):
        raise ValueError("the network is a Featurized(featurizer, head)")
    measure = domain_penalty(penalty) if isinstance(penalty, str) else penalty
    count = len(seeds)
    weights = torch.as_tensor(weight, dtype=torch.float32).expand(count)
    index = torch.arange(count)[:, None, None], rows
    if frozen:
        features = _own_features(models, x, device)[index]
        networks: list[nn.Module] = [_Both(nn.Identity(), model.head) for model in models]
    else:
        features, networks = x[index], [_Both(model.featurizer, model.head) for model in models]

    def risk(network: Any, examples: tuple[Tensor, ...], memory: Memory) -> tuple[Tensor, Memory]:
        inputs, targets = examples[0], examples[1].T
        features, logits = network(inputs.transpose(0, 1).flatten(0, 1))
        by_domain = [v.unflatten(0, (inputs.shape[1], -1)) for v in (logits, features)]
        risks = domain_risks(by_domain[0], targets)
        if measure is None:
            return risks.sum(), memory
        extra = measure(by_domain[0], targets, by_domain[1])
        return penalised(risks, extra, memory["weight"], normalise=True), memory

    shrunk = weights.clamp(min=1) if measure is not None else torch.ones(count)
    found = full_batch(
        networks, (features, y[index]), risk,
        seeds=seeds, steps=steps, learning_rate=learning_rate,
        weight_decay=(2 * l2 / shrunk).tolist(), memory={"weight": weights},
        batch_size=batch_size, device=device,
    )  # fmt: skip
    heads = [found.module(i).get_submodule("head") for i in range(count)]
    bodies = [model.featurizer for model in models]
    if not frozen:
        bodies = [found.module(i).get_submodule("featurizer") for i in range(count)]
    pairs = zip(bodies, heads, strict=True)
    whole = [Featurized(copy.deepcopy(body), head).cpu() for body, head in pairs]
    parameters, buffers = stack_module_state(whole)
    parameters = {name: tensor.detach() for name, tensor in parameters.items()}
    return Replicas(whole[0], parameters, buffers, found.losses)


def predict_then_interpolate(
    module: Callable[[int], nn.Module],
    inputs: Real[Any, "*replicas n ..."],
    labels: Int[Any, "*replicas n"],
    domains: Int[Any, "*replicas n"],
    *,
    seeds: Sequence[int] = (0,),
    first_steps: int = 50,
    steps: int = 500,
    learning_rate: float = 5e-4,
    l2: float = 1.1e-3,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    released_behaviour: bool = False,
) -> Replicas:
    """PI: what transfers between domains is taken for spurious.

    One classifier for each domain splits every other domain into what it gets right and wrong; a
    fresh network is trained for the worst of these groups. Arguments as `discover` and
    `fit_penalised`.

    Args:
        released_behaviour: each classifier splits its own domain, as the script of Rich Feature
            Construction does.

    Raises:
        ValueError: for fewer than two domains, or shapes that do not fit.

    Source: Bao, Chang and Barzilay 2021 (arXiv 2105.12628).
    """
    x, y = _per_replica(inputs, labels, len(seeds))
    given = np.asarray(domains)
    names, codes = np.unique(given, return_inverse=True)
    if given.shape not in (y.shape, y.shape[1:]):
        raise ValueError(f"domains are (n,) or (replicas, n), not {given.shape}")
    if len(names) < 2 and not released_behaviour:
        raise ValueError("a classifier of one domain splits another: two domains or more")
    where = torch.from_numpy(codes.reshape(given.shape)).expand(y.shape)
    shared: dict[str, Any] = {
        "learning_rate": learning_rate, "l2": l2, "batch_size": batch_size, "device": device,
    }  # fmt: skip
    groups = []
    for k in range(len(names)):
        fitted = fit_group_dro(
            module, x, y, (where == k)[..., None],
            seeds=[seed + k * _SEEDS_APART for seed in seeds], steps=first_steps, **shared,
        )  # fmt: skip
        right = _classes(own_logits(fitted, x)) == y
        for other in [k] if released_behaviour else [n for n in range(len(names)) if n != k]:
            groups += [(where == other) & right, (where == other) & ~right]
    fresh = [seed + len(names) * _SEEDS_APART for seed in seeds]
    return fit_group_dro(
        module, x, y, torch.stack(groups, -1), seeds=fresh, steps=steps, **shared
    )  # fmt: skip


@torch.inference_mode()
def own_logits(
    networks: Replicas, inputs: Real[Any, "replicas n ..."], *, chunk: int = 4096
) -> Float[Tensor, "replicas n classes"]:
    """What every network, in eval mode, says of its own inputs, on the CPU."""
    skeleton = copy.deepcopy(networks.skeleton).eval()
    state = {**networks.parameters, **networks.buffers}
    like = next(iter(networks.parameters.values()))
    every = vmap(lambda state, x: functional_call(skeleton, state, (x,)))
    parts = as_tensor(inputs).split(chunk, 1)
    return torch.cat([every(state, prepared(part, like)).cpu() for part in parts], -2)


class _Both(nn.Module):
    """Features and logits, with the names of parameters that `Featurized` has."""

    def __init__(self, featurizer: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.featurizer, self.head = featurizer, head

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.featurizer(inputs)
        return features, self.head(features)


def _losses(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Cross-entropy of each example, in nats; one column is the logit of class 1."""
    if logits.shape[-1] == 1:
        return nn.functional.softplus(logits[:, 0]) - labels * logits[:, 0]
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def _classes(logits: Float[Tensor, "*batch classes"]) -> Int[Tensor, "*batch"]:
    return (logits[..., 0] > 0).long() if logits.shape[-1] == 1 else logits.argmax(-1)


def _group_risks(
    losses: Float[Tensor, " n"], member: Float[Tensor, "n groups"]
) -> tuple[Float[Tensor, " groups"], Bool[Tensor, " groups"]]:
    """Each group's weighted mean loss (0 for an empty one), and which groups have examples."""
    size = member.sum(0)
    present = size > 0
    return losses @ member / torch.where(present, size, 1), present


def _per_replica(inputs: Any, labels: Any, count: int) -> tuple[Tensor, Tensor]:
    """Inputs (replicas, n, ...) and labels (replicas, n)."""
    try:
        x, y = as_tensor(inputs), as_tensor(labels).long()
    except TypeError as error:  # texts
        raise ValueError("inputs are numbers and labels class ids from 0: number them") from error
    if y.numel() == 0 or int(y.min()) < 0:
        raise ValueError("labels are class ids from 0, of one example at least")
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise ValueError("inputs have NaN or infinite values: drop or fill such examples")
    if y.ndim == 1:
        x, y = x.expand(count, *x.shape), y.expand(count, *y.shape)
    if y.ndim != 2 or len(y) != count or x.shape[:2] != y.shape:
        raise ValueError(
            f"inputs {tuple(x.shape)} and labels {tuple(y.shape)} do not fit {count} seeds"
        )
    return x, y


def _domain_rows(
    domains: Any, labels: Tensor, seeds: Sequence[int]
) -> Int[NDArray[np.int64], "replicas examples domains"]:
    """Rows of every domain side by side, as many as the smallest domain has."""
    given = np.asarray(domains)
    each = given if given.ndim == 2 else np.broadcast_to(given, (len(seeds), *given.shape))
    if each.shape != tuple(labels.shape):
        raise ValueError(f"domains are (n,) or (replicas, n), not {given.shape}")
    names = np.unique(each)
    least = min(int((own == name).sum()) for own in each for name in names)
    if least == 0:
        raise ValueError("every seed has examples of every domain")
    rows = []
    for own, seed in zip(each, seeds, strict=True):
        rng = np.random.default_rng(seed)
        rows.append([rng.permutation(np.flatnonzero(own == name))[:least] for name in names])
    return np.array(rows).transpose(0, 2, 1)


@torch.inference_mode()
def _own_features(
    models: Sequence[Featurized], inputs: Tensor, device: str | torch.device | None
) -> Float[Tensor, "replicas n features"]:
    """What every model's featurizer, in eval mode, makes of its own inputs."""
    found = []
    for model, own in zip(models, inputs, strict=True):
        body = copy.deepcopy(model.featurizer).eval().to(device or own.device)
        like = next(body.parameters(), torch.empty(0, device=device or own.device))
        found.append(torch.cat([body(prepared(part, like)).cpu() for part in own.split(4096)]))
    return torch.stack(found).clone()
