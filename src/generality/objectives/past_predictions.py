"""A model's own predictions from one epoch earlier, as softened targets for this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed, nn

from generality.objectives.soft_cross_entropy import soft_cross_entropy

_CHUNK = 65_536  # rows that a commit moves at a time


class PastPredictionTable(nn.Module):
    """What a model said of each example when it last saw it: `lookup`, `stage`, `commit`.

    `lookup` reads what was staged before the last `commit`, so that an example which comes twice in
    an epoch (a sampler with replacement, padding in distributed training) still gets last epoch's
    prediction. Rows that an epoch does not reach keep their older prediction. All is in buffers:
    `state_dict`, `.to`, checkpoints and a resumed epoch work as for any module.

    Memory, twice over (one table is read, one is written): items · classes · bytes of `dtype`;
    1.28 million images of 1000 classes in half precision take 2.6 GB a table, with `topk=10` 77 MB.
    Where several processes train, each call of `stage` gathers the rows of all of them, so that
    every process has the whole table.

    Source: Kim et al. 2021 (arXiv 2006.12000), section 3.1 and the released code, whose one table
    is the same where every example comes once per epoch.

    Args:
        items: how many examples there are; `index` counts them from 0.
        classes: how many classes.
        dtype: of what is stored; rows are renormalised when they are read.
        topk: store the largest probabilities only; what they leave is spread evenly over the other
            classes. None: all of them.
        path: a folder to map the tables from disk in, for tables larger than memory. What is in it
            is written over.

    >>> table = PastPredictionTable(items=3, classes=2)
    >>> index, labels = torch.tensor([0, 2]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> table.lookup(index, labels)  # nothing is known yet: the labels themselves
    tensor([[1., 0.],
            [0., 1.]])
    >>> table.stage(index, torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    >>> table.commit()
    >>> table.lookup(index, labels)
    tensor([[0.7500, 0.2500],
            [0.5000, 0.5000]])
    """

    past: Tensor
    past_at: Tensor
    past_known: Tensor
    staged: Tensor
    staged_at: Tensor
    staged_known: Tensor

    def __init__(
        self,
        items: int,
        classes: int,
        *,
        dtype: torch.dtype = torch.float16,
        topk: int | None = None,
        path: str | Path | None = None,
    ) -> None:
        super().__init__()
        if items < 1 or classes < 2 or not 1 <= (topk or 1) <= classes:
            raise ValueError(
                f"a table has an item or more, two classes or more and 1 ≤ topk ≤ classes, not "
                f"{items}, {classes} and {topk}"
            )
        self.items, self.classes, self.topk = items, classes, topk
        self.folder = None if path is None else Path(path)
        width = topk or classes
        for name in ("past", "staged"):
            self.register_buffer(name, self._made(name, width, dtype))
            if topk is not None:
                self.register_buffer(f"{name}_at", self._made(f"{name}_at", width, torch.int32))
            self.register_buffer(f"{name}_known", torch.zeros(items, dtype=torch.bool))

    def _made(self, name: str, width: int, dtype: torch.dtype) -> Tensor:
        if self.folder is None:
            return torch.zeros(self.items, width, dtype=dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        size = self.items * width
        file = str(self.folder / f"{name}.bin")
        return torch.from_file(file, shared=True, size=size, dtype=dtype).view(self.items, width)

    @torch.no_grad()
    def lookup(
        self, index: Int[Tensor, " batch"], default: Float[Tensor, "batch classes"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        """What was last said of these examples; `default` (their labels) where nothing was.

        Raises:
            ValueError: an index that there is not, or nothing was said of some of them and there is
                no default.
        """
        self._check(index)
        rows = index.to(self.past.device).long()
        known = self.past_known[rows]
        if default is None and not bool(known.all()):
            raise ValueError("nothing was predicted yet for some examples: give their labels")
        found = self._dense(rows).to(index.device)
        if default is None:
            return found
        return torch.where(known.to(index.device)[:, None], found.to(default.dtype), default)

    def _dense(self, rows: Tensor) -> Tensor:
        stored = self.past[rows].float()
        if self.topk is None:
            return stored / stored.sum(-1, keepdim=True).clamp_min(1e-12)
        rest = (1 - stored.sum(-1, keepdim=True)).clamp_min(0) / max(1, self.classes - self.topk)
        dense = rest.expand(-1, self.classes).scatter(-1, self.past_at[rows].long(), stored)
        return dense / dense.sum(-1, keepdim=True).clamp_min(1e-12)

    @torch.no_grad()
    def stage(
        self, index: Int[Tensor, " batch"], probabilities: Float[Tensor, "batch classes"]
    ) -> None:
        """Note this epoch's predictions; they count from the next `commit`. The last note wins.

        Raises:
            ValueError: an index that there is not, or another number of classes.
        """
        rows, values = _from_all(index.detach(), probabilities.detach())
        if values.shape != (len(rows), self.classes):
            raise ValueError(
                f"{tuple(values.shape)} probabilities are not ({len(rows)}, {self.classes})"
            )
        self._check(rows)
        rows = rows.to(self.staged.device).long()
        if self.topk is not None:
            values, at = values.topk(self.topk, dim=-1)
            self.staged_at[rows] = at.to(self.staged_at)
        self.staged[rows] = values.to(self.staged)
        self.staged_known[rows] = True

    def _check(self, index: Tensor) -> None:
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.items:
            raise ValueError(f"an index is outside of the table's {self.items} items")

    @torch.no_grad()
    def commit(self) -> None:
        """Call when an epoch ends: what was staged is what `lookup` gives from now on."""
        for first in range(0, self.items, _CHUNK):
            part = slice(first, first + _CHUNK)
            new = self.staged_known[part]
            self.past[part][new] = self.staged[part][new]
            if self.topk is not None:
                self.past_at[part][new] = self.staged_at[part][new]
            self.past_known[part] |= new
        self.staged_known.zero_()

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"items={self.items}, classes={self.classes}, topk={self.topk}"


def _from_all(index: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of every process, where there are several."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return index, values
    processes = distributed.get_world_size()
    sizes = [torch.zeros(1, dtype=torch.long, device=index.device) for _ in range(processes)]
    distributed.all_gather(sizes, torch.tensor([len(index)], device=index.device))
    longest = max(int(size) for size in sizes)
    every = []
    for mine in (index.long(), values.contiguous()):
        padded = mine.new_zeros(longest, *mine.shape[1:])
        padded[: len(mine)] = mine
        gathered = [torch.empty_like(padded) for _ in range(processes)]
        distributed.all_gather(gathered, padded)
        every.append(torch.cat([rows[: int(n)] for rows, n in zip(gathered, sizes, strict=True)]))
    return every[0], every[1]


Schedule = Literal["linear", "constant"] | Callable[[float], float]


def progressive_targets(
    targets: Float[Tensor, "batch classes"],
    past: Float[Tensor, "batch classes"],
    alpha: float,
) -> Float[Tensor, "batch classes"]:
    """(1 − alpha) · targets + alpha · past: the labels, softened by one's own earlier beliefs.

    Source: Kim et al. 2021 (arXiv 2006.12000), equation 4.

    >>> labels, past = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.3, 0.2]])
    >>> progressive_targets(labels, past, alpha=0.4)
    tensor([[0.8000, 0.1200, 0.0800]])
    """
    return (1 - alpha) * targets + alpha * past


class ProgressiveTargets(nn.Module):
    """Labels softened by past predictions, with a weight that grows over training.

    In epoch e of E (the first is 0) the past weighs alpha · (e + 1) / E under "linear", alpha under
    "constant", and alpha · schedule((e + 1) / E) for a function.

    Args:
        alpha: weight of the past in the last epoch, in [0, 1]: the paper takes 0.8.
        epochs: how many there are.
        schedule: "linear", "constant" or a function of the share of epochs begun.

    In your own loop, with a data set that gives each example's `index` too:

    >>> network = torch.nn.Linear(4, 3)
    >>> x, y = torch.randn(12, 4), torch.arange(12) % 3
    >>> table, soften = PastPredictionTable(items=12, classes=3), ProgressiveTargets(0.8, epochs=5)
    >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    >>> for epoch in range(5):
    ...     for index in torch.randperm(12).split(4):
    ...         logits, labels = network(x[index]), nn.functional.one_hot(y[index], 3).float()
    ...         target = soften(labels, table.lookup(index, labels), epoch)
    ...         loss = nn.functional.cross_entropy(logits, target)
    ...         optimizer.zero_grad(); loss.backward(); optimizer.step()
    ...         table.stage(index, logits.softmax(-1))
    ...     table.commit()
    >>> round(soften.weight(0), 2), round(soften.weight(4), 2)
    (0.16, 0.8)
    """

    def __init__(self, alpha: float = 0.8, *, epochs: int, schedule: Schedule = "linear") -> None:
        super().__init__()
        if not 0 <= alpha <= 1 or epochs < 1:
            raise ValueError(f"alpha is in [0, 1] and epochs at least 1, not {alpha} and {epochs}")
        if not callable(schedule) and schedule not in ("linear", "constant"):
            raise ValueError(f"schedule is 'linear', 'constant' or a function, not '{schedule}'")
        self.alpha, self.epochs, self.schedule = alpha, epochs, schedule

    def weight(self, epoch: int) -> float:
        """Of the past in this epoch, the first being 0; epochs after the last count as the last."""
        begun = min(epoch + 1, self.epochs) / self.epochs
        if callable(self.schedule):
            return self.alpha * self.schedule(begun)
        return self.alpha * (begun if self.schedule == "linear" else 1.0)

    def forward(
        self,
        targets: Float[Tensor, "batch classes"],
        past: Float[Tensor, "batch classes"],
        epoch: int,
    ) -> Float[Tensor, "batch classes"]:
        """The softened targets."""
        return progressive_targets(targets, past, self.weight(epoch))

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"alpha={self.alpha}, epochs={self.epochs}, schedule={self.schedule!r}"


class SelfDistillation(nn.Module):
    """Progressive self-distillation as a loss for `lab.fit`, `lab.finetune` and their kin.

    Called as loss(logits, targets, progress), where the targets' last column is each example's
    index: `indexed(targets)`. The table is part of the loss: each call stages what it was given and
    commits when an epoch of `progress` is over, which takes whole passes over the examples. Not
    under `torch.func.vmap`, where replicas would need a table each.

    Args:
        items: how many examples there are.
        classes: how many classes.
        epochs: of the training, as in its configuration.
        alpha: weight of the past in the last epoch.
        schedule: see `ProgressiveTargets`.

    >>> loss = SelfDistillation(items=2, classes=2, epochs=2)
    >>> targets = indexed(torch.eye(2))
    >>> logits = torch.zeros(2, 2)
    >>> [round(loss(logits, targets, progress).item(), 3) for progress in (0.0, 0.5)]
    [0.693, 0.693]
    """

    epoch: Tensor

    def __init__(
        self,
        items: int,
        classes: int,
        *,
        epochs: int,
        alpha: float = 0.8,
        schedule: Schedule = "linear",
    ) -> None:
        super().__init__()
        self.table = PastPredictionTable(items, classes, dtype=torch.float32)
        self.soften = ProgressiveTargets(alpha, epochs=epochs, schedule=schedule)
        self.register_buffer("epoch", torch.zeros((), dtype=torch.long))

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        targets: Float[Tensor, "batch classes_and_index"],
        progress: float,
    ) -> Float[Tensor, ""]:
        """The loss, in nats. Raises ValueError for targets without their index."""
        if targets.shape != (len(logits), self.table.classes + 1):
            raise ValueError(
                f"targets are ({len(logits)}, {self.table.classes} + 1): labels and the index that "
                f"`indexed` adds, not {tuple(targets.shape)}"
            )
        labels, index = targets[:, :-1], targets[:, -1].long()
        epoch = int(progress * self.soften.epochs + 1e-6)  # a step's share of training is rounded
        if epoch != int(self.epoch):
            self.table.commit()
            self.epoch.fill_(epoch)
        past = self.table.lookup(index, labels)
        loss = soft_cross_entropy(logits, self.soften(labels, past, epoch))
        self.table.stage(index, logits.softmax(-1))
        return loss


def indexed(targets: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes_and_index"]:
    """Targets with one more column: the number of the row, as `SelfDistillation` reads it.

    Raises:
        ValueError: more rows than float32 can count.
    """
    if len(targets) > 2**24:
        raise ValueError(f"{len(targets)} rows are more than float32 can count")
    numbers = torch.arange(len(targets), dtype=targets.dtype, device=targets.device)
    return torch.cat([targets, numbers[:, None]], 1)


def gradient_rescale(
    predicted: Float[Tensor, "batch classes"],
    past: Float[Tensor, "batch classes"],
    alpha: float,
    labels: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """How much a softened target scales each gradient: 1 − alpha (1 − Q_y) / (1 − p_y).

    The ratio of the L1 norms of the logits' gradients, softened over hard target, wherever no wrong
    class k has p_k < alpha · Q_k. Near 1 − alpha nothing changed in an epoch; near 1 last epoch
    was surer of the label than this one (a harder example, which then weighs more); lower where the
    example is fitted better than before, and below 0 the pull is away from the label. NaN or −∞
    where p_y is 1.

    Source: Kim et al. 2021 (arXiv 2006.12000), section 3.3.

    >>> p = torch.tensor([[2.0, 1.0, 0.0]]).softmax(-1)
    >>> gradient_rescale(p, torch.tensor([[0.5, 0.3, 0.2]]), 0.4, torch.tensor([0]))
    tensor([0.4026])
    """
    p, q = (each.gather(-1, labels[:, None]).squeeze(-1) for each in (predicted, past))
    return 1 - alpha * (1 - q) / (1 - p)
