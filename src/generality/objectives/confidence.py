"""The auxiliary confidence loss of weak-to-strong generalization."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.models.precision import at_least_float32
from generality.objectives.soft_cross_entropy import soft_cross_entropy

_ROUNDS = 3  # of the class-by-class balancing; two classes need one


class ConfidenceLoss(nn.Module):
    """Cross-entropy against a mix of the weak labels and the student's own confident guesses.

    With p = softmax(logits), weak soft labels w and the student's self-prediction h (one-hot, no
    gradient through it), the loss is (1−a)·CE(p, w) + a·CE(p, h), in nats, averaged over the batch.
    `a` grows linearly from 0 to `alpha_max` over the first `warmup` share of training. h gives
    each class the share of the batch that `balance` says: two classes by a threshold on p₀, more
    by per-class biases found class by class (close to the quotas; equal to the threshold at two).
    The batch must be the whole optimisation batch, or the balance is that of a fragment.

    Source: Burns et al. 2023 (arXiv 2312.09390), section 4.3.2 and appendix A.4. The paper defines
    it for two classes; more are our extension.

    Args:
        alpha_max: weight of h after warm-up, in [0, 1]; the paper uses 0.75 for its largest
            students and 0.5 for the others.
        warmup: share of training over which the weight grows, in [0, 1].
        balance: "weak" (class shares of the weak labels in the batch), "half" (equal shares), a
            float (the share of class 1; two classes only) or "none" (plain argmax).
        released_behaviour: the authors' code sets the weight to alpha_max·progress during warm-up
            and then jumps to alpha_max; kept for parity only.

    Raises:
        ValueError: for values out of range, or a float `balance` with more than two classes.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [-1.0, 1.0]])
    >>> weak = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    >>> round(ConfidenceLoss(alpha_max=0.5)(logits, weak, progress=1.0).item(), 6)
    0.460299
    """

    def __init__(
        self,
        alpha_max: float = 0.5,
        warmup: float = 0.2,
        balance: Literal["weak", "half", "none"] | float = "weak",
        *,
        released_behaviour: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= alpha_max <= 1:
            raise ValueError(f"alpha_max is a weight in [0, 1], not {alpha_max}")
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup is a share of training in [0, 1], not {warmup}")
        if isinstance(balance, str) and balance not in ("weak", "half", "none"):
            raise ValueError(f"balance is 'weak', 'half', 'none' or a share, not '{balance}'")
        if not isinstance(balance, str) and not 0 <= balance <= 1:
            raise ValueError(f"balance is a share in [0, 1], not {balance}")
        self.alpha_max, self.warmup, self.balance = alpha_max, warmup, balance
        self.released_behaviour = released_behaviour

    def alpha(self, progress: float) -> float:
        """Weight of the self-prediction at `progress` in [0, 1] of training."""
        if self.released_behaviour:
            return self.alpha_max * (1.0 if progress > self.warmup else progress)
        return self.alpha_max * (min(progress / self.warmup, 1.0) if self.warmup > 0 else 1.0)

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        soft_targets: Float[Tensor, "batch classes"],
        progress: float,
    ) -> Float[Tensor, ""]:
        """The loss of one whole optimisation batch at `progress` in [0, 1] of training.

        Logits may be of lower precision than the targets, as under autocast.
        """
        if soft_targets.shape != logits.shape or not len(logits):
            raise ValueError(
                f"a batch has logits and soft targets of one shape (batch, classes), not "
                f"{tuple(logits.shape)} and {tuple(soft_targets.shape)}"
            )
        alpha = self.alpha(progress)
        guess = balanced_prediction(logits, self._shares(soft_targets))
        return soft_cross_entropy(logits, (1 - alpha) * soft_targets + alpha * guess)

    def _shares(self, soft_targets: Tensor) -> Tensor | None:
        classes = soft_targets.shape[-1]
        if self.balance == "none":
            return None
        if self.balance == "weak":
            return soft_targets.mean(0)
        if self.balance == "half":
            return soft_targets.new_full((classes,), 1 / classes)
        if classes != 2:
            raise ValueError(f"a balance of {self.balance} means two classes; there are {classes}")
        share = float(self.balance)
        return soft_targets.new_tensor([1 - share, share])

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"alpha_max={self.alpha_max}, warmup={self.warmup}, balance={self.balance!r}"


@torch.no_grad()
def balanced_prediction(
    logits: Float[Tensor, "batch classes"], shares: Float[Tensor, " classes"] | None
) -> Float[Tensor, "batch classes"]:
    """One-hot predictions of which class k makes up about `shares[k]` (None: plain argmax).

    >>> balanced_prediction(torch.tensor([[3.0, 0.0], [2.0, 0.0]]), torch.tensor([0.5, 0.5]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    classes, given = logits.shape[-1], logits
    logits = at_least_float32(logits)  # half ties too easily
    if shares is not None:
        shares = shares.to(logits)
    if shares is not None and classes == 2:
        p0 = logits.softmax(-1)[:, 0]
        first = (p0 >= _quantile(p0, shares[1])).to(given.dtype)
        return torch.stack([first, 1 - first], -1)
    if shares is not None:
        logits = _balance(logits, shares)
    chosen = logits.argmax(-1, keepdim=True)
    return torch.zeros_like(given).scatter(-1, chosen, 1.0)


def _balance(logits: Tensor, shares: Tensor) -> Tensor:
    """Shift each class's logits until it wins about its share of the batch."""
    classes = logits.shape[-1]
    one_hot = torch.eye(classes, dtype=logits.dtype, device=logits.device)
    for _ in range(_ROUNDS):
        for k in range(classes):
            rivals = logits.masked_fill(one_hot[k].bool(), -torch.inf).amax(-1)
            excess = _quantile(logits[:, k] - rivals, 1 - shares[k])
            logits = logits - excess * one_hot[k]
    return logits


def _quantile(values: Float[Tensor, " n"], q: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Linearly interpolated quantile; unlike `torch.quantile` it also works under vmap."""
    ordered = values.sort().values
    position = q.clamp(0, 1) * (len(ordered) - 1)
    low = position.floor().long().reshape(1)
    high = position.ceil().long().reshape(1)
    return torch.lerp(ordered.gather(0, low), ordered.gather(0, high), position - low).squeeze(0)
