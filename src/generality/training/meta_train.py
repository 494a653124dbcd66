"""Learn where adaptation starts, and how its gradients are reshaped, from many small tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.modules import gradient_cosine

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MetaTask:
    """Several tasks at once, as losses of one prompt each.

    Attributes:
        support: prompts (tasks, rows, dim) to losses (tasks,) on what a task adapts to.
        query: likewise on what the adapted prompt is judged by, best of another domain: else the
            regulator learns no more than a step size.
        context: mean support representation of each task, for a regulator with a gate.
    """

    support: Loss
    query: Loss
    tasks: int = 1
    context: Float[Tensor, "tasks gate_dim"] | None = None


@dataclass(frozen=True)
class MetaHistory:
    """Of every outer step: the query loss after adaptation, and the least cosine.

    `cosines` are of regulated gradients with their own; below 0 a step no longer goes down.
    """

    losses: list[float] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)


def adapt(
    support: Loss,
    start: Float[Tensor, "tasks rows dim"],
    regulator: nn.Module | None,
    *,
    steps: int,
    learning_rate: float,
    context: Float[Tensor, "tasks gate_dim"] | None = None,
    first_order: bool = True,
) -> Iterator[tuple[Float[Tensor, "tasks rows dim"], float]]:
    """θ ← θ − learning_rate · R(∇ support(θ)), each task by itself; every step's θ and cosine.

    Without a regulator R is the identity. First order: the gradient is a constant, and θ' depends
    on the start and on the regulator only through the formula above.

    >>> start = torch.ones(1, 1, 2)
    >>> [theta[0, 0, 0].item() for theta, _ in adapt(
    ...     lambda p: p.square().sum((1, 2)), start, None, steps=2, learning_rate=0.25)]
    [0.5, 0.25]
    """
    theta = start
    given = () if context is None else (context,)
    for _ in range(steps):
        with torch.enable_grad():
            at = theta.detach().requires_grad_() if first_order else theta
            at = at if at.requires_grad else at.requires_grad_()
            (gradient,) = torch.autograd.grad(
                support(at).sum(), at, create_graph=not first_order
            )  # fmt: skip
        regulated = gradient if regulator is None else regulator(gradient, *given)
        theta = theta - learning_rate * regulated
        yield theta, gradient_cosine(regulated.detach(), gradient.detach()).min().item()


def meta_train(
    prompt: nn.Parameter,
    regulator: nn.Module | None,
    task_sampler: Callable[[int], MetaTask],
    *,
    inner_lr: float,
    inner_steps: int = 1,
    outer_steps: int = 200,
    outer_lr: float = 1e-3,
    first_order: bool = True,
    clip: float = 1.0,
    progress: Callable[[int, int], Any] | None = None,
) -> MetaHistory:
    """Minimise the query loss after adaptation over the prompt's start and the regulator, in place.

    Adam, gradients clipped to a norm of `clip` for each of the two. A prompt or a regulator that
    asks for no gradient (`requires_grad_(False)`) stays as it is, so either learns alone.

    Args:
        prompt: where adaptation starts, (rows, dim): `SoftPrompt.tokens` or any matrix.
        regulator: as `GradientRegulator`; None for plain meta-learning of the start (MAML).
        task_sampler: the tasks of outer step 0, 1, …, as from `cluster_tasks`.
        inner_lr: of adaptation.
        inner_steps: of adaptation, at least 1.
        outer_steps: how often the start and the regulator are updated.
        outer_lr: Adam's rate for both.
        first_order: take the inner gradient for a constant. Otherwise its graph is kept, which
            some fused attention kernels cannot do.
        clip: largest norm of an outer gradient.
        progress: called with how many of how many steps are done.

    Raises:
        ValueError: inner_steps below 1, or nothing to learn.

    Source: GRAM (Li et al. 2023, arXiv 2303.06571, section 3.3); Finn et al. 2017 for first order.

    >>> torch.manual_seed(0)
    <torch._C.Generator object at ...>
    >>> start = nn.Parameter(torch.zeros(1, 2))
    >>> def around_three(step):
    ...     goal = 3 + torch.randn(4, 1, 2)
    ...     loss = lambda prompts: (prompts - goal).square().sum((1, 2))
    ...     return MetaTask(support=loss, query=loss, tasks=4)
    >>> history = meta_train(start, None, around_three, inner_lr=0.1, outer_lr=0.1)
    >>> bool((start - 3).abs().max() < 1)
    True
    """
    if inner_steps < 1:
        raise ValueError(f"inner_steps is at least 1, not {inner_steps}")
    weights = [] if regulator is None else list(regulator.parameters())
    groups = [
        [each for each in group if each.requires_grad] for group in ([prompt], weights)
    ]  # fmt: skip
    learnt = [each for group in groups for each in group]
    if not learnt:
        raise ValueError("neither the prompt nor the regulator asks for gradients")
    optimizer = torch.optim.Adam(learnt, lr=outer_lr)
    history = MetaHistory()
    for step in range(outer_steps):
        task = task_sampler(step)
        path = list(
            adapt(
                task.support, prompt.expand(task.tasks, *prompt.shape), regulator,
                steps=inner_steps, learning_rate=inner_lr, context=task.context,
                first_order=first_order,
            )
        )  # fmt: skip
        loss = task.query(path[-1][0]).mean()
        gradients = torch.autograd.grad(loss, learnt, allow_unused=True)
        for each, gradient in zip(learnt, gradients, strict=True):
            each.grad = gradient
        for group in groups:
            nn.utils.clip_grad_norm_(group, clip)
        optimizer.step()
        history.losses.append(loss.item())
        history.cosines.append(min(cosine for _, cosine in path))
        if progress is not None:
            progress(step + 1, outer_steps)
    return history
