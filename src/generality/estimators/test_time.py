"""Adapting to a stream of unlabelled data at test time: the protocol, and how it is scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from generality.errors import UserError


class UnusableFeatures(UserError, ValueError):  # noqa: N818 - read as a sentence
    """A batch with NaN or infinite features, or of the wrong width; nothing was learned from it."""


@runtime_checkable
class TestTimeAdapter(Protocol):
    """What predicts a stream batch by batch and may learn from each without its labels.

    A batch that cannot be used raises `UnusableFeatures` before anything changes, so that a stream
    goes on with the next one.
    """

    def predict(
        self, batch: Float[Any, "batch ..."], adapt: bool = True
    ) -> Float[Tensor, "batch classes"]:
        """Class probabilities of a batch; with `adapt`, learn from it too."""
        ...

    def reset(self) -> None:
        """Forget what the stream taught."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All that adaptation changes, as plain tensors ready for safetensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state_dict`."""
        ...


@dataclass(frozen=True)
class OnlineScore:
    """How one stream went, in the order it came.

    Attributes:
        probabilities: what was predicted for each example when its batch came.
        correct: whether the most probable class was the true one.
        order: which row of the domain each position of the stream was.
    """

    probabilities: Float[NDArray[np.float32], "n classes"]
    correct: Bool[NDArray[np.bool_], " n"]
    order: Int[NDArray[np.int64], " n"]

    @property
    def accuracy(self) -> float:
        """Over the whole stream, in [0, 1]."""
        return float(self.correct.mean())

    @property
    def first_quarter(self) -> float:
        """Accuracy on the first quarter of the stream."""
        return float(self.correct[: max(1, len(self.correct) // 4)].mean())

    @property
    def last_quarter(self) -> float:
        """Accuracy on the last quarter of the stream."""
        return float(self.correct[-max(1, len(self.correct) // 4) :].mean())


def evaluate_online(
    adapter: TestTimeAdapter,
    domains: Mapping[str, tuple[Any, Any]],
    *,
    batch_size: int = 32,
    reset_between: bool = True,
    adapt: bool = True,
    seed: int | None = 0,
) -> dict[str, OnlineScore]:
    """One pass over each domain's stream; a batch is scored by the prediction made when it came.

    Args:
        adapter: what predicts; it starts from the state it is in.
        domains: name → (inputs (n, …), labels (n,) in 0 … K−1), visited in this order.
        batch_size: examples that come at a time.
        reset_between: forget before every domain; without it the domains form a chain.
        adapt: whether to learn from the stream.
        seed: of the order in which a domain's examples come; None: as given.

    >>> from generality.estimators import T3A
    >>> X = np.array([[1.0, 0.2], [0.1, 1.0], [0.9, 0.0]], dtype=np.float32)
    >>> head = np.eye(2), np.zeros(2)
    >>> evaluate_online(T3A(head), {"here": (X, [0, 1, 0])})["here"].accuracy
    1.0
    """
    scores = {}
    for name, (inputs, labels) in domains.items():
        if reset_between:
            adapter.reset()
        truth = np.asarray(labels)
        order = np.arange(len(truth))
        if seed is not None:
            order = np.random.default_rng(seed).permutation(order)
        probabilities = np.concatenate(
            [
                adapter.predict(inputs[rows], adapt).cpu().numpy()
                for rows in _batches(order, batch_size)
            ]
        )
        scores[name] = OnlineScore(probabilities, probabilities.argmax(1) == truth[order], order)
    return scores


def _batches(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    if size < 1 or len(order) == 0:
        raise ValueError("a stream has at least one example, and a batch too")
    return (order[start : start + size] for start in range(0, len(order), size))


def checked_batch(
    batch: Any, *, dim: int | None = None, device: torch.device | str = "cpu"
) -> Float[Tensor, "batch ..."]:
    """The batch as a float32 tensor.

    Raises:
        UnusableFeatures: names the first row with a NaN or an infinity, or says that the rows are
            not `dim` wide.

    >>> checked_batch([[1.0, 2.0], [float("nan"), 0.0]])
    Traceback (most recent call last):
    ...
    generality.estimators.test_time.UnusableFeatures: Row 1 of the batch (1 of 2 rows) has NaN or
    infinite features; drop or fill such rows and send the batch again: nothing was learned from it.
    """
    rows = torch.as_tensor(batch, dtype=torch.float32, device=device).detach()
    if rows.ndim < 2 or (dim is not None and rows.shape[1:] != (dim,)):
        wanted = "(rows, …)" if dim is None else f"(rows, {dim})"
        raise UnusableFeatures(f"A batch has shape {wanted}, not {tuple(rows.shape)}.")
    if not bool(rows.sum().isfinite()):  # cheap; a sum may also overflow, so look closer
        bad = (~rows.flatten(1).isfinite()).any(1).nonzero().flatten()
        if len(bad):
            raise UnusableFeatures(
                f"Row {int(bad[0])} of the batch ({len(bad)} of {len(rows)} rows) has NaN or "
                "infinite features; drop or fill such rows and send the batch again: nothing was "
                "learned from it."
            )
    return rows
