"""AdvStyle's second trainer: the styles alone, several times, before each step of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.lab import TrainConfig
from generality.lab.fit import predict_proba
from generality.lab.schedules import learning_rate_factor
from generality.lab.threads import threads
from generality.modules import style_parameters


def fit_style_ascent(
    *,
    network: Callable[[int], nn.Module],
    inputs: Float[np.ndarray, "n ..."],
    targets: Int[np.ndarray, " n"],
    config: TrainConfig,
    seed: int,
    predict: Mapping[str, np.ndarray],
    device: str = "cpu",
    ascents: int = 3,
) -> dict[str, Any]:
    """Train a network with `FeatureStatPerturb` modules by turns; arguments as of `lab.fit`.

    On every batch `ascents` passes update the styles by plain SGD, whose gradient the module has
    reversed, then one pass updates everything else by SGD with `config`'s momentum and weight
    decay. It costs 1 + `ascents` times plain training, and batch norms see every pass. `lab.fit`
    does both in one pass, the paper's first trainer.

    Source: Zhang et al. 2023 (arXiv 2301.12643), released code.

    Raises:
        ValueError: the network has no learnt style.

    Returns:
        "probabilities" of each group of `predict`, and "weights", the network's `state_dict`.
    """
    with threads(1), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network(seed).to(device).train()
        torch.manual_seed(seed)
        styles = style_parameters(model)
        if not styles:
            raise ValueError("the network has no learnt style: insert FeatureStatPerturb modules")
        others = [p for name, p in model.named_parameters() if name not in styles]
        ascent = torch.optim.SGD(styles.values(), lr=config.learning_rate)
        descent = torch.optim.SGD(
            others, config.learning_rate, config.momentum, weight_decay=config.weight_decay
        )
        x, y = torch.as_tensor(inputs), torch.as_tensor(targets).long()
        batches = _batches(len(x), config.batch_size, seed)
        total = config.steps(len(x))
        for step in range(total):
            rows = next(batches)
            batch, labels = x[rows].float().to(device), y[rows].to(device)
            factor = learning_rate_factor(config.schedule, step, total, warmup=config.warmup)
            for optimizer in [ascent] * ascents + [descent]:
                optimizer.param_groups[0]["lr"] = config.learning_rate * factor
                model.zero_grad()
                nn.functional.cross_entropy(model(batch), labels).backward()
                optimizer.step()
        said = {name: predict_proba(model, group) for name, group in predict.items()}
        return {"probabilities": said, "weights": dict(model.state_dict())}


def _batches(n: int, size: int, seed: int) -> Iterator[Tensor]:
    """The order of `lab.train`."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=generator).split(size)
