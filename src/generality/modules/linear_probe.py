"""A linear head fitted to a frozen body: a linear probe, and the first half of LP-FT."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def probe_head(
    head: nn.Linear,
    features: Float[Tensor, "examples dim"] | np.ndarray,
    targets: Float[Tensor, "examples classes"] | np.ndarray,
    *,
    l2: float = 1e-3,
    steps: int = 100,
) -> float:
    """Fit `head`, in place, to features of a frozen body by L-BFGS; the loss it ends at, in nats.

    Minimises the mean cross-entropy against soft targets plus l2 / 2 · ‖weight‖². This alone is
    linear probing; LP-FT is this, then full fine-tuning from here, in that order, so that a random
    (or zero) head does not distort the features before it has learned:

        probe_head(classifier.head, features, targets)
        train(classifier, examples, soft_cross_entropy, config, seed=0)

    Source: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution" (arXiv 2202.10054), section 3.3.

    Args:
        head: starts where it is.
        features: what the body gives the head for each example.
        targets: class probabilities.
        l2: ≥ 0.
        steps: of L-BFGS, at most.

    Raises:
        ValueError: for shapes that do not fit, or a negative l2.

    >>> head = nn.Linear(1, 2)
    >>> loss = probe_head(head, np.array([[-1.0], [1.0]]), np.eye(2), l2=0.0)
    >>> loss < 0.01, head(torch.tensor([[2.0]])).argmax().item()
    (True, 1)
    """
    weight = head.weight
    x = torch.tensor(np.asarray(features), dtype=weight.dtype, device=weight.device)
    y = torch.tensor(np.asarray(targets), dtype=weight.dtype, device=weight.device)
    if x.shape != (len(y), head.in_features) or y.shape != (len(x), head.out_features) or l2 < 0:
        raise ValueError(f"features {tuple(x.shape)}, targets {tuple(y.shape)} and l2 {l2}")
    trained = [parameter.detach().requires_grad_() for parameter in head.parameters()]
    optimizer = torch.optim.LBFGS(trained, max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, *trained), y) + l2 / 2 * trained[0].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
        loss = float(closure().detach())
    return loss


def probed(
    features: Float[np.ndarray, "examples dim"],
    labels: Int[np.ndarray, " examples"],
    groups: Mapping[str, Float[np.ndarray, "n dim"]],
    *,
    classes: int | None = None,
) -> dict[str, Float[np.ndarray, "n classes"]]:
    """Class probabilities of groups of features by a linear probe that starts at zero.

    Args:
        features: of a frozen body; `labels` are class numbers.
        groups: what to give probabilities for, by name.
        classes: how many there are; None: the highest label and one.

    >>> features, labels = np.array([[-1.0], [1.0]]), np.array([0, 1])
    >>> probed(features, labels, {"far": np.array([[9.0]])})["far"].round()
    array([[0., 1.]], dtype=float32)
    """
    count = int(labels.max()) + 1 if classes is None else classes
    head = nn.Linear(features.shape[1], count)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    probe_head(head, features, np.eye(count)[labels])
    with torch.inference_mode():
        return {
            name: head(torch.tensor(np.asarray(x), dtype=torch.float32)).softmax(-1).numpy()
            for name, x in groups.items()
        }
