"""A nearest-neighbour classifier that grows its memory from the stream it predicts."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.nn.functional import normalize

from generality.estimators.feature_memory import FeatureMemory
from generality.estimators.test_time import checked_batch
from generality.objectives.knn_nll import neighbour_vote


class AdaNPCAdapter:
    """Predicts by the vote of a memory and stores what it was confident about: a `TestTimeAdapter`.

    A batch is scored by the memory as it was before the batch, then its confident examples are
    stored under the predicted class. `reset` goes back to the protected entries.

    Source: Zhang et al. 2023 (AdaNPC, arXiv 2304.12566).

    Args:
        memory: the source's features and labels, protected (see `FeatureMemory.protect`).
        threshold: least score of the predicted class, in [0, 1], for an example to be stored; 0
            stores all, anything above 1 none. `score_threshold` converts the paper's β.
        released_behaviour: compare `threshold` with the largest entry of softmax(scores), as the
            released code does: with C classes that is at most e / (e + C − 1).

    >>> memory = FeatureMemory(dim=2, classes=2, k=3)
    >>> memory.add([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]], [0, 0, 1, 1])
    >>> memory.protect()
    >>> adapter = AdaNPCAdapter(memory)
    >>> adapter.predict([[0.6, 0.8]]), len(memory)
    (tensor([[0.8358, 0.1642]]), 5)
    """

    def __init__(
        self, memory: FeatureMemory, *, threshold: float = 0.0, released_behaviour: bool = False
    ) -> None:
        self.memory, self.threshold = memory, threshold
        self.released_behaviour = released_behaviour

    @torch.no_grad()
    def predict(
        self, batch: Float[Any, "batch dim"], adapt: bool = True
    ) -> Float[Tensor, "batch classes"]:
        """Class probabilities; with `adapt`, store the confident examples afterwards."""
        scores = self.memory.scores(batch)
        if adapt:
            self._store(checked_batch(batch, device=self.memory.device), scores)
        return scores

    def reset(self) -> None:
        """Forget the stream."""
        self.memory.reset()

    def state_dict(self) -> dict[str, Tensor]:
        """The memory."""
        return self.memory.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state_dict`."""
        self.memory.load_state_dict(state)

    def _store(self, features: Tensor, scores: Tensor) -> None:
        shown = scores.softmax(-1) if self.released_behaviour else scores
        confident = shown.amax(-1) >= self.threshold
        self.memory.add(features[confident], scores.argmax(-1)[confident])


class AdaNPCBatchNorm(AdaNPCAdapter):
    """AdaNPC-BN: a batch normalisation before the vote, its scale and shift tuned by entropy.

    For every batch, `steps` times: normalise by the batch's own statistics, vote, and take a step
    of Adam on the affine parameters towards less entropy of the votes. The batch is then stored as
    last normalised. The source's features are standardised by their own statistics before they are
    stored, so that queries and entries share a space.

    Source: Zhang et al. 2023 (arXiv 2304.12566). Two departures, both undone by
    `released_behaviour`: the entropy is of the votes and not of their softmax, and a batch is
    stored after its last step and not in each, where it would vote with itself.

    Args:
        memory: empty, with its k (1 or 5 in the paper) and temperature.
        features: (n, dim) of the source.
        labels: (n,) their classes.
        steps: per batch; 1 or 3 in the paper.
        learning_rate: of Adam.
        threshold: as in `AdaNPCAdapter`.
        released_behaviour: see above.
    """

    def __init__(
        self,
        memory: FeatureMemory,
        features: Float[Any, "n dim"],
        labels: Shaped[Any, " n"],
        *,
        steps: int = 1,
        learning_rate: float = 1e-3,
        threshold: float = 0.0,
        released_behaviour: bool = False,
    ) -> None:
        super().__init__(memory, threshold=threshold, released_behaviour=released_behaviour)
        rows = checked_batch(features, dim=memory.dim, device=memory.device)
        if len(rows) < 2 or steps < 1:
            raise ValueError("batch statistics need two source rows, and a batch at least a step")
        if len(memory):
            raise ValueError("the memory must be empty: features are normalised before they enter")
        self.norm = nn.BatchNorm1d(memory.dim, track_running_stats=False).to(memory.device)
        self.steps, self.learning_rate = steps, learning_rate
        with torch.no_grad():
            memory.add(self.norm(rows), labels)
        memory.protect()
        self._start = copy.deepcopy(self.norm.state_dict())
        self._optimizer = torch.optim.Adam(self.norm.parameters(), learning_rate)

    @torch.enable_grad()
    def predict(
        self, batch: Float[Any, "batch dim"], adapt: bool = True
    ) -> Float[Tensor, "batch classes"]:
        """Class probabilities of a batch of two or more; with `adapt`, tune and store."""
        rows = checked_batch(batch, dim=self.memory.dim, device=self.memory.device)
        if len(rows) < 2:
            raise ValueError("batch statistics need a batch of at least two rows")
        for step in range(self.steps if adapt else 1):
            normal = self.norm(rows)
            scores = self.memory.scores(normal)
            if not adapt:
                break
            shown = scores.softmax(-1) if self.released_behaviour else scores
            loss = -(shown * (shown + 1e-5).log()).sum(-1).mean()
            if self.released_behaviour or step == self.steps - 1:
                self._store(normal.detach(), scores.detach())
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        return scores.detach()

    def reset(self) -> None:
        """Forget the stream."""
        super().reset()
        self.norm.load_state_dict(self._start)
        self._optimizer = torch.optim.Adam(self.norm.parameters(), self.learning_rate)

    def state_dict(self) -> dict[str, Tensor]:
        """The memory and the affine parameters; Adam's moments start anew."""
        norm = {f"norm.{name}": tensor.clone() for name, tensor in self.norm.state_dict().items()}
        return {**super().state_dict(), **norm}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state_dict`."""
        super().load_state_dict(state)
        names = [name for name in state if name.startswith("norm.")]
        self.norm.load_state_dict({name.removeprefix("norm."): state[name] for name in names})
        self._optimizer = torch.optim.Adam(self.norm.parameters(), self.learning_rate)


class AdaNPC(ClassifierMixin, BaseEstimator):
    """AdaNPC on your own features: fit on labelled ones, predict a stream that it learns from.

    `predict` and `predict_proba` change nothing. `predict_stream` predicts batch by batch and
    stores what it is confident about; `partial_fit` stores labelled examples, or unlabelled ones
    the way `predict_stream` does. The memory never exceeds `max_memory`.

    Source: Zhang et al. 2023 (AdaNPC, arXiv 2304.12566), with its defaults; the memory there has
    no bound and its k is 100 and temperature 0.1.

    Args:
        k: neighbours that vote.
        temperature: of the softmax over cosine similarities.
        threshold: least score, in [0, 1], of the predicted class of an example that is stored; 0
            stores all, as the paper's β of 0.1 does with up to 10 classes. `score_threshold`
            converts others.
        max_memory: most examples stored. Labelled ones of `fit` take at most half of it (a
            stratified random part, with a warning, when there are more) and stay; those that come
            later replace the oldest of their kind.
        index: "exact", or "approximate" through faiss once there are 10,000 entries.
        batch_size: examples that are predicted before any of them is stored.
        released_behaviour: see `AdaNPCAdapter`.
        random_state: seed of that random part.

    Attributes:
        classes_: (K,) the labels.
        memory_: the `FeatureMemory`.

    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(2, size=300)
    >>> X = np.c_[np.cos(y + 0.2 * rng.normal(size=300)), np.sin(y + 0.2 * rng.normal(size=300))]
    >>> model = AdaNPC(k=10).fit(X[:100], y[:100])
    >>> bool((model.predict_stream(X[100:]) == y[100:]).mean() > 0.9), len(model.memory_)
    (True, 300)
    """

    def __init__(
        self,
        *,
        k: int = 100,
        temperature: float = 0.1,
        threshold: float = 0.0,
        max_memory: int = 100_000,
        index: Literal["exact", "approximate"] = "exact",
        batch_size: int = 32,
        released_behaviour: bool = False,
        random_state: int = 0,
    ) -> None:
        self.k = k
        self.temperature = temperature
        self.threshold = threshold
        self.max_memory = max_memory
        self.index = index
        self.batch_size = batch_size
        self.released_behaviour = released_behaviour
        self.random_state = random_state

    def fit(self, X: Float[Any, "n d"], y: Shaped[Any, " n"]) -> AdaNPC:
        """Start the memory from labelled features."""
        X = self._checked(X, reset=True)
        return self._start(X, self._labels(y, len(X)), None)

    def partial_fit(
        self,
        X: Float[Any, "n d"],
        y: Shaped[Any, " n"] | None = None,
        classes: Shaped[Any, " K"] | None = None,
    ) -> AdaNPC:
        """Store labelled examples (`y`), or unlabelled ones under confident predictions.

        Args:
            X: features.
            y: labels; None: predict them.
            classes: all labels there will be, needed at the first call when it does not show them.
        """
        started = hasattr(self, "memory_")
        if not started and y is None:
            raise ValueError("the first call needs labels (y): there is nothing to predict from")
        X = self._checked(X, reset=not started)
        if y is None:
            for start in range(0, len(X), self.batch_size):
                self.adapter.predict(X[start : start + self.batch_size])
            return self
        labels = self._labels(y, len(X))
        if not started:
            return self._start(X, labels, classes)
        unseen = np.setdiff1d(labels, self.classes_)
        if len(unseen):
            raise ValueError(f"label {unseen[0]!r} was not among the classes of the first call")
        self.memory_.add(X, np.searchsorted(self.classes_, labels))
        return self

    def predict_proba(self, X: Float[Any, "n d"]) -> Float[NDArray[np.float64], "n classes"]:
        """Probability of each class, in the order of `classes_`, from the memory as it is."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        parts = [self._vote(X[start : start + 64]) for start in range(0, len(X), 64)]
        return np.concatenate(parts)

    def predict(self, X: Float[Any, "n d"]) -> Shaped[NDArray[Any], " n"]:
        """The most probable class of each example, from the memory as it is."""
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(1)]
        return labels

    def predict_stream(self, X: Float[Any, "n d"]) -> Shaped[NDArray[Any], " n"]:
        """Predict batch by batch in the order given, storing what is confident after each batch.

        Raises:
            UnusableFeatures: (a ValueError) for NaN or infinite features anywhere in X; nothing of
                X is stored then.
        """
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        parts = [
            self.adapter.predict(X[start : start + self.batch_size]).argmax(1).numpy()
            for start in range(0, len(X), self.batch_size)
        ]
        labels: NDArray[Any] = self.classes_[np.concatenate(parts)]
        return labels

    @property
    def adapter(self) -> AdaNPCAdapter:
        """This estimator's memory as a `TestTimeAdapter`."""
        check_is_fitted(self)
        return AdaNPCAdapter(
            self.memory_, threshold=self.threshold, released_behaviour=self.released_behaviour
        )

    def reset(self) -> AdaNPC:
        """Forget all that came after the first call of `fit` or `partial_fit`."""
        check_is_fitted(self)
        self.memory_.reset()
        return self

    def _vote(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """The memory's scores with similarities in double precision: no batch size changes them."""
        slots = self.memory_.nearest(X)[1]
        unit = normalize(torch.from_numpy(X).double(), dim=-1)
        stored = normalize(self.memory_.features[slots].double(), dim=-1)
        similar = torch.einsum("bd,bkd->bk", unit, stored).masked_fill(slots < 0, -torch.inf)
        labels = self.memory_.labels[slots]
        votes = neighbour_vote(similar, labels, len(self.classes_), self.temperature)
        return np.asarray(votes.numpy())

    def _start(self, X: NDArray, labels: NDArray, classes: Any) -> AdaNPC:
        if self.max_memory < 2 or self.batch_size < 1:
            raise ValueError("max_memory is at least 2 and batch_size at least 1")
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if classes is not None:
            self.classes_ = np.unique(classes)
            if len(np.setdiff1d(labels, self.classes_)):
                raise ValueError("y has labels that are not in classes")
            codes = np.searchsorted(self.classes_, labels)
        kept = stratified_part(codes, self.max_memory // 2, self.random_state)
        if len(kept) < len(codes):
            warnings.warn(
                f"{len(codes)} labelled examples are more than half of max_memory="
                f"{self.max_memory}: a random {len(kept)} of them are kept",
                stacklevel=3,
            )
        self.memory_ = FeatureMemory(
            X.shape[1], len(self.classes_), k=self.k, temperature=self.temperature,
            capacity=self.max_memory, index=self.index,
        )  # fmt: skip
        self.memory_.add(X[kept], codes[kept])
        self.memory_.protect()
        return self

    def _labels(self, y: Any, n: int) -> NDArray:
        if y is None:
            raise ValueError("AdaNPC requires y to be passed, but the target y is None")
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        if len(labels) != n:
            raise ValueError(f"X and y are of the same examples, not {n} and {len(labels)}")
        return labels

    def _checked(self, X: Any, *, reset: bool) -> NDArray[np.float32]:
        X = validate_data(self, X, dtype=np.float32, reset=reset, ensure_all_finite=False)
        return np.asarray(checked_batch(X).numpy())


def stratified_part(
    labels: Shaped[NDArray[Any], " n"], size: int, seed: int
) -> Shaped[NDArray[np.int64], " m"]:
    """Positions of a random part of at most `size`, every class in proportion, in order.

    >>> stratified_part(np.array([0, 0, 0, 0, 1, 1]), 3, seed=0).size
    3
    """
    if len(labels) <= size:
        return np.arange(len(labels))
    # Taking each class's examples at even strides of its own random order keeps proportions.
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        place[rng.permutation(own)] = (np.arange(len(own)) + 0.5) / len(own)
    return np.sort(np.argsort(place, kind="stable")[:size])


def score_threshold(beta: float, classes: int) -> float:
    """The score at which softmax(scores) reaches the paper's confidence threshold β.

    The paper's code thresholds the softmax of scores that already are a distribution. With C
    classes, and the other scores at 0, that is e^s / (e^s + C − 1) ≥ β; a result above 1 means
    never. Source: released code of Zhang et al. 2023 (arXiv 2304.12566).

    >>> [round(score_threshold(0.25, classes), 3) for classes in (7, 65)]
    [0.693, 3.06]
    """
    if classes < 2:
        raise ValueError("there are at least two classes")
    if beta >= 1:
        return math.inf
    return 0.0 if beta <= 1 / classes else math.log(beta * (classes - 1) / (1 - beta))
