"""Examples that a small model learns alike, and a subset that has some of every kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.lab import Lab, TrainConfig

_TUNING = TrainConfig(epochs=3, batch_size=16, learning_rate=5e-4, warmup=0.03)


class SmallToLarge:
    """S2L: n examples spread evenly over the ways in which their losses went down.

    Examples whose losses moved alike while a small model was trained have similar gradients, so
    that a few of each kind stand for all. Trajectories are clustered by k-means; from the smallest
    cluster to the largest each gets an equal share of what is still to be taken: small clusters
    whole, large ones by a draw.

    Args:
        n: examples to take.
        k: clusters; the paper's is 100.
        seed: of clusters and draws.

    Attributes:
        members: after `select`, the cluster of each example.

    Source: Yang et al. 2024 (arXiv 2403.07384), algorithm 1.

    >>> slow, quick = [[2.0, 1.9, 1.8]] * 6, [[2.0, 0.5, 0.1]] * 2
    >>> SmallToLarge(4, k=2).select(np.array(slow + quick))[2:].tolist()
    [6, 7]
    """

    def __init__(self, n: int, *, k: int = 100, seed: int = 0) -> None:
        if n < 1 or k < 1:
            raise ValueError(f"n and k are at least 1, not {n} and {k}")
        self.n, self.k, self.seed = n, k, seed

    def select(
        self, trajectories: Float[np.ndarray, "examples checkpoints"]
    ) -> Int[np.ndarray, " chosen"]:
        """Rows to take, in their order.

        Raises ValueError for no rows, another shape or a loss that is not finite.
        """
        from sklearn.cluster import KMeans

        rows = np.asarray(trajectories, dtype=np.float64)
        if rows.ndim != 2 or not len(rows) or not np.isfinite(rows).all():
            raise ValueError("trajectories are (examples, checkpoints), one or more, and finite")
        k = min(self.k, len(np.unique(rows, axis=0)))
        found = KMeans(k, n_init=3, random_state=self.seed).fit(rows)
        self.members: Int[np.ndarray, " examples"] = np.asarray(found.labels_)
        clusters = [np.flatnonzero(self.members == place) for place in range(k)]
        clusters.sort(key=len)
        rng = np.random.default_rng(self.seed)
        shares = equal_shares(list(map(len, clusters)), self.n)
        taken = [
            rng.choice(cluster, share, replace=False)
            for cluster, share in zip(clusters, shares, strict=True)
        ]
        return np.sort(np.concatenate(taken))


def equal_shares(sizes: Sequence[int], n: int) -> list[int]:
    """How many to take of each of several groups, smallest first, so that they are n in all.

    Each gets an equal share of what is left, and no more than it has.

    >>> equal_shares([2, 5, 30], 15), equal_shares([2, 5], 9)
    ([2, 5, 8], [2, 5])
    """
    if list(sizes) != sorted(sizes):
        raise ValueError("sizes are given in ascending order")
    shares: list[int] = []
    for place, size in enumerate(sizes):
        shares.append(min(size, (n - sum(shares)) // (len(sizes) - place)))
    return shares


@dataclass(frozen=True)
class ProxyTraining:
    """A small model looked at several times while it is trained: what any example's loss was then.

    Attributes:
        network: from a seed to the model, as `lora_network` or `functools.partial(tiny_decoder, …)`
            gives it.
        tokenizer: its tokenizer.
        looks: its weights each time, the last when it was done.

    >>> import functools, tempfile
    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> lab, tokenizer = Lab(home=tempfile.mkdtemp(), progress=False), world_tokenizer()
    >>> network = functools.partial(tiny_decoder, "0.05M", vocabulary=len(tokenizer))
    >>> prompts, responses = [f"{a} + {a} ?" for a in "0123"], ["=> 0", "=> 2", "=> 4", "=> 1"]
    >>> proxy = ProxyTraining.of(lab, network, tokenizer, prompts, responses, looks=2)
    >>> proxy.losses(lab, prompts, responses).shape
    (4, 2)
    """

    network: Callable[[int], nn.Module]
    tokenizer: Any
    looks: tuple[Mapping[str, Tensor], ...]

    @classmethod
    def of(
        cls,
        lab: Lab,
        network: Callable[[int], nn.Module],
        tokenizer: Any,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        weights: Mapping[str, Tensor] | None = None,
        looks: int = 4,
        tuning: TrainConfig = _TUNING,
        max_length: int | None = None,
        seed: int = 0,
    ) -> ProxyTraining:
        """Train it on these, and keep it at equal steps; no more looks than there are steps.

        It begins with `weights`; None: as the network comes.

        The paper trains all weights on all data for three epochs. With `lora_network` LoRA alone is
        trained (looks take kilobytes; losses move less), and the examples may be a sample of those
        that are then looked at.
        """
        steps = tuning.steps(len(prompts))
        count = min(looks, steps)
        shares = [place / count for place in range(1, count)]
        tuned = lab.sft(
            network, prompts, responses, tokenizer=tokenizer, config=tuning, seed=seed,
            max_length=max_length, keep=shares, weights=weights,
        )  # fmt: skip
        kept = (tuned.kept[share] for share in sorted(tuned.kept, key=float))
        return cls(network, tokenizer, (*kept, tuned.weights))

    def losses(
        self, lab: Lab, prompts: Sequence[str], responses: Sequence[str], *, batch_size: int = 16
    ) -> Float[np.ndarray, "examples looks"]:
        """Mean loss of a response's tokens at each look, nats, kept; NaN beyond the context."""
        found: Float[np.ndarray, "examples looks"] = lab.step(
            losses_at, self.network, self.looks, self.tokenizer, list(prompts), list(responses),
            batch_size, lab.device,
        )  # fmt: skip
        return found


def losses_at(
    network: Callable[[int], nn.Module], looks: Sequence[Mapping[str, Tensor]], tokenizer: Any,
    prompts: list[str], responses: list[str], batch_size: int, device: str,
) -> Float[np.ndarray, "examples looks"]:  # fmt: skip
    """The memoised step behind `ProxyTraining.losses`."""
    from generality.measures import response_logprob
    from generality.models import resolve_device

    model = network(0).to(resolve_device(device)).eval()
    columns = []
    for weights in looks:
        model.load_state_dict(dict(weights))
        found = response_logprob(
            model, tokenizer, prompts, responses, batch_size=batch_size,
            include_eos=tokenizer.eos_token_id is not None,
        )  # fmt: skip
        columns.append(-found.numpy())
    return np.stack(columns, axis=1).astype(np.float32)
