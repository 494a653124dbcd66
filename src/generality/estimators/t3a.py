"""T3A: a classifier's prototypes, adjusted at test time by its confident examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from generality.estimators.linear_head import as_head
from generality.estimators.test_time import checked_batch


class T3A:
    """Test-time template adjuster: a `TestTimeAdapter` on features with a linear head.

    Supports start as the head's weight rows. A batch joins them under the head's predictions; the
    `supports` of least entropy per class stay; a class's template is the sum of its normalised
    supports, brought to length 1, and the logits are features times templates. As published, a
    batch joins before it is predicted.

    Source: Iwasawa and Matsuo 2021 (NeurIPS), algorithm 1, as in the harness of AdaNPC.

    Args:
        head: a linear head, see `as_head`; not changed.
        supports: examples kept per class; 1, 5, 20, 50 or 100 in the paper. None keeps all, and
            the memory then grows with the stream.

    >>> X = torch.tensor([[1.0, 0.2], [0.1, 1.0]])
    >>> T3A((torch.eye(2), torch.zeros(2))).predict(X).argmax(1)
    tensor([0, 1])
    """

    def __init__(self, head: Any, *, supports: int | None = 100) -> None:
        module = as_head(head).eval()
        if not isinstance(module, nn.Linear):
            raise ValueError(f"T3A needs a linear head, not {type(module).__name__}")
        if supports is not None and supports < 1:
            raise ValueError("supports is at least 1, or None for all")
        self.head, self.supports = module.requires_grad_(False), supports
        self.reset()

    @torch.no_grad()
    def predict(
        self, batch: Float[Any, "batch dim"], adapt: bool = True
    ) -> Float[Tensor, "batch classes"]:
        """Class probabilities; with `adapt`, the batch joins the supports first."""
        device = self.head.weight.device
        rows = checked_batch(batch, dim=self.head.in_features, device=device)
        if adapt:
            self._join(rows)
        templates = normalize(self._classes.T.float() @ normalize(self._features, dim=1), dim=1)
        return (rows @ templates.T).softmax(-1)

    def reset(self) -> None:
        """Back to the head's weight rows."""
        weights = self.head.weight.detach().float()
        self._features = weights.new_empty(0, self.head.in_features)
        self._entropy = weights.new_empty(0)
        self._classes = weights.new_empty(0, self.head.out_features)
        self._join(weights)

    def state_dict(self) -> dict[str, Tensor]:
        """The supports, their entropies and one-hot classes."""
        state = {"features": self._features, "entropy": self._entropy, "classes": self._classes}
        return {name: tensor.clone() for name, tensor in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state_dict`."""
        like = self._features
        self._features = state["features"].to(like).clone()
        self._entropy = state["entropy"].to(like).clone()
        self._classes = state["classes"].to(like).clone()

    @torch.no_grad()
    def _join(self, features: Tensor) -> None:
        logits = self.head(features)
        chances = logits.softmax(-1)
        entropy = -(chances * logits.log_softmax(-1)).sum(-1)
        classes = one_hot(logits.argmax(-1), logits.shape[-1]).to(chances)
        self._features = torch.cat([self._features, features])
        self._entropy = torch.cat([self._entropy, entropy])
        self._classes = torch.cat([self._classes, classes])
        if self.supports is not None:
            order = self._entropy.argsort(stable=True)
            rank = self._classes[order].cumsum(0)  # of each support within its class, from 1
            own = (rank * self._classes[order]).sum(1)
            kept = order[own <= self.supports].sort().values
            self._features, self._entropy = self._features[kept], self._entropy[kept]
            self._classes = self._classes[kept]
