"""DRM: a head for every source domain, and rules that choose among them at test time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot

from generality.estimators.gradient_adapter import GradientAdapter
from generality.estimators.linear_head import as_head
from generality.estimators.test_time import checked_batch
from generality.models.multi_head import MultiHead, combine_heads, entropy_weights
from generality.objectives.drm_loss import drm_loss


class DomainHeads(MultiHead):
    """A featurizer with one linear head for each source domain and a global one, the last.

    Source: Zhang et al. 2023 (DRM, arXiv 2208.08661).

    Args:
        featurizer: (batch, …) to (batch, dim); None: the inputs are features.
        dim: width of the features.
        classes: how many there are.
        domains: how many sources there are.
        shared: whether there is a global head.

    >>> model = DomainHeads(None, dim=4, classes=3, domains=2)
    >>> model(torch.zeros(5, 4)).shape
    torch.Size([3, 5, 3])
    >>> inputs, labels = torch.zeros(2, 5, 4), torch.zeros(2, 5, dtype=torch.long)
    >>> model.loss(inputs, labels).requires_grad
    True
    """

    def __init__(
        self,
        featurizer: nn.Module | None,
        dim: int,
        classes: int,
        domains: int,
        *,
        shared: bool = True,
    ) -> None:
        heads = [nn.Linear(dim, classes) for _ in range(domains + shared)]
        super().__init__(featurizer, heads)
        self.classes, self.domains, self.shared = classes, domains, shared

    def loss(
        self, inputs: Float[Tensor, "domains batch ..."], labels: Int[Tensor, "domains batch"]
    ) -> Float[Tensor, ""]:
        """`drm_loss` of as many examples of each domain.

        Raises:
            ValueError: for batches of fewer or more domains than there are heads.
        """
        if len(labels) != self.domains or inputs.shape[:2] != labels.shape:
            raise ValueError(
                f"inputs {tuple(inputs.shape)} and labels {tuple(labels.shape)} are not "
                f"({self.domains} domains, batch, …) and ({self.domains} domains, batch)"
            )
        domains = torch.arange(len(labels), device=labels.device).repeat_interleave(labels.shape[1])
        return drm_loss(
            self(inputs.flatten(0, 1)),
            one_hot(labels.flatten(), self.classes).float(),
            one_hot(domains, self.domains).float(),
        )


class DomainSelector(Protocol):
    """How much each head of `DomainHeads` counts for each example."""

    def weights(
        self, features: Float[Tensor, "batch dim"], logits: Float[Tensor, "heads batch classes"]
    ) -> Float[Tensor, "batch heads"]:
        """Non-negative weights that sum to 1, for `combine_heads(rule="weights")`."""
        ...


class EntropySelector:
    """Heads that are certain count more: weight ∝ entropy^−γ, the global head included.

    Entropies of heads trained on domains of different size or noise are not comparable as such.

    >>> heads = torch.tensor([[[0.9, 0.1]], [[0.6, 0.4]]]).log()
    >>> EntropySelector().weights(torch.zeros(1, 3), heads)
    tensor([[0.6743, 0.3257]])
    """

    def __init__(self, gamma: float = 1.0) -> None:
        self.gamma = gamma

    def weights(
        self, features: Float[Tensor, "batch dim"], logits: Float[Tensor, "heads batch classes"]
    ) -> Float[Tensor, "batch heads"]:
        """See `DomainSelector`."""
        return entropy_weights(logits, self.gamma)


class DiscriminatorSelector:
    """Heads of the domains that a classifier of domains takes an example for; never the global one.

    Args:
        features: (n, dim) of the sources.
        domains: (n,) 0 … K−1.
        hard: the most probable domain alone, instead of all by their probability.

    Raises:
        ValueError: for other ids, which no head could be told by.
    """

    def __init__(
        self, features: Float[Any, "n dim"], domains: Int[Any, " n"], *, hard: bool = False
    ) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        rows = checked_batch(features).numpy()
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        classifier.fit(rows, _domain_ids(domains, len(rows)))
        scaler, linear = classifier[0], as_head(classifier[-1])
        self._mean = torch.as_tensor(scaler.mean_, dtype=torch.float32)
        self._scale = torch.as_tensor(scaler.scale_, dtype=torch.float32)
        self._linear, self.hard = linear.requires_grad_(False), hard

    def weights(
        self, features: Float[Tensor, "batch dim"], logits: Float[Tensor, "heads batch classes"]
    ) -> Float[Tensor, "batch heads"]:
        """See `DomainSelector`."""
        chances = self._linear((features.cpu() - self._mean) / self._scale).softmax(-1)
        return _padded(_hardened(chances) if self.hard else chances, logits)


class PrototypeSelector:
    """Heads of the domains whose mean feature is near; never the global one.

    Args:
        features: (n, dim) of the sources; the paper's buffer holds the last 50 batches.
        domains: (n,) 0 … K−1.
        metric: "l2", weight ∝ distance^−γ, or "cosine", weight ∝ max(similarity, 0)^γ.
        gamma: exponent, at least 0.
        hard: the nearest domain alone. (The released code takes the least similar one by cosine.)

    Raises:
        ValueError: for other ids, which no head could be told by, or options.
    """

    def __init__(
        self,
        features: Float[Any, "n dim"],
        domains: Int[Any, " n"],
        *,
        metric: Literal["l2", "cosine"] = "l2",
        gamma: float = 1.0,
        hard: bool = False,
    ) -> None:
        if metric not in ("l2", "cosine") or gamma < 0:
            raise ValueError("metric is 'l2' or 'cosine' and gamma at least 0")
        rows = checked_batch(features)
        known = torch.from_numpy(_domain_ids(domains, len(rows)))
        self.prototypes = torch.stack([rows[known == d].mean(0) for d in known.unique()])
        self.metric, self.gamma, self.hard = metric, gamma, hard

    def weights(
        self, features: Float[Tensor, "batch dim"], logits: Float[Tensor, "heads batch classes"]
    ) -> Float[Tensor, "batch heads"]:
        """See `DomainSelector`."""
        if self.metric == "l2":
            closeness = 1 / torch.cdist(features.cpu(), self.prototypes).clamp(min=1e-6)
        else:
            units = normalize(features.cpu(), dim=-1), normalize(self.prototypes, dim=-1)
            closeness = (units[0] @ units[1].T).clamp(min=1e-6)
        if self.hard:
            return _padded(_hardened(closeness), logits)
        powers = closeness**self.gamma
        return _padded(powers / powers.sum(-1, keepdim=True), logits)


class PseudoLabelRefit(GradientAdapter):
    """DRM-T: refits all heads to confident pseudo-labels of each batch, a `TestTimeAdapter`.

    The prediction is the entropy-weighted mixture, from before a batch's last step.

    Source: Zhang et al. 2023 (DRM, arXiv 2208.08661).

    Args:
        model: trained `DomainHeads` or another `MultiHead`; copied.
        labels_from: who makes the pseudo-labels: "own", each head its own; "last", the global
            head; "uniform", the heads' mean; "drm", the entropy-weighted mixture.
        threshold: least probability of a label that is learned from, in [0, 1].
        scope: "heads", or "all" to refit the featurizer too (DRM-Full).
        gamma: of the mixture; infinity takes the head of least entropy.
        released_behaviour: the last head casts no vote in the mixture (but takes weight), and
            confidence in mixtures is the largest entry of their softmax.
        options: `steps` and `learning_rate` as in `GradientAdapter`.

    >>> model = DomainHeads(None, dim=4, classes=3, domains=2)
    >>> PseudoLabelRefit(model).predict(torch.randn(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        model: MultiHead,
        *,
        labels_from: Literal["own", "last", "uniform", "drm"] = "drm",
        threshold: float = 0.75,
        scope: Literal["heads", "all"] = "heads",
        gamma: float = 1.0,
        released_behaviour: bool = False,
        **options: Any,
    ) -> None:
        if labels_from not in ("own", "last", "uniform", "drm") or scope not in ("heads", "all"):
            raise ValueError("labels_from is own, last, uniform or drm; scope is heads or all")
        self.labels_from, self.threshold, self.gamma = labels_from, threshold, gamma
        self.released_behaviour = released_behaviour
        super().__init__(model, params=scope, **options)

    def probabilities(
        self, logits: Float[Tensor, "heads batch classes"]
    ) -> Float[Tensor, "batch classes"]:
        """The entropy-weighted mixture."""
        votes = not self.released_behaviour
        return combine_heads(logits, "entropy", self.gamma, last_votes=votes)

    def loss(self, logits: Float[Tensor, "heads batch classes"]) -> Float[Tensor, ""] | None:
        """Cross-entropy to the pseudo-labels, summed over heads; None without confident ones."""
        labels, confident = self._pseudo_labels(logits.detach())
        risks = [
            cross_entropy(head[sure], guess[sure])
            for head, guess, sure in zip(logits, labels, confident, strict=True)
            if bool(sure.any())
        ]
        return torch.stack(risks).sum() if risks else None

    def _pseudo_labels(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self.labels_from == "own":
            chances = logits.softmax(-1)
        elif self.labels_from == "last":
            chances = logits[-1].softmax(-1)
        elif self.labels_from == "uniform":
            chances = combine_heads(logits, "uniform")
        else:
            chances = self.probabilities(logits)
        mixed = self.labels_from in ("uniform", "drm")
        shown = chances.softmax(-1) if self.released_behaviour and mixed else chances
        labels, confident = chances.argmax(-1), shown.amax(-1) >= self.threshold
        shape = logits.shape[:2]
        return labels.expand(shape), confident.expand(shape)


def adaptivity_gap(per_head: Sequence[float], chosen: float) -> float:
    """Accuracy of the best single head on the target, minus that of what was chosen.

    What DRM's bound charges for the choice of hypothesis; it takes target labels to compute, and
    can be negative: a mixture may beat every head. Source: arXiv 2208.08661.

    >>> round(adaptivity_gap([0.61, 0.74, 0.70], chosen=0.69), 2)
    0.05
    """
    return max(per_head) - chosen


def _domain_ids(domains: Any, rows: int) -> Int[NDArray[np.int64], " n"]:
    """One id for each row; 0 … K−1 all there, since heads are told by position."""
    ids = np.asarray(domains)
    present = np.unique(ids)
    if ids.shape != (rows,) or present.tolist() != list(range(len(present))):
        shown = ", ".join(str(name) for name in present[:5])
        raise ValueError(
            f"domains are {rows} ids, 0 … K−1 in the order of the heads and each there at least "
            f"once; they have shape {ids.shape} and say {shown}"
        )
    return ids.astype(np.int64)


def _hardened(weights: Float[Tensor, "batch domains"]) -> Float[Tensor, "batch domains"]:
    return one_hot(weights.argmax(-1), weights.shape[-1]).to(weights)


def _padded(weights: Float[Tensor, "batch domains"], logits: Tensor) -> Tensor:
    """The weights with 0 for heads beyond the domains' own."""
    missing = logits.shape[0] - weights.shape[-1]
    if missing < 0:
        raise ValueError(f"{weights.shape[-1]} domains, but only {logits.shape[0]} heads")
    return nn.functional.pad(weights, (0, missing)).to(logits)
