"""An optimiser that trains a network and empties a chosen share of its channels on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from generality.weights.channel_groups import ChannelGroup, stacked

Base = Literal["sgd", "adam", "adamw"]


class DHSPG(torch.optim.Optimizer):
    """Dual half-space projected gradient: plain steps first, then some channels shrink to zero.

    Up to `start_step` it is its base optimiser. There the channels are scored once: those that the
    loss wants smaller anyway (the cosine of weights and step) and those of small weights come
    first, and the first `target_group_sparsity + tolerance` of all are penalised. From then on a
    penalised channel x takes the step x̂ = x − lr·g − lr·λ·x/‖x‖, where λ grows when the loss pulls
    the channel outwards; it becomes zero, for good, when x̂·x < eps·‖x‖². Once the share of zero
    channels reaches the target only plain steps remain. `remove_channels` then cuts the zero
    channels out exactly.

    Args:
        parameters: `model.named_parameters()`; all of them are trained, at one learning rate.
        groups: from `channel_groups`; channels outside them are never emptied.
        lr: the base optimiser's; a scheduler may change it.
        base: what gives the step g, weight decay included: SGD with momentum, Adam, AdamW.
        target_group_sparsity: the share of all channels in `groups` to empty, in [0, 1); with
            `even` also one share for each group.
        start_step: how many plain steps come first.
        lam: λ, one for all or one for each group; by default 1e-3 for SGD, 1e-2 for Adam and AdamW.
        amplify: times the λ that just balances an outward pull; by default 2 (SGD) or 20.
        coefficient: λ never exceeds this times `lam`; by default 10 (SGD) or 1000.
        eps: 0 zeroes a channel when a step turns it round, 0.95 when it shrinks by 5 %.
        tolerance: how much larger the penalised share is than the target.
        group_divisible: every layer keeps a multiple of this many channels, and at least one.
        even: every group has its share to empty and is done by itself, as for a model that states
            one width for all its layers; otherwise the scores decide over all groups together.

    Source: Chen et al. 2023 (OTOv2, arXiv 2303.06862), algorithm 3, with the defaults of the
    released code. The released code keeps the momentum of a zeroed channel; here it is cleared
    with the channel, so that it cannot revive.

    Raises:
        ValueError: no groups, a target outside [0, 1), a group whose parameters are not given (or
            frozen), parameters without names, or another base.

    >>> from generality.weights import channel_groups
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> groups = channel_groups(net, (torch.zeros(1, 4),))
    >>> optimizer = DHSPG(net.named_parameters(), groups, lr=0.1, target_group_sparsity=0.5,
    ...                   start_step=2, lam=0.5)
    >>> for _ in range(40):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(16, 4)).square().mean().backward()
    ...     _ = optimizer.step()
    >>> optimizer.group_sparsity() >= 0.5
    True
    """

    def __init__(
        self,
        parameters: Sequence[tuple[str, nn.Parameter]] | Any,
        groups: Sequence[ChannelGroup],
        *,
        lr: float,
        target_group_sparsity: float | Sequence[float],
        start_step: int,
        base: Base = "sgd",
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        lam: float | Sequence[float] | None = None,
        amplify: float | None = None,
        coefficient: float | None = None,
        eps: float = 0.95,
        tolerance: float = 0.05,
        group_divisible: int = 1,
        even: bool = False,
    ) -> None:
        if base not in get_args(Base):
            raise ValueError(f"base is one of {', '.join(get_args(Base))}, not '{base}'")
        parameters = list(parameters)
        if any(isinstance(each, Tensor) for each in parameters):
            raise ValueError("give model.named_parameters(), for groups go by names")
        self.named = {name: p for name, p in parameters if p.requires_grad}
        missing = [name for group in groups for name in group.made if name not in self.named]
        if not groups or missing:
            what = (
                f"'{missing[0]}' of a group is not among the parameters" if missing else "no groups"
            )
            raise ValueError(f"{what}: give the model's named parameters and its channel groups")
        self.targets = _each(target_group_sparsity, len(groups))
        if not all(0 <= target < 1 for target in self.targets):
            raise ValueError(f"the target is a share in [0, 1), not {target_group_sparsity}")
        if not even and len(set(self.targets)) > 1:
            raise ValueError("a target for each group needs even=True")
        sgd = base == "sgd"
        super().__init__(
            self.named.values(),
            {
                "lr": lr,
                "base": base,
                "momentum": momentum,
                "betas": betas,
                "weight_decay": weight_decay,
                "lam": (1e-3 if sgd else 1e-2) if lam is None else lam,
                "amplify": (2.0 if sgd else 20.0) if amplify is None else amplify,
                "coefficient": (10.0 if sgd else 1e3) if coefficient is None else coefficient,
                "eps": eps,
            },
        )
        self.groups = list(groups)
        self.start_step = start_step
        self.tolerance = tolerance
        self.group_divisible = group_divisible
        self.even = even
        self.steps = 0
        self.penalised: list[Bool[Tensor, " channels"]] = []

    def group_sparsity(self) -> float:
        """The share of channels that are zero, over all groups."""
        return _share(self.zero_channels())

    def zero_channels(self) -> list[Bool[Tensor, " channels"]]:
        """For each group the channels that are zero: what `remove_channels` takes."""
        return [(stacked(group, self.named) == 0).all(1) for group in self.groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. Returns what `closure` returns, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        directions = {name: self._direction(p) for name, p in self.named.items()}
        plain = self.steps < self.start_step
        before = [] if plain else [stacked(group, self.named) for group in self.groups]
        moves = [] if plain else [stacked(group, directions) for group in self.groups]
        if self.steps == self.start_step:
            self.penalised = self._partition(before, moves)
        self.steps += 1
        options = self.param_groups[0]
        lams = _each(options["lam"], len(self.groups))
        for name, parameter in self.named.items():
            parameter.sub_(options["lr"] * directions[name])
        if plain:
            return loss
        empty = [(x == 0).all(1) for x in before]
        reached = _share(empty)
        for group, x, g, zero, penalised, target, lam in zip(
            self.groups, before, moves, empty, self.penalised, self.targets, lams, strict=True
        ):
            shrinking = (_share([zero]) if self.even else reached) < target
            active = penalised & ~zero if shrinking else torch.zeros_like(zero)
            if active.any():
                trial = half_space_step(x[active], g[active], lam=lam, **_half_space(options))
                self._write(group, active, trial)
                zero[active] = (trial == 0).all(1)
            self._forget(group, zero)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The base optimiser's state, the step, and which channels are penalised."""
        return {**super().state_dict(), "steps": self.steps, "penalised": self.penalised}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.steps, self.penalised = state_dict["steps"], list(state_dict["penalised"])
        super().load_state_dict({k: state_dict[k] for k in ("state", "param_groups")})

    def _direction(self, parameter: nn.Parameter) -> Tensor:
        """What the base optimiser would subtract, over the learning rate."""
        options, state = self.param_groups[0], self.state[parameter]
        if parameter.grad is None:
            return torch.zeros_like(parameter)
        gradient, decay = parameter.grad, options["weight_decay"] * parameter
        if options["base"] != "adamw":
            gradient = gradient + decay
        state["step"] = state.get("step", 0) + 1
        if options["base"] == "sgd":
            moment = state.setdefault("momentum", torch.zeros_like(parameter))
            return moment.mul_(options["momentum"]).add_(gradient).clone()
        first, second = options["betas"]
        mean = state.setdefault("mean", torch.zeros_like(parameter))
        square = state.setdefault("square", torch.zeros_like(parameter))
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = math.sqrt(1 - second ** state["step"]) / (1 - first ** state["step"])
        move = scale * mean / (square.sqrt() + 1e-8)
        return move + decay if options["base"] == "adamw" else move

    def _partition(
        self, weights: Sequence[Tensor], moves: Sequence[Tensor]
    ) -> list[Bool[Tensor, " channels"]]:
        scores = channel_scores(weights, moves)
        if self.even:
            bars = [self._bar(s, target) for s, target in zip(scores, self.targets, strict=True)]
        else:
            bars = [self._bar(torch.cat(scores), self.targets[0])] * len(scores)
        chosen = []
        for score, bar in zip(scores, bars, strict=True):
            kept = max(int((score < bar).sum()), 1)
            kept = min(math.ceil(kept / self.group_divisible) * self.group_divisible, len(score))
            mask = torch.zeros_like(score, dtype=torch.bool)
            mask[score.argsort(descending=True)[: len(score) - kept]] = True
            chosen.append(mask)
        return chosen

    def _bar(self, scores: Float[Tensor, " channels"], target: float) -> float:
        """The score from which channels are penalised."""
        wanted = min(round((target + self.tolerance) * len(scores)), len(scores))
        return float(scores.topk(wanted).values[-1]) if wanted else math.inf

    def _write(self, group: ChannelGroup, active: Tensor, channels: Tensor) -> None:
        start = 0
        for name, rows in group.made.items():
            parameter, here = self.named[name], rows[active.to(rows.device)].flatten()
            width = parameter[0].numel() * rows.shape[1]
            part = channels[:, start : start + width]
            parameter[here] = part.reshape(len(here), *parameter.shape[1:])
            start += width

    def _forget(self, group: ChannelGroup, zero: Tensor) -> None:
        """Zero channels stay zero, and so do their moments."""
        for name, rows in group.made.items():
            here = rows[zero.to(rows.device)].flatten()
            self.named[name][here] = 0
            for value in self.state[self.named[name]].values():
                if isinstance(value, Tensor):
                    value[here] = 0


def half_space_step(
    x: Float[Tensor, "channels entries"],
    g: Float[Tensor, "channels entries"],
    *,
    lr: float,
    lam: float,
    amplify: float,
    coefficient: float,
    eps: float,
) -> Float[Tensor, "channels entries"]:
    """One penalised step of nonzero channels; those that leave their half-space come back zero.

    >>> x, g = torch.tensor([[0.3, 0.4], [0.03, 0.04]]), torch.tensor([[-1.0, 0.0], [0.2, 0.5]])
    >>> half_space_step(x, g, lr=0.1, lam=1e-3, amplify=2, coefficient=10, eps=0.95)
    tensor([[0.3994, 0.3992],
            [0.0000, 0.0000]])
    """
    norm = x.norm(dim=1)
    along = (x * g).sum(1)
    outward = along < 0  # a plain step would lengthen the channel
    pull = torch.where(outward, along, -torch.ones_like(along))
    least, most = -pull / norm, -g.square().sum(1) * norm / pull
    strength = (amplify * least).clamp(lam, lam * coefficient)
    strength = torch.where(strength >= most, (least + most) / 2, strength)
    strength = torch.where(outward, strength, torch.full_like(strength, lam))
    trial = x - lr * g - lr * (strength / norm)[:, None] * x
    kept = (trial * x).sum(1) >= eps * norm.square()
    return torch.where(kept[:, None], trial, torch.zeros_like(trial))


def channel_scores(
    weights: Sequence[Float[Tensor, "channels entries"]],
    moves: Sequence[Float[Tensor, "channels entries"]],
) -> list[Float[Tensor, " channels"]]:
    """How willingly each channel goes: half the cosine with its step, half its smallness.

    Both are divided by their l2 norm over all channels of all groups before they are averaged.
    """
    cosine = [torch.cosine_similarity(x, g, dim=1) for x, g in zip(weights, moves, strict=True)]
    small = [1 / (x.norm(dim=1) / x.shape[1] + 1e-6) for x in weights]
    parts = [
        [s / torch.cat(part).norm().clamp_min(1e-12) for s in part] for part in (cosine, small)
    ]
    return [0.5 * a + 0.5 * b for a, b in zip(*parts, strict=True)]


def _share(masks: Sequence[Bool[Tensor, " channels"]]) -> float:
    return sum(int(mask.sum()) for mask in masks) / sum(len(mask) for mask in masks)


def _half_space(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: options[k] for k in ("lr", "amplify", "coefficient", "eps")}


def _each(value: float | Sequence[float], count: int) -> list[float]:
    """One for each group; raises ValueError where there are not as many."""
    found = list(value) if isinstance(value, Sequence) else [value] * count
    if len(found) != count:
        raise ValueError(f"{len(found)} values for {count} groups of channels")
    return found
