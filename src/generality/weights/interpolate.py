"""Points on the straight line between two models' weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def interpolate(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """(1 − alpha) · first + alpha · second, name by name; alpha outside [0, 1] goes beyond them.

    Each tensor keeps its dtype (the sum is made in float32 at least). Integers and booleans, such
    as position ids, are not averaged and must be the same in both.

    Raises:
        ValueError: the names, shapes or dtypes differ, or an integer tensor does.

    >>> interpolate({"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([2.0, 0.0])}, 0.25)
    {'w': tensor([0.5000, 3.0000])}
    """
    if first.keys() != second.keys():
        only = ", ".join(sorted(first.keys() ^ second.keys())[:5])
        raise ValueError(f"these weights are in one of the two models only: {only}")
    return {name: _between(name, first[name], second[name], alpha) for name in first}


def wise_ft(
    pretrained: Mapping[str, Tensor], finetuned: Mapping[str, Tensor], alpha: float = 0.5
) -> dict[str, Tensor]:
    """WiSE-FT: the weights between a pretrained and a fine-tuned model; alpha = 1 is fine-tuned.

    Both must have the same head. Where pretraining has none for the task (no zero-shot head), take
    for `pretrained` the pretrained body with a linear probe as its head, and fine-tune from there.

    Source: Wortsman et al. 2022 (arXiv 2109.01903), equation 1; they recommend alpha = 0.5.

    Raises:
        ValueError: as `interpolate`; and for alpha outside [0, 1].

    >>> wise_ft({"w": torch.tensor([0.0])}, {"w": torch.tensor([2.0])})
    {'w': tensor([1.])}
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is in [0, 1], not {alpha}")
    return interpolate(pretrained, finetuned, alpha)


def _between(name: str, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(f"'{name}' differs in shape or dtype between the two models")
    if not (a.is_floating_point() or a.is_complex()):
        if not torch.equal(a, b):
            raise ValueError(f"'{name}' holds integers that differ: they cannot be averaged")
        return a.clone()
    wide = torch.promote_types(a.dtype, torch.float32)
    return ((1 - alpha) * a.to(wide) + alpha * b.to(wide)).to(a.dtype)
