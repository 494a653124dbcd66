"""Ways to a network with fewer channels, under one training budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from generality.weights.channel_groups import (
    ChannelGroup,
    channel_groups,
    channel_norms,
    remove_channels,
    stacked,
    verify_equivalence,
)
from generality.weights.dhspg import DHSPG


@dataclass(frozen=True)
class Budget:
    """SGD with momentum, its rate divided by ten at 60 % and 85 % of the epochs.

    Attributes:
        epochs: passes over the images, in all.
        start: epochs before pruning starts.
        batch: images a step.
        learning_rate: at first.
        momentum: of SGD.
        weight_decay: L2, in the gradient.
        lam: λ of DHSPG.
        lasso: λ of the group lasso.
        eps: of DHSPG's half-space.
    """

    epochs: int = 20
    start: int = 4
    batch: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    lam: float = 1e-3
    lasso: float = 1e-3
    eps: float = 0.95


@dataclass
class ChannelPruning:
    """One network, its images and its groups of channels; every method starts from the seed.

    Attributes:
        network: called with torch freshly seeded; a classifier of images.
        images, labels: to train on.
        budget: the same for every method.
        seed: of the weights and of the order of images.

    >>> network = lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> images, labels = torch.randn(32, 4), torch.arange(32) % 2
    >>> task = ChannelPruning(network, images, labels, Budget(epochs=2, start=1), seed=0)
    >>> small, masks = task.one_shot(task.dense(), 0.5)
    >>> small[0].out_features
    4
    """

    network: Callable[[], nn.Module]
    images: Float[Tensor, "n ..."]
    labels: Int[Tensor, " n"]
    budget: Budget
    seed: int
    groups: list[ChannelGroup] = field(init=False)

    def __post_init__(self) -> None:
        self.groups = channel_groups(self.fresh(), (self.images[:1],))

    def fresh(self) -> nn.Module:
        """The network as the seed makes it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.network()

    def dense(self, epochs: int | None = None) -> nn.Module:
        """Trained whole, for all epochs or fewer."""
        model = self.fresh()
        self._train(model, self._sgd(model), range(epochs or self.budget.epochs))
        return model

    def dhspg(self, target: float, **options: Any) -> tuple[nn.Module, list[Tensor], nn.Module]:
        """OTOv2: (the smaller network, the empty channels, the full network they are empty in)."""
        model, budget = self.fresh(), self.budget
        optimizer = DHSPG(
            model.named_parameters(), self.groups, lr=budget.learning_rate,
            momentum=budget.momentum, weight_decay=budget.weight_decay, eps=budget.eps,
            lam=budget.lam, target_group_sparsity=target,
            start_step=budget.start * self.steps, **options,
        )  # fmt: skip
        self._train(model, optimizer, range(budget.epochs))
        masks = optimizer.zero_channels()
        return remove_channels(model, self.groups, masks), masks, model

    def one_shot(self, model: nn.Module, target: float) -> tuple[nn.Module, list[Tensor]]:
        """The channels of smallest norm, over all groups, cut out of a trained network."""
        norms = [channel_norms(group, dict(model.named_parameters())) for group in self.groups]
        masks = lowest(norms, target)
        return remove_channels(model, self.groups, masks), masks

    def fine_tuned(self, target: float) -> nn.Module:
        """Trained whole up to the start of pruning, cut by magnitude, trained for what is left."""
        small, _ = self.one_shot(self.dense(self.budget.start), target)
        self._train(small, self._sgd(small), range(self.budget.start, self.budget.epochs))
        return small

    def group_lasso(self, target: float) -> nn.Module:
        """SGD with λ·Σ‖channel‖ from the start of pruning on, then the smallest cut out."""
        model, budget = self.fresh(), self.budget

        def lasso() -> Tensor:
            named = dict(model.named_parameters())
            return budget.lasso * sum(stacked(g, named).norm(dim=1).sum() for g in self.groups)

        optimizer = self._sgd(model)
        self._train(model, optimizer, range(budget.start))
        self._train(model, optimizer, range(budget.start, budget.epochs), penalty=lasso)
        return self.one_shot(model, target)[0]

    def from_scratch(self, masks: Sequence[Bool[Tensor, " channels"]]) -> nn.Module:
        """A network of the widths that the masks leave, trained from random weights."""
        small = remove_channels(self.fresh(), self.groups, masks)
        self._train(small, self._sgd(small), range(self.budget.epochs))
        return small

    def difference(self, full: nn.Module, small: nn.Module) -> float:
        """The largest difference of their outputs on the first images."""
        return verify_equivalence(full, small, (self.images[:64],), atol=float("inf"))

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return -(-len(self.images) // self.budget.batch)

    def _sgd(self, model: nn.Module) -> torch.optim.Optimizer:
        budget = self.budget
        return torch.optim.SGD(
            model.parameters(), budget.learning_rate, momentum=budget.momentum,
            weight_decay=budget.weight_decay,
        )  # fmt: skip

    def _train(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        epochs: range,
        *,
        penalty: Callable[[], Tensor] | None = None,
    ) -> None:
        """These epochs of the schedule; the order of images depends on seed and epoch only."""
        model.train()
        for epoch in epochs:
            passed = sum(epoch >= share * self.budget.epochs for share in (0.6, 0.85))
            for group in optimizer.param_groups:
                group["lr"] = self.budget.learning_rate * 0.1**passed
            order = torch.Generator().manual_seed(self.seed * 1000 + epoch)
            for rows in torch.randperm(len(self.images), generator=order).split(self.budget.batch):
                loss = nn.functional.cross_entropy(model(self.images[rows]), self.labels[rows])
                if penalty is not None:
                    loss = loss + penalty()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        model.eval()


def lowest(scores: Sequence[Float[Tensor, " channels"]], share: float) -> list[Tensor]:
    """Masks of the lowest share of all scores together; every group keeps its best channel.

    >>> lowest([torch.tensor([1.0, 5.0]), torch.tensor([2.0, 3.0, 4.0])], 0.4)
    [tensor([ True, False]), tensor([ True, False, False])]
    """
    count = round(share * sum(len(score) for score in scores))
    spared = [score.clone().index_fill(0, score.argmax(), float("inf")) for score in scores]
    order = torch.cat(spared).argsort()[:count]
    mask = torch.zeros(sum(len(score) for score in scores), dtype=torch.bool)
    mask[order] = True
    mask &= torch.cat(spared).isfinite()
    return list(mask.split([len(score) for score in scores]))
