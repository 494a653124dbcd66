"""How much each weight of a model's linear layers matters, on the data that is given.

Each function gives one score a weight, larger for what should stay, under the layer's weight name.
`generality.weights.prune` cuts by them; `dual_importance` joins two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from generality.models.precision import at_least_float32

Scores = dict[str, Tensor]
Batch = Mapping[str, Tensor]

#: The linear layers of the blocks of Llama-like models: embeddings, norms and head stay dense.
BLOCK_LINEARS = r".*\.(q|k|v|o|gate|up|down)_proj"


def linear_layers(model: nn.Module, targets: str = BLOCK_LINEARS) -> dict[str, nn.Linear]:
    """The linear layers whose whole name matches the regular expression.

    Raises:
        ValueError: none does.
    """
    every = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    chosen = {name: layer for name, layer in every.items() if re.fullmatch(targets, name)}
    if not chosen:
        names = ", ".join(list(every)[:3]) or "no linear layer at all"
        raise ValueError(f"no linear layer's name matches '{targets}': this model has {names}")
    return chosen


def magnitude_importance(model: nn.Module, *, targets: str = BLOCK_LINEARS) -> Scores:
    """|w|: needs no data, and is the control for everything that does."""
    layers = linear_layers(model, targets)
    return {f"{name}.weight": layer.weight.detach().abs() for name, layer in layers.items()}


def activation_importance(
    model: nn.Module, batches: Iterable[Batch], *, targets: str = BLOCK_LINEARS
) -> Scores:
    """Wanda: |w_ij| · ‖x_j‖₂ over the calibration inputs.

    Source: Sun et al. 2024 (Wanda, arXiv 2306.11695), equation 1. `prune` with `scope="row"` cuts
    as they do, per output.
    """
    layers = linear_layers(model, targets)
    moments = input_moments(model, layers, batches)
    return {
        f"{name}.weight": layer.weight.detach().abs()
        * moments[name].diagonal().sqrt().to(layer.weight.device)
        for name, layer in layers.items()
    }


def hessian_importance(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    targets: str = BLOCK_LINEARS,
    damping: float = 0.01,
    conditional: bool = True,
) -> Scores:
    """The squared error of a layer's output when a weight goes and the later ones make up for it.

    With H = (2/n) Σ x xᵀ over the layer's inputs and its mean diagonal times `damping` added:
    w_ij² / U_jj², U the upper Cholesky factor of H⁻¹ (SparseGPT); `conditional=False` takes the
    diagonal of H⁻¹ itself (optimal brain surgeon).

    D-Pruner computes H layer by layer on the inputs that the already pruned layers give, and
    updates weights from block to block while it scores. Here all layers see the dense model's
    inputs and the original weights: one pass over the data, and scores that do not depend on a
    sparsity. Later layers are scored on cleaner inputs than they will have;
    `generality.weights.sparsegpt` does it the other way.

    Args:
        batches: what `model(**batch)` takes; padding (`attention_mask` 0) does not count.

    Source: Frantar and Alistarh 2023 (SparseGPT, arXiv 2301.00774), equation 4; D-Pruner step 1.

    >>> layer = nn.Linear(2, 2, bias=False)
    >>> layer.weight.data = torch.tensor([[0.5, -0.2], [0.1, 0.8]])
    >>> net = nn.Sequential(); net.add_module("proj", layer)
    >>> inputs = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> hessian_importance(net, [{"input": inputs}], targets="proj")["proj.weight"]
    tensor([[0.3061, 0.1343],
            [0.0122, 2.1483]])
    """
    layers = linear_layers(model, targets)
    moments = input_moments(model, layers, batches)
    scores = {}
    for name, layer in layers.items():
        factor = inverse_factor(moments[name], damping)
        inverse = factor.square() if conditional else factor.T @ factor
        weight = at_least_float32(layer.weight.detach())
        scores[f"{name}.weight"] = weight.square() / inverse.diagonal().to(weight)
    return scores


def inverse_factor(
    moments: Float[Tensor, "inputs inputs"], damping: float = 0.01
) -> Float[Tensor, "inputs inputs"]:
    """U, upper, with UᵀU the inverse of H = 2 E[x xᵀ] + damping · its mean diagonal; float64.

    U_jj² is the j-th diagonal of the inverse when the inputs before j are settled. Where every
    input is always zero, H is the identity.
    """
    hessian = 2 * moments.double()
    usual = float(hessian.diagonal().mean())
    hessian += (damping * usual if usual > 0 else 1.0) * torch.eye(len(hessian)).to(hessian)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)


def taylor_importance(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[nn.Module, Batch], Float[Tensor, ""]],
    *,
    targets: str = BLOCK_LINEARS,
    general: Scores | None = None,
    strength: float = 0.1,
    learning_rate: float = 0.03,
    cubic: bool = False,
) -> Scores:
    """|g·w + (g·w)²/2n| summed over batches: the change of loss when a weight goes, second order.

    The Hessian is the empirical Fisher of batch gradients (n batches), as in D-Pruner's code; give
    batches of one example for the Fisher proper. `general`, `strength` and `learning_rate` are
    the code's way to keep generality: g + 2·strength·rate²·G·g²/n. At its own settings that adds
    about 1e-9 to a gradient and changes nothing; `EWCAnchor` during tuning and `dual_importance`
    do what it was meant to do. `cubic` adds the code's literal w³ inside the bars.

    Scores are summed in float32 at least, whatever the type of the weights.

    Args:
        loss: a scalar mean over the batch's examples; the model is in evaluation mode.
        general: the general importance G; None: no regulariser.
        strength: λ of the regulariser.
        learning_rate: the rate α at which the domain was trained.

    Source: D-Pruner (Zhang et al. 2024, arXiv 2405.06275), equations 5 to 8, and its code.
    """
    layers = linear_layers(model, targets)
    batches = list(batches)
    scores = {
        f"{n}.weight": torch.zeros_like(at_least_float32(m.weight)) for n, m in layers.items()
    }
    with evaluation(model):
        for batch in batches:
            value = loss(model, batch)
            gradients = torch.autograd.grad(value, [m.weight for m in layers.values()])
            for (name, layer), gradient in zip(layers.items(), gradients, strict=True):
                key, weight = f"{name}.weight", at_least_float32(layer.weight.detach())
                gradient = at_least_float32(gradient)
                if general is not None:
                    held = 2 * strength * learning_rate**2 * general[key] / len(batches)
                    gradient = gradient + held * gradient.square()
                scores[key] += taylor_term(gradient, weight, len(batches), cubic=cubic)
    return scores


def taylor_term(
    gradient: Float[Tensor, "out inputs"],
    weight: Float[Tensor, "out inputs"],
    n: int,
    *,
    cubic: bool = False,
) -> Float[Tensor, "out inputs"]:
    """|g·w + (g·w)²/2n|, with w³ inside the bars for `cubic`.

    >>> g, w = torch.tensor([[0.3, -0.1]]), torch.tensor([[0.5, -0.2]])
    >>> taylor_term(g, w, 1000), taylor_term(g, w, 1000, cubic=True)
    (tensor([[0.1500, 0.0200]]), tensor([[0.2750, 0.0120]]))
    """
    change = gradient * weight
    return (change + change.square() / (2 * n) + (weight**3 if cubic else 0)).abs()


def dual_importance(
    general: Scores, domain: Scores, how: Literal["rank", "sum", "max"] = "rank"
) -> Scores:
    """One score from two: what matters for the domain, or in general.

    Args:
        how: `rank` adds the ranks inside each matrix, so that scales do not matter; `sum` and
            `max` take the scores over their mean in the matrix.

    Raises:
        ValueError: another way to join, or scores of other matrices.

    >>> a, b = {"w": torch.tensor([[1.0, 9.0, 2.0]])}, {"w": torch.tensor([[0.3, 0.1, 0.2]])}
    >>> dual_importance(a, b)["w"]
    tensor([[2., 2., 2.]])
    """
    if how not in ("rank", "sum", "max"):
        raise ValueError(f"how is rank, sum or max, not '{how}'")
    if general.keys() != domain.keys():
        raise ValueError(f"only one has scores of '{min(general.keys() ^ domain.keys())}'")
    if how == "rank":
        return {name: _ranks(general[name]) + _ranks(domain[name]) for name in general}
    join: Any = {"sum": torch.add, "max": torch.maximum}[how]
    return {
        name: join(general[name] / general[name].mean(), domain[name] / domain[name].mean())
        for name in general
    }


class InputMoments:
    """A context in which the named layers sum up x xᵀ over the inputs they get.

    >>> layer = nn.Linear(2, 1)
    >>> with InputMoments({"proj": layer}) as moments:
    ...     _ = layer(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    >>> moments.means()["proj"]
    tensor([[5., 1.],
            [1., 2.]])
    """

    def __init__(self, layers: Mapping[str, nn.Linear]) -> None:
        self.layers = layers
        self.real: Bool[Tensor, "batch length"] | None = None
        """Where the inputs of the next call are no padding; None: everywhere."""
        self._sums = {name: torch.zeros(m.in_features, m.in_features) for name, m in layers.items()}
        self._counts = dict.fromkeys(layers, 0)

    def __enter__(self) -> InputMoments:
        hooks = ((m, self._hook(name)) for name, m in self.layers.items())
        self._handles = [layer.register_forward_pre_hook(hook) for layer, hook in hooks]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def means(self) -> dict[str, Float[Tensor, "inputs inputs"]]:
        """E[x xᵀ] of each layer's inputs, in float32.

        Raises:
            ValueError: a layer got none.
        """
        if not all(self._counts.values()):
            raise ValueError("no calibration data reached the layers: give at least one batch")
        return {name: self._sums[name] / count for name, count in self._counts.items()}

    def _hook(self, name: str) -> Callable[..., None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().float()
            x = x.flatten(0, -2) if self.real is None else x[self.real]
            self._sums[name] += (x.T @ x).cpu()
            self._counts[name] += len(x)

        return add


def input_moments(
    model: nn.Module, layers: Mapping[str, nn.Linear], batches: Iterable[Batch]
) -> dict[str, Float[Tensor, "inputs inputs"]]:
    """E[x xᵀ] of each layer's inputs, in float32; padded places do not count."""
    with evaluation(model), torch.no_grad(), InputMoments(layers) as moments:
        for batch in batches:
            here = beside(model, batch)
            mask = here.get("attention_mask")
            moments.real = None if mask is None else mask.bool()
            model(**here)
    return moments.means()


def beside(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The batch on the device of the model's first parameter."""
    place = next(model.parameters()).device
    return {name: column.to(place) for name, column in batch.items()}


def _ranks(scores: Tensor) -> Tensor:
    return scores.flatten().argsort().argsort().view_as(scores).to(torch.float32)


@contextmanager
def evaluation(model: nn.Module) -> Any:
    """The model in evaluation mode, and afterwards in the mode it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
