"""What test-time methods that take gradient steps share."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.estimators.linear_head import as_head
from generality.estimators.test_time import checked_batch

Scope = Literal["all", "head", "heads", "featurizer", "bn", "prebn"]


class GradientAdapter:
    """A `TestTimeAdapter` that takes steps of Adam on a loss of each batch's own predictions.

    Subclasses define `loss`. The prediction returned is that of the forward pass before a batch's
    last step, so with one step a batch is predicted before it is learned from.

    Args:
        model: a head on features (see `as_head`), or a whole module from inputs to logits; copied.
        params: what adapts. "all": every parameter of `model`; "head": those of its part `.head`
            (all, if it has none); "heads", "featurizer": those of its part of that name; "bn":
            scale and shift of its batch normalisations, which then use the batch's statistics;
            "prebn": scale and shift of a batch normalisation put before the head.
        steps: of Adam for each batch; 1 or 3 in the papers' harness.
        learning_rate: of Adam.
        source: (n, dim) features, for "prebn" only: scale and shift start so that these features
            come out as they went in. None: they start at 1 and 0, as published, which hands the
            head standardised features.
    """

    def __init__(
        self,
        model: Any,
        *,
        params: Scope = "head",
        steps: int = 1,
        learning_rate: float = 1e-3,
        source: Float[Any, "n dim"] | None = None,
    ) -> None:
        if steps < 1 or learning_rate <= 0:
            raise ValueError("steps is at least 1 and learning_rate above 0")
        self.model = as_head(model).eval()
        self.params, self.steps, self.learning_rate = params, steps, learning_rate
        if params == "prebn":
            self.model = _with_norm(self.model, source)
        self._adapted = _chosen(self.model, params)
        if not self._adapted:
            raise ValueError(f"the model has no parameters of params='{params}'")
        self.model.requires_grad_(False)
        for parameter in self._adapted.values():
            parameter.requires_grad_(True)
        self._start = {name: p.detach().clone() for name, p in self._adapted.items()}
        self.reset()

    def loss(self, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""] | None:
        """What a step makes smaller; None takes no step."""
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Float[Tensor, "batch classes"]:
        """What is predicted from the model's output."""
        return logits.softmax(-1)

    @torch.enable_grad()
    def predict(
        self, batch: Float[Any, "batch ..."], adapt: bool = True
    ) -> Float[Tensor, "batch classes"]:
        """Class probabilities; with `adapt`, take the steps."""
        device = next(iter(self._adapted.values())).device
        rows = checked_batch(batch, device=device)
        for _ in range(self.steps if adapt else 1):
            logits = self.model(rows)
            loss = self.loss(logits) if adapt else None
            if loss is None:
                break
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        return self.probabilities(logits.detach())

    def reset(self) -> None:
        """Back to the parameters it came with."""
        self.load_state_dict(self._start)

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters that adapt; Adam's moments start anew."""
        return {name: p.detach().clone() for name, p in self._adapted.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state_dict`."""
        with torch.no_grad():
            for name, parameter in self._adapted.items():
                parameter.copy_(state[name])
        self._optimizer = torch.optim.Adam(self._adapted.values(), self.learning_rate)


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _chosen(model: nn.Module, params: Scope) -> dict[str, nn.Parameter]:
    if params in ("bn", "prebn"):
        chosen: dict[str, nn.Parameter] = {}
        for name, module in model.named_modules():
            if isinstance(module, _NORMS):
                module.train()
                module.track_running_stats = False
                module.running_mean = module.running_var = None
                own = module.named_parameters(prefix=name, recurse=False)
                chosen.update(own)
        return chosen
    if params not in ("all", "head", "heads", "featurizer"):
        raise ValueError(f"params is all, head, featurizer, bn or prebn, not '{params}'")
    part = model if params == "all" else getattr(model, params, None)
    if part is None and params != "head":
        raise ValueError(f"the model has no part .{params}; params='all' adapts all of it")
    return dict((model if part is None else part).named_parameters())


def _with_norm(head: nn.Module, source: Any) -> nn.Module:
    first = next((m for m in head.modules() if isinstance(m, nn.Linear)), None)
    if first is None:
        raise ValueError("params='prebn' needs a head that starts with a linear layer")
    norm = nn.BatchNorm1d(first.in_features).to(first.weight)
    if source is not None:
        rows = checked_batch(source, dim=first.in_features, device=first.weight.device)
        with torch.no_grad():
            norm.weight.copy_((rows.var(0, correction=0) + norm.eps).sqrt())
            norm.bias.copy_(rows.mean(0))
    return nn.Sequential(norm, copy.deepcopy(head))
