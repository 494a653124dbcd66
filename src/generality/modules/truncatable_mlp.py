"""A one-hidden-layer network whose last units can be switched off at test time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.models import sklearn_mlp


class TruncatableMLP(nn.Sequential):
    """Linear, activation, Linear, of which only the first `active_units` hidden units are used.

    It is an ordinary `nn.Sequential`: with all units active it computes what its three layers do.
    With fewer, the hidden units beyond are not computed, and the output bias is the one that
    belongs to so many units: a boosted network's partial sum, or (see `from_mlp`) the bias that
    takes up the mean of the units left out.

    Source: Emami and Martínez-Muñoz 2023 (IEEE Access 11; arXiv 1909.12098): units are kept in the
    order in which boosting trained them. `from_mlp` is the control, for networks trained as a
    whole.

    Args:
        hidden: from features (d) to hidden units (H).
        output: from hidden units to outputs (K).
        partial_biases: (S + 1, K), row s being the output bias with the first s·H/S units; the
            last row replaces the bias of `output`. None: the same bias whatever is switched off.
        activation: between the two; `nn.Sigmoid()` by default.

    Raises:
        ValueError: for layers and biases that do not fit together.

    >>> net = TruncatableMLP(nn.Linear(3, 4), nn.Linear(4, 2))
    >>> full = net(torch.ones(1, 3))
    >>> net.active_units = 2
    >>> net(torch.ones(1, 3)).shape, bool((net(torch.ones(1, 3)) != full).any())
    (torch.Size([1, 2]), True)
    """

    partial_biases: Tensor

    def __init__(
        self,
        hidden: nn.Linear,
        output: nn.Linear,
        partial_biases: Float[Tensor, "stages outputs"] | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        if hidden.out_features != output.in_features:
            raise ValueError(
                f"hidden gives {hidden.out_features} units and output takes {output.in_features}"
            )
        if output.bias is None or hidden.bias is None:
            raise ValueError("both layers need a bias")
        if partial_biases is None:
            partial_biases = output.bias.detach().expand(hidden.out_features + 1, -1)
        if partial_biases.ndim != 2 or partial_biases.shape[1] != output.out_features:
            raise ValueError(f"partial_biases are (stages + 1, {output.out_features})")
        stages = len(partial_biases) - 1
        if stages < 1 or hidden.out_features % stages:
            raise ValueError(f"{hidden.out_features} units cannot be cut into {stages} stages")
        super().__init__(hidden, activation if activation is not None else nn.Sigmoid(), output)
        self.register_buffer("partial_biases", partial_biases.detach().clone())
        self.units_per_stage = hidden.out_features // stages
        self._active = hidden.out_features
        with torch.no_grad():
            output.bias.copy_(self.partial_biases[-1])

    @classmethod
    def from_sklearn(cls, model: Any, **options: Any) -> TruncatableMLP:
        """`from_mlp` of a fitted `MLPClassifier` or `MLPRegressor` of one logistic hidden layer.

        Its outputs are logits (one for two classes), in float64. Raises ValueError for others.
        """
        if len(model.coefs_) != 2 or model.activation != "logistic":
            raise ValueError("the network has one hidden layer, of activation 'logistic'")
        layers: Any = sklearn_mlp(model, dtype=torch.float64)
        return cls.from_mlp(layers[0], layers[2], **options)

    @classmethod
    def from_mlp(
        cls,
        hidden: nn.Linear,
        output: nn.Linear,
        *,
        order: Sequence[int] | Any,
        means: Float[Tensor, " units"] | None = None,
        activation: nn.Module | None = None,
    ) -> TruncatableMLP:
        """A network trained as a whole, its units in the order in which they are to be kept.

        Args:
            hidden: its first layer; it is copied.
            output: its second layer; it is copied.
            order: every unit once, the one kept longest first.
            means: of each unit's activation over training data: a unit left out is replaced by
                its mean, the fairer control; None replaces it by 0.
            activation: between the two; `nn.Sigmoid()` by default.

        >>> body, head = nn.Linear(3, 4), nn.Linear(4, 2)
        >>> x = torch.ones(1, 3)
        >>> net = TruncatableMLP.from_mlp(body, head, order=[3, 1, 0, 2])
        >>> torch.allclose(net(x), head(body(x).sigmoid()))
        True
        """
        rows = torch.as_tensor(order, dtype=torch.long)
        if rows.sort().values.tolist() != list(range(hidden.out_features)):
            raise ValueError(f"order names each of the {hidden.out_features} units once")
        first = nn.Linear(hidden.in_features, len(rows), dtype=hidden.weight.dtype)
        second = nn.Linear(len(rows), output.out_features, dtype=output.weight.dtype)
        with torch.no_grad():
            first.weight.copy_(hidden.weight[rows])
            first.bias.copy_(hidden.bias[rows])
            second.weight.copy_(output.weight[:, rows])
            second.bias.copy_(output.bias)
            replaced = torch.zeros(len(rows)) if means is None else torch.as_tensor(means)[rows]
            shares = (second.weight * replaced.to(second.weight)).flip(1).cumsum(1).flip(1).T
            biases = torch.cat([shares, shares.new_zeros(1, second.out_features)]) + second.bias
        return cls(first, second, biases, activation)

    def reordered(self, stages: Sequence[int] | Any) -> TruncatableMLP:
        """A copy that keeps its stages in another order, each with its part of the bias.

        >>> net = TruncatableMLP(nn.Linear(3, 4), nn.Linear(4, 2))
        >>> torch.allclose(net.reordered([2, 0, 3, 1])(torch.ones(3)), net(torch.ones(3)))
        True
        """
        layers: Any = copy.deepcopy(list(self))
        hidden, activation, output = layers
        order = torch.as_tensor(stages, dtype=torch.long)
        size, biases = self.units_per_stage, self.partial_biases
        if order.sort().values.tolist() != list(range(len(biases) - 1)):
            raise ValueError(f"stages names each of the {len(biases) - 1} stages once")
        rows = (order[:, None] * size + torch.arange(size)).flatten()
        with torch.no_grad():
            for tensor in (hidden.weight, hidden.bias, output.weight.T):
                tensor.copy_(tensor[rows])
        steps = torch.cat([biases[:1], biases.diff(dim=0)[order]])
        return type(self)(hidden, output, steps.cumsum(0), activation)

    def __getitem__(self, index: Any) -> Any:
        """A layer, or for a slice a plain `nn.Sequential` of layers: whole, whatever is active.

        >>> net = TruncatableMLP(nn.Linear(3, 4), nn.Linear(4, 2))
        >>> net[:2](torch.ones(1, 3)).shape  # the hidden units
        torch.Size([1, 4])
        """
        layers: Any = list(self)
        return nn.Sequential(*layers[index]) if isinstance(index, slice) else layers[index]

    @property
    def units(self) -> int:
        """Hidden units in all."""
        return self.units_per_stage * (len(self.partial_biases) - 1)

    @property
    def active_units(self) -> int:
        """Hidden units in use, from 0 to `units` in steps of `units_per_stage`."""
        return self._active

    @active_units.setter
    def active_units(self, count: int) -> None:
        if not 0 <= count <= self.units or count % self.units_per_stage:
            raise ValueError(
                f"active_units is a multiple of {self.units_per_stage} up to {self.units},"
                f" not {count}"
            )
        self._active = int(count)

    def forward(self, inputs: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch outputs"]:
        """Outputs (logits, or the regression's value) of the active part."""
        layers: Any = self
        hidden, activation, output = layers
        if self._active == self.units:
            full: Tensor = output(activation(hidden(inputs)))
            return full
        bias = self.partial_biases[self._active // self.units_per_stage]
        kept = nn.functional.linear(
            inputs, hidden.weight[: self._active], hidden.bias[: self._active]
        )
        return nn.functional.linear(activation(kept), output.weight[:, : self._active], bias)
