"""D-BAT: agree with the labels, disagree with earlier models where there are none."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

_INSIDE_LOG = 1e-7  # as released


class DBATLoss(nn.Module):
    """Cross-entropy on labels, plus α times the agreement with earlier models on unlabelled data.

    Agreement with an earlier model of probabilities a is mean[−log(a_c (1 − b_c) + b_c (1 − a_c) +
    1e-7)], in nats, where b are the new model's probabilities and c the class that decides; it is
    averaged over the earlier models. With two classes it is the paper's binary formula, whichever c
    is. The earlier models are frozen: pass their probabilities.

    Source: Pagliardini et al. 2022 (arXiv 2202.04414), equation 2, and the released code for more
    than two classes, as used by Benoit et al. 2023 (arXiv 2312.16313).

    Args:
        alpha: weight of the agreement, ≥ 0.
        version: c is the argmax of the earlier model ("argmax_earlier", the default of the released
            code, there "v1") or of the new one ("argmax_new", "v2").

    Raises:
        ValueError: for a negative alpha or an unknown version.

    >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    >>> earlier = torch.tensor([[[0.9, 0.1], [0.2, 0.8]]])  # one earlier model, two examples
    >>> round(DBATLoss(alpha=1.0)(logits, labels, logits, earlier).item(), 3)  # it agrees
    1.595
    >>> round(DBATLoss(alpha=1.0)(logits, labels, -logits, earlier).item(), 3)  # it disagrees
    0.394
    """

    def __init__(
        self,
        alpha: float = 1.0,
        version: Literal["argmax_earlier", "argmax_new"] = "argmax_earlier",
    ) -> None:
        super().__init__()
        if alpha < 0:
            raise ValueError(f"alpha is a weight ≥ 0, not {alpha}")
        if version not in ("argmax_earlier", "argmax_new"):
            raise ValueError(f"version is 'argmax_earlier' or 'argmax_new', not '{version}'")
        self.alpha, self.version = alpha, version

    def forward(
        self,
        labelled: Float[Tensor, "batch classes"],
        labels: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        unlabelled: Float[Tensor, "others classes"],
        earlier: Float[Tensor, "models others classes"],
    ) -> Float[Tensor, ""]:
        """The loss of the new model's logits on a labelled and on an unlabelled batch.

        `earlier` are the probabilities of each earlier model on the unlabelled batch.
        """
        fit = cross_entropy(labelled, labels)
        return fit + self.alpha * agreement_loss(unlabelled.softmax(-1), earlier, self.version)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"alpha={self.alpha}, version={self.version!r}"


def agreement_loss(
    new: Float[Tensor, "batch classes"],
    earlier: Float[Tensor, "models batch classes"],
    version: Literal["argmax_earlier", "argmax_new"] = "argmax_earlier",
) -> Float[Tensor, ""]:
    """How much new probabilities agree with earlier ones, in nats; low where they disagree.

    >>> earlier, new = torch.tensor([[[0.7, 0.2, 0.1]]]), torch.tensor([[0.2, 0.5, 0.3]])
    >>> round(agreement_loss(new, earlier).item(), 4)  # −ln(0.7·0.8 + 0.2·0.3)
    0.478
    """
    earlier = earlier.detach()
    everywhere = new.expand_as(earlier)
    deciding = earlier if version == "argmax_earlier" else everywhere
    chosen = deciding.argmax(-1, keepdim=True)
    a, b = earlier.gather(-1, chosen), everywhere.gather(-1, chosen)
    return -torch.log(a * (1 - b) + b * (1 - a) + _INSIDE_LOG).mean()
