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
from jaxtyping import Float
from torch import Tensor, nn

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
        f"{name}.weight": layer.weight.detach().abs() * moments[name].diagonal().sqrt()
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
    sparsity. Later layers are scored on cleaner inputs than they will have.

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
        hessian = 2 * moments[name].double()
        hessian += damping * hessian.diagonal().mean() * torch.eye(len(hessian)).to(hessian)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        if conditional:
            inverse = torch.linalg.cholesky(inverse, upper=True).square()
        weight = layer.weight.detach()
        scores[f"{name}.weight"] = weight.square() / inverse.diagonal().to(weight)
    return scores


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

    Args:
        loss: a scalar mean over the batch's examples; the model is in evaluation mode.

    Source: D-Pruner (Zhang et al. 2024, arXiv 2405.06275), equations 5 to 8, and its code.
    """
    layers = linear_layers(model, targets)
    batches = list(batches)
    scores = {f"{n}.weight": torch.zeros_like(m.weight) for n, m in layers.items()}
    with _evaluation(model):
        for batch in batches:
            value = loss(model, batch)
            gradients = torch.autograd.grad(value, [m.weight for m in layers.values()])
            for (name, layer), gradient in zip(layers.items(), gradients, strict=True):
                key, weight = f"{name}.weight", layer.weight.detach()
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

    >>> a, b = {"w": torch.tensor([[1.0, 9.0, 2.0]])}, {"w": torch.tensor([[0.3, 0.1, 0.2]])}
    >>> dual_importance(a, b)["w"]
    tensor([[2., 2., 2.]])
    """
    if how == "rank":
        return {name: _ranks(general[name]) + _ranks(domain[name]) for name in general}
    join: Any = {"sum": torch.add, "max": torch.maximum}[how]
    return {
        name: join(general[name] / general[name].mean(), domain[name] / domain[name].mean())
        for name in general
    }


def input_moments(
    model: nn.Module, layers: Mapping[str, nn.Linear], batches: Iterable[Batch]
) -> dict[str, Float[Tensor, "inputs inputs"]]:
    """E[x xᵀ] of each layer's inputs, in float32; padded places do not count."""
    sums = {name: torch.zeros(m.in_features, m.in_features) for name, m in layers.items()}
    counts = dict.fromkeys(layers, 0)
    real: list[Tensor | None] = [None]

    def hook(name: str) -> Callable[..., None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().float()
            x = x.flatten(0, -2) if real[0] is None else x[real[0]]
            sums[name] += (x.T @ x).cpu()
            counts[name] += len(x)

        return add

    handles = [m.register_forward_pre_hook(hook(n)) for n, m in layers.items()]
    try:
        with _evaluation(model), torch.no_grad():
            for batch in batches:
                mask = batch.get("attention_mask")
                real[0] = None if mask is None else mask.bool()
                model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    if not all(counts.values()):
        raise ValueError("no calibration data reached the layers: give at least one batch")
    return {name: sums[name] / counts[name] for name in layers}


def _ranks(scores: Tensor) -> Tensor:
    return scores.flatten().argsort().argsort().view_as(scores).to(torch.float32)


@contextmanager
def _evaluation(model: nn.Module) -> Any:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
