"""Training one small network on inputs in memory: images, features, tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.lab.progress import Report
from generality.lab.replicate import soft_targets_loss
from generality.lab.threads import threads
from generality.lab.train import Example, TrainConfig, train

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""From a batch of inputs (batch, …) to another of the same shape; draws from the generator only."""


@dataclass(frozen=True)
class Fitted:
    """What a trained network said of the inputs it was asked about.

    Attributes:
        probabilities: class probabilities, (n, classes), of each group, in eval mode.
        losses: training loss of each step.
        weights: the network's `state_dict()`, when it was asked for: load it into `network(seed)`.
    """

    probabilities: dict[str, Float[np.ndarray, "n classes"]]
    losses: list[float]
    weights: dict[str, Tensor] = field(default_factory=dict)


def fit(
    *,
    network: Callable[[int], nn.Module],
    inputs: Float[np.ndarray, "n ..."] | Tensor,
    targets: Float[np.ndarray, "n classes"] | Int[np.ndarray, " n"],
    config: TrainConfig,
    seed: int,
    predict: Mapping[str, np.ndarray],
    objective: Callable[..., Tensor] = soft_targets_loss,
    domains: Int[np.ndarray, " n"] | None = None,
    augment: Augment | None = None,
    keep_weights: bool = False,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Train a network by `generality.lab.train.train` and give class probabilities of other inputs.

    Everything runs on one thread: results do not depend on the number of cores; use `Lab.map` for
    several trainings at a time.

    Args:
        network: called with the seed (torch's generator freshly seeded with it): a function, a
            `functools.partial`, a class. Its forward takes a batch and gives logits.
        inputs: (n, …); half precision is widened batch by batch, integers are passed as they are.
        targets: soft class probabilities (n, classes), or class numbers (n,).
        config: as of `train`; `dropout=True` is train mode, which batch norms need. Inputs are
            of one length, so its bucketing has no effect.
        seed: of the network, the order of examples, dropout and augmentation.
        predict: groups of inputs to give probabilities for, by name.
        objective: loss(logits, soft targets, progress) of a whole optimisation batch; see `train`
            for one with buffers. With `domains` it is called with
            the batch's domains, (batch,) int64, as `domains=` too.
        augment: changes each training batch before the network sees it.
        keep_weights: also return the weights.

    Returns:
        The fields of `Fitted`.

    Raises:
        ValueError: inputs, targets and domains differ in length; class numbers that the network
            has no output for.

    >>> x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    >>> y = (x[:, 0] > 0).astype(int)
    >>> found = fit(network=lambda seed: nn.Linear(3, 2), inputs=x, targets=y, seed=0,
    ...             config=TrainConfig(epochs=60, learning_rate=0.1), predict={"train": x})
    >>> bool((found["probabilities"]["train"].argmax(1) == y).mean() > 0.9)
    True
    """
    with threads(1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _Network(network(seed))
        x = torch.as_tensor(inputs)
        soft = _soft(torch.as_tensor(targets), model, x)
        if len(x) != len(soft) or (domains is not None and len(domains) != len(x)):
            raise ValueError(
                f"{len(x)} inputs, {len(soft)} targets and "
                f"{len(soft) if domains is None else len(domains)} domains: they must be as many"
            )

        def collate(examples: list[Example]) -> dict[str, Tensor]:
            batch = _widened(x[[example["row"] for example in examples]])
            # The loop seeds this generator, and keeps its state in checkpoints.
            return {"batch": batch if augment is None else augment(batch, torch.default_generator)}

        rows = soft
        if domains is not None:
            rows = torch.cat([soft, torch.as_tensor(domains)[:, None].to(soft)], 1)
        result = train(
            model,
            [{"row": row, "targets": wanted} for row, wanted in enumerate(rows)],
            objective if domains is None else _WithDomains(objective),
            replace(config, bucketing="none"),
            seed=seed,
            collate=collate,
            device=device,
            checkpoint=checkpoint,
            progress=progress,
        )
        return {
            "probabilities": {
                name: predict_proba(model.network, group) for name, group in predict.items()
            },
            "losses": [float(loss) for loss in result.history],
            "weights": dict(model.network.state_dict()) if keep_weights else {},
        }


@torch.inference_mode()
def predict_proba(
    network: nn.Module, inputs: np.ndarray | Tensor, *, batch_size: int = 256
) -> Float[np.ndarray, "n classes"]:
    """Class probabilities in eval mode, on the network's device; it is left in eval mode.

    >>> predict_proba(nn.Softmax(-1), np.zeros((3, 2), np.float32)).tolist()
    [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    """
    network.eval()
    place = next((p.device for p in network.parameters()), torch.device("cpu"))
    batches = torch.as_tensor(inputs).split(batch_size)
    found = [network(_widened(batch).to(place)).softmax(-1).cpu() for batch in batches]
    return torch.cat(found).numpy()


class _Network(nn.Module):
    """Takes the batch by name, as the loop gives it; names no parameter anew for weight decay."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> Tensor:
        output: Tensor = self.network(batch)
        return output

    def no_weight_decay(self) -> list[str]:
        names: list[str] = getattr(self.network, "no_weight_decay", list)()
        return [f"network.{name}" for name in names]


class _WithDomains(nn.Module):
    """Hands the targets' last column to the objective as the batch's domains."""

    def __init__(self, objective: Callable[..., Tensor]) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, logits: Tensor, wanted: Tensor, progress: float) -> Tensor:
        domains = wanted[:, -1].long()
        return self.objective(logits, wanted[:, :-1], progress, domains=domains)


def _soft(targets: Tensor, model: nn.Module, inputs: Tensor) -> Float[Tensor, "n classes"]:
    if targets.ndim == 2:
        return targets.float()
    with torch.no_grad():
        classes = copy.deepcopy(model).eval()(_widened(inputs[:1])).shape[-1]
    if not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        raise ValueError(
            f"class numbers from {int(targets.min())} to {int(targets.max())}, "
            f"but the network gives logits of {classes} classes"
        )
    return nn.functional.one_hot(targets.long(), classes).float()


def _widened(batch: Tensor) -> Tensor:
    return batch.float() if batch.is_floating_point() else batch
