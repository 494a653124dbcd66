"""A small learnt function that reshapes a gradient before a step is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class GradientRegulator(nn.Module):
    """R(g) = z·g + (1 − z)·u, with u a low-rank transformation of g rescaled to the length of g.

    u goes through `layers` layers x → U V x + b with ReLU between them. U starts as the transpose
    of an orthonormal V, so each layer starts as a projection and R(g) as a descent direction. The
    gate z in (0, 1) looks at `context`, the mean support representation; it starts at 1/2.

    Args:
        dim: width of a gradient's rows, as of one prompt token.
        rank: of the layers, at most `dim`.
        layers: low-rank layers, at least 1.
        gate_dim: width of the context; None: the gate is one learnt number.
        norm: "row_l2" gives every row of u the length of its row of g; "l2" the whole of u that
            of the whole of g.
        released_behaviour: as SUPMER's code: a ReLU after the last layer too, which leaves u no
            negative entry and can turn it against g; ordinary starting weights; and where the ReLU
            leaves a row empty, u stays 0. By default such a row falls back to g.

    Raises:
        ValueError: an unknown norm, layers below 1, a rank outside 1 … dim.

    Source: the regulating function of GRAM (Li et al. 2023, arXiv 2303.06571), in the form of its
    sibling for texts, SUPMER, whose code is public. Gate: two layers, 24 units. Its optional
    auxiliary loss on z and its running statistics of gradients are left out.

    >>> regulator = GradientRegulator(dim=8, rank=4)
    >>> gradient = torch.randn(3, 8)
    >>> torch.allclose(regulator.mix(gradient, torch.tensor(1.0)), gradient)
    True
    >>> lengths = regulator.mix(gradient, torch.tensor(0.0)).norm(dim=-1)
    >>> torch.allclose(lengths, gradient.norm(dim=-1))
    True
    """

    def __init__(
        self,
        dim: int,
        rank: int = 32,
        layers: int = 1,
        gate_dim: int | None = None,
        norm: Literal["row_l2", "l2"] = "row_l2",
        *,
        released_behaviour: bool = False,
    ) -> None:
        super().__init__()
        if norm not in ("row_l2", "l2"):
            raise ValueError(f"norm is 'row_l2' or 'l2', not '{norm}'")
        if layers < 1 or not 1 <= rank <= dim:
            raise ValueError(f"layers is at least 1 and rank 1 to {dim}, not {layers} and {rank}")
        self.dim, self.norm, self.released_behaviour = dim, norm, released_behaviour
        self.down = nn.ModuleList(nn.Linear(dim, rank, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(rank, dim) for _ in range(layers))
        if not released_behaviour:
            for down, up in self._layers():
                nn.init.orthogonal_(down.weight)
                with torch.no_grad():
                    up.weight.copy_(down.weight.T)
                nn.init.zeros_(up.bias)
        self.gate: nn.Module | None = None
        if gate_dim is not None:
            last = nn.Linear(24, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.gate = nn.Sequential(nn.Linear(gate_dim, 24), nn.ReLU(), last)
        else:
            self.balance = nn.Parameter(torch.zeros(()))

    def _layers(self) -> list[tuple[Any, Any]]:
        return list(zip(self.down, self.up, strict=True))

    def forward(
        self,
        gradient: Float[Tensor, "*batch rows dim"],
        context: Float[Tensor, "*batch gate_dim"] | None = None,
    ) -> Float[Tensor, "*batch rows dim"]:
        """The regulated gradient, of the same shape.

        Raises ValueError where there is a gate and no context.
        """
        if self.gate is None:
            return self.mix(gradient, self.balance.sigmoid())
        if context is None:
            raise ValueError("a regulator with gate_dim needs the context of each gradient")
        return self.mix(gradient, self.gate(context).sigmoid()[..., None])

    def mix(
        self, gradient: Float[Tensor, "*batch rows dim"], gate: Float[Tensor, ...]
    ) -> Float[Tensor, "*batch rows dim"]:
        """gate · gradient + (1 − gate) · its rescaled transformation."""
        return gate * gradient + (1 - gate) * self.rescale(self.transform(gradient), gradient)

    def transform(self, gradient: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The low-rank layers, before rescaling."""
        # gradients are minute; of unit length the biases and ReLUs see the same whatever the loss
        hidden = gradient if self.released_behaviour else functional.normalize(gradient, dim=-1)
        for place, (down, up) in enumerate(self._layers(), 1):
            hidden = up(down(hidden))
            if place < len(self.up) or self.released_behaviour:
                hidden = hidden.relu()
        return hidden

    def rescale(
        self, u: Float[Tensor, "*batch rows dim"], gradient: Float[Tensor, "*batch rows dim"]
    ) -> Float[Tensor, "*batch rows dim"]:
        """u with the length of the gradient; where u is empty, the gradient.

        >>> one = GradientRegulator(dim=2, rank=1)
        >>> one.rescale(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])).tolist()
        [[5.0, 0.0]]
        """
        across = -1 if self.norm == "row_l2" else (-2, -1)
        length = u.norm(dim=across, keepdim=True)
        wanted = gradient.norm(dim=across, keepdim=True)
        scaled = u * (wanted / (length + 1e-8))
        if self.released_behaviour:
            return scaled
        return torch.where(length > 1e-6, u * (wanted / length.clamp_min(1e-6)), gradient)


class RegulatedOptimizer(torch.optim.Optimizer):
    """An optimiser whose gradients go through a regulator first; for prompts, LoRA, any matrix.

    A parameter whose last dimension is the regulator's `dim` is regulated, others are not. The
    regulator is not trained here. Schedules and `state_dict` are those of the optimiser within.

    Args:
        base: the optimiser that takes the steps.
        regulator: a function from a gradient (rows, dim) and, with a gate, a context.
        context: the context of the task at hand, where the regulator has a gate.

    Attributes:
        cosines: of each step, the least cosine between a regulated gradient and its own. Below 0
            the step no longer goes down.

    >>> prompt = nn.Parameter(torch.ones(4, 8))
    >>> steps = RegulatedOptimizer(torch.optim.SGD([prompt], lr=0.1), GradientRegulator(8, rank=2))
    >>> prompt.square().sum().backward()
    >>> steps.step()
    >>> steps.cosines[0] > 0
    True
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        regulator: nn.Module,
        *,
        context: Float[Tensor, " gate_dim"] | None = None,
    ) -> None:
        super().__init__(base.param_groups, base.defaults)
        self.base, self.regulator, self.context = base, regulator, context
        self.state, self.param_groups = base.state, base.param_groups
        self.cosines: list[float] = []

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Regulate every gradient, then let the optimiser step; the closure's loss, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        width = getattr(self.regulator, "dim", None)
        weight = next(self.regulator.parameters(), None)
        found: list[float] = []
        with torch.no_grad():
            for parameter in (each for group in self.param_groups for each in group["params"]):
                gradient = parameter.grad
                if gradient is None or gradient.ndim < 2 or gradient.shape[-1] != width:
                    continue
                given = () if self.context is None else (self.context,)
                own = gradient if weight is None else gradient.to(weight.dtype)
                regulated = self.regulator(own, *given)
                found.append(gradient_cosine(regulated, own).min().item())
                parameter.grad = regulated.to(gradient.dtype)
        if found:
            self.cosines.append(min(found))
        self.base.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Of the optimiser within."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Into the optimiser within."""
        self.base.load_state_dict(state_dict)
        self.state, self.param_groups = self.base.state, self.base.param_groups


def gradient_cosine(
    regulated: Float[Tensor, "*batch rows dim"], gradient: Float[Tensor, "*batch rows dim"]
) -> Float[Tensor, "*batch"]:
    """Cosine of the whole of one with the whole of the other; above 0 a step still goes down."""
    return functional.cosine_similarity(regulated.flatten(-2), gradient.flatten(-2), dim=-1)
