"""The one training loop, for everything that trains a real model."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from jaxtyping import Float
from torch import Tensor, nn

from generality.errors import UserError
from generality.lab.checkpoints import Checkpoints
from generality.lab.embedding_gradients import EmbeddingGradients
from generality.lab.schedules import Schedule, learning_rate_factor
from generality.models import resolve_device

Example = dict[str, Any]
Loss = Callable[[Tensor, Tensor, float], Tensor]
Penalty = Callable[[nn.Module], Tensor]
Collate = Callable[[list[Example]], dict[str, Tensor]]

# What one more forward and backward pass costs beside its tokens, in tokens: on a CPU mostly the
# adding up of gradients (measured for minilm-l6), on a GPU the room in it that stays empty.
_PASS_TOKENS = {"cpu": 50, "gpu": 4096}
_WINDOW = 50  # optimisation batches that "across-batches" sorts together
_IGNORED = -100  # the label that torch's cross-entropy and transformers skip


class Examples(Protocol):
    """Anything with a length and an index: a list, a `datasets.Dataset`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Example: ...


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Args:
        epochs: passes over the examples; a fraction ends inside one.
        batch_size: examples per optimisation step; the loss sees all of them at once.
        micro_batch_size: examples per forward pass. None: as many as makes the sum of padded
            tokens and passes least, a pass being worth 50 tokens on a CPU and 4096 on a GPU (with
            bucketing "none": the whole batch).
        learning_rate: at its highest.
        weight_decay: decoupled for "adamw", an L2 term in the gradient otherwise. Parameters that
            the model's `no_weight_decay()` names, where it has one as timm's models do, have none.
        optimizer: "adam", "adamw" or "sgd", with torch's other defaults.
        momentum: of "sgd", in [0, 1).
        schedule: of the learning rate, see `learning_rate_factor`.
        warmup: share of the steps over which the learning rate grows, in [0, 1).
        max_grad_norm: clip the gradient's norm to this; None: never.
        dropout: train in train mode; otherwise in eval mode (no dropout, frozen batch norms), as
            weak-to-strong fine-tuning does.
        precision: "no" (the weights' own), "bf16" or "fp16" (CUDA only) mixed precision.
        bucketing: "within-batch" takes random batches and sorts each by length before cutting it
            into micro-batches: the same steps, less padding. "across-batches" sorts windows of 50
            batches by length and shuffles the batches: least padding, but examples of like length
            meet in a batch. "none" cuts random batches into micro-batches as they come.
    """

    epochs: float = 2
    batch_size: int = 32
    micro_batch_size: int | None = None
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: float = 0.0
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    max_grad_norm: float | None = None
    dropout: bool = False
    precision: Literal["no", "bf16", "fp16"] = "no"
    bucketing: Literal["within-batch", "across-batches", "none"] = "within-batch"

    def __post_init__(self) -> None:
        sizes = (self.batch_size, 1 if self.micro_batch_size is None else self.micro_batch_size)
        if self.epochs <= 0 or min(sizes) < 1:
            raise ValueError("epochs, batch_size and micro_batch_size are positive")
        if self.learning_rate < 0 or self.weight_decay < 0:
            raise ValueError("learning_rate and weight_decay are not negative")
        if self.optimizer not in ("adam", "adamw", "sgd"):
            raise ValueError(f"optimizer is 'adam', 'adamw' or 'sgd', not '{self.optimizer}'")
        if not 0 <= self.momentum < 1 or (self.momentum and self.optimizer != "sgd"):
            raise ValueError("momentum is in [0, 1), and 0 for other optimizers than 'sgd'")
        if self.precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"precision is 'no', 'bf16' or 'fp16', not '{self.precision}'")
        if self.bucketing not in ("within-batch", "across-batches", "none"):
            raise ValueError(
                f"bucketing is 'within-batch', 'across-batches' or 'none', not '{self.bucketing}'"
            )
        learning_rate_factor(self.schedule, 0, 1, warmup=self.warmup)  # raises for bad ones

    def steps(self, examples: int) -> int:
        """Optimisation steps over this many examples."""
        return math.ceil(self.epochs * math.ceil(examples / self.batch_size))


class Diverged(UserError):  # noqa: N818 - read as a sentence
    """The loss is infinite or not a number; other settings may do better."""


@dataclass(frozen=True)
class EarlyStop:
    """Stop when held-out *supervision* is no longer fitted better, and go back to the best weights.

    `examples` carry the labels that the supervisor gave and nothing else: no rule here may look at
    target truth, which one would not have. Every `every` steps, and after the last, the mean
    cross-entropy (nats) against these labels is measured; after `patience` measurements in a row
    that are not lower than the best by more than `min_delta`, training stops.
    """

    examples: Examples
    patience: int = 3
    min_delta: float = 0.0
    every: int = 20

    def __post_init__(self) -> None:
        if len(self.examples) == 0 or self.patience < 1 or self.every < 1 or self.min_delta < 0:
            raise ValueError("EarlyStop needs examples, patience and every ≥ 1, and min_delta ≥ 0")


@dataclass(frozen=True)
class TrainResult:
    """What came of a training; the model itself was trained in place.

    Attributes:
        history: training loss of each step, in the loss's unit.
        steps: optimisation steps done, those before a resumption included.
        examples_per_second: over the steps done by this call; 0 when there were none.
        stopped_early: whether `EarlyStop` ended it.
    """

    history: list[float]
    steps: int
    examples_per_second: float
    stopped_early: bool


def train(
    model: nn.Module,
    examples: Examples,
    loss: Loss | None,
    config: TrainConfig,
    *,
    seed: int,
    collate: Collate | None = None,
    device: str = "auto",
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
    stop: EarlyStop | None = None,
    penalty: Penalty | None = None,
    progress: Callable[[int, int, dict[str, Any]], None] | None = None,
) -> TrainResult:
    """Train `model` in place, on one device or on as many processes as `accelerate launch` started.

    Each step takes `batch_size` examples in an order that depends on the seed only (a permutation
    per epoch, the last smaller batch kept), runs them in micro-batches with their own padding, puts
    the logits back together in the batch's order, graph kept, and takes one loss and one backward
    pass over all: a loss that balances the batch sees the whole of it. Memory: the model, its
    gradients, the optimiser's state and the activations of one optimisation batch. The same seed
    on the same machine (and number of threads) gives the same weights, bit for bit. The model is
    left on the device, in eval mode.

    Args:
        model: called as model(**inputs); gives logits (batch, classes), or has them as `.logits`.
            Only parameters that require gradients are trained.
        examples: dicts with "input_ids" (tokens of one text; its length sorts the micro-batches)
            and "targets" (soft class probabilities, (classes,)), or what `collate` understands.
        loss: scalar from (logits (batch, classes), targets (batch, classes), progress), progress
            in [0, 1) being step / total steps at the start of the step. A module with buffers
            (`SelfDistillation`) is copied: every training begins with those it has, and checkpoints
            keep those it has reached. None: the model's own
            loss (a scalar, or `.loss`), a mean over each micro-batch's "labels" that are not
            -100, weighted by their number; where there are no labels, those of next-token training.
        config: how to train.
        seed: of the order of the examples, and of dropout.
        collate: from the examples of one micro-batch (without "targets") to the model's inputs.
            None: pads every list of numbers on the right, "input_ids" with the model's own padding
            token, and adds the attention mask.
        device: "auto", "cpu", "cuda" or "mps".
        checkpoint: folder to resume from and to write checkpoints to, the last when training is
            over; the caller clears it. Not with sharded parameters (FSDP).
        checkpoint_every: seconds between checkpoints; 0: after every step.
        stop: early stopping on held-out supervision.
        penalty: scalar from the model, of its weights and not of the batch, added to `loss` in
            every step; the losses reported include it. Not with loss=None. With several processes
            only of weights that the forward pass uses too.
        progress: called after each step with (steps done, steps in all, {"loss": its loss}).

    Raises:
        Diverged: the loss is not finite.
        UserError: the checkpoint is another training's; the device lacks the precision.
        ValueError: no examples, nothing to train, or early stopping or a penalty without targets.

    >>> class Bag(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.table = nn.Embedding(10, 2)
    ...     def forward(self, input_ids, attention_mask):
    ...         return (self.table(input_ids) * attention_mask[..., None]).sum(1)
    >>> examples = [{"input_ids": [i, 7], "targets": [i % 2, 1 - i % 2]} for i in range(6)] * 8
    >>> loss = lambda logits, targets, progress: nn.functional.cross_entropy(logits, targets)
    >>> config = TrainConfig(epochs=20, learning_rate=0.1, batch_size=16)
    >>> result = train(Bag(), examples, loss, config, seed=0, device="cpu")
    >>> result.steps, result.history[-1] < result.history[0]
    (60, True)
    """
    if len(examples) == 0:
        raise ValueError("there are no examples to train on")
    if stop is not None and loss is None:
        raise ValueError("EarlyStop measures the fit to targets, and loss=None has none")
    if penalty is not None and loss is None:
        raise ValueError("a penalty is added to a loss, and loss=None is the model's own")
    place = resolve_device(device)
    with _one_generator(seed, place), _accelerator(place, config.precision) as accelerator:
        run = _Training(model, examples, loss, config, seed, collate, stop, penalty, accelerator)
        store = Checkpoints(checkpoint, every=checkpoint_every) if checkpoint is not None else None
        try:
            return run.run(store, progress)
        finally:
            run.release()


@dataclass
class _Held:
    """Where early stopping stands."""

    best: float = math.inf
    bad: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


class _Training:
    """One training: what it is made of, and one step of it."""

    def __init__(
        self,
        model: nn.Module,
        examples: Examples,
        loss: Loss | None,
        config: TrainConfig,
        seed: int,
        collate: Collate | None,
        stop: EarlyStop | None,
        penalty: Penalty | None,
        accelerator: Accelerator,
    ) -> None:
        self.examples, self.config, self.seed = examples, config, seed
        self.loss = loss
        if isinstance(loss, nn.Module) and list(loss.buffers()):
            self.loss = copy.deepcopy(loss).to(accelerator.device)
        self.collate = collate or _Pad(model)
        self.stop, self.penalty, self.accelerator = stop, penalty, accelerator
        self.trained: dict[str, Tensor] = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        if not self.trained:
            raise ValueError("no parameter of the model requires gradients: nothing to train")
        self.bare = model.to(accelerator.device).train(config.dropout)
        optimizer = _optimizer(config, self.bare, self.trained, accelerator.device)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        on_cpu = accelerator.device.type == "cpu"
        self.pass_tokens = _PASS_TOKENS["cpu" if on_cpu else "gpu"]
        alone = accelerator.num_processes == 1
        self.tables = EmbeddingGradients(model) if on_cpu and alone else None
        self.total = config.steps(len(examples))
        self.history: list[float] = []
        self.held = _Held()
        self.stopped = False

    @property
    def step(self) -> int:
        return len(self.history)

    def memory(self) -> dict[str, Tensor]:
        """What the loss remembers from step to step."""
        return dict(self.loss.named_buffers()) if isinstance(self.loss, nn.Module) else {}

    def run(
        self, store: Checkpoints | None, progress: Callable[[int, int, dict[str, Any]], None] | None
    ) -> TrainResult:
        if store is not None:
            self.resume(store)
        seen, started = 0, time.perf_counter()
        for rows in itertools.islice(self.batches(), self.step, self.total):
            if self.stopped:
                break
            self.history.append(self.update(_fetch(self.examples, rows)))
            seen += len(rows)
            if self.stop is not None and (
                self.step % self.stop.every == 0 or self.step == self.total
            ):
                self.judge(self.stop)
            if progress is not None:
                progress(self.step, self.total, {"loss": self.history[-1]})
            if store is not None and (store.due() or self.stopped or self.step == self.total):
                self.save(store)
        seconds = time.perf_counter() - started
        with torch.no_grad():
            for name, weight in self.held.weights.items():
                self.trained[name].copy_(weight)
        return TrainResult(
            history=self.history,
            steps=self.step,
            examples_per_second=seen / seconds if seen else 0.0,
            stopped_early=self.stopped,
        )

    def release(self) -> None:
        """Take off the model what accelerate put on it, so that it can be trained again."""
        if self.tables is not None:
            self.tables.detach()
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.bare.__dict__.pop("_is_accelerate_prepared", None)
        self.bare.eval().zero_grad()

    def batches(self) -> Iterator[list[int]]:
        """Rows of each optimisation batch, epoch after epoch; depends on the seed only."""
        size, n = self.config.batch_size, len(self.examples)
        generator = torch.Generator().manual_seed(self.seed)
        across = self.config.bucketing == "across-batches"
        lengths = [_length(self.examples[i]) for i in range(n)] if across else []
        while True:
            order = torch.randperm(n, generator=generator).tolist()
            window = _WINDOW * size if across else n
            for start in range(0, n, window):
                rows = order[start : start + window]
                if across:
                    rows.sort(key=lengths.__getitem__)
                batches = [rows[i : i + size] for i in range(0, len(rows), size)]
                if across:
                    shuffled = torch.randperm(len(batches), generator=generator).tolist()
                    batches = [batches[i] for i in shuffled]
                yield from batches

    def update(self, batch: list[Example]) -> float:
        """One optimisation step; the loss before it."""
        factor = learning_rate_factor(
            self.config.schedule, self.step, self.total, warmup=self.config.warmup
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor
        self.optimizer.zero_grad()
        if self.tables is not None:
            self.tables.clear()
        value = self.own_loss(batch) if self.loss is None else self.whole_loss(batch)
        if not math.isfinite(value):
            lower = " or precision 'no'" if self.config.precision != "no" else ""
            raise Diverged(
                f"The loss became {value} at step {self.step + 1} of {self.total}, at a learning "
                f"rate of {self.config.learning_rate * factor:.2g}. Try a lower learning rate, "
                f"some warm-up, max_grad_norm=1.0{lower}; check the inputs and targets for NaN."
            )
        if self.tables is not None:
            self.tables.gather()
        if self.config.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.trained.values(), self.config.max_grad_norm)
        self.optimizer.step()
        return value

    def whole_loss(self, batch: list[Example]) -> float:
        """One loss over the logits of all micro-batches; gradients are left in the parameters."""
        assert self.loss is not None
        logits = self.logits(batch)
        loss = self.loss(logits, self.targets(batch), self.step / self.total)
        # Every process has the whole loss but only its own share of the graph, and gradients are
        # averaged over processes.
        whole = loss * self.accelerator.num_processes
        if self.penalty is not None:  # of which every process has the whole graph
            penalty = self.penalty(self.bare)
            whole, loss = whole + penalty, loss.detach() + penalty
        self.accelerator.backward(whole)
        return float(loss.detach())

    def own_loss(self, batch: list[Example]) -> float:
        """The model's own mean losses, weighted by their numbers of labels."""
        every = [self.inputs([batch[i] for i in rows], labels=True) for rows in self.mine(batch)]
        counted = [(inputs, _label_count(inputs["labels"])) for inputs in every]
        runs = [(inputs, count) for inputs, count in counted if count and self.has_share(batch)]
        mine = torch.tensor(sum(count for _, count in runs), device=self.accelerator.device)
        total = max(int(cast(Tensor, self.accelerator.reduce(mine))), 1)
        if not runs and self.accelerator.num_processes > 1:  # others wait for a backward pass
            runs = [({**every[0], "labels": every[0]["input_ids"]}, 0)]
        value = torch.zeros((), device=self.accelerator.device)
        for i, (inputs, count) in enumerate(runs):
            last = i == len(runs) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                output = self.model(**inputs)
                share = (output if isinstance(output, Tensor) else output.loss) * (count / total)
                self.accelerator.backward(share * self.accelerator.num_processes)
            value += share.detach()
        return float(cast(Tensor, self.accelerator.reduce(value)))

    def logits(self, batch: list[Example]) -> Float[Tensor, "batch classes"]:
        """Logits in the batch's order; with several processes, each computes its share."""
        micro = self.mine(batch)
        pieces = [self.forward([batch[i] for i in rows]) for rows in micro]
        logits = torch.cat(pieces)
        rows = torch.tensor([i for rows in micro for i in rows], device=logits.device)
        if self.accelerator.num_processes == 1:
            return logits[rows.argsort()]
        width = math.ceil(len(batch) / self.accelerator.num_processes)
        shares = logits.new_zeros(width, logits.shape[1])
        slots = torch.full((width,), -1, device=logits.device)
        if self.has_share(batch):
            shares[: len(rows)], slots[: len(rows)] = logits.detach(), rows
        shares, slots = self.accelerator.gather((shares, slots))
        whole = logits.new_zeros(len(batch), logits.shape[1])
        whole[slots[slots >= 0]] = shares[slots >= 0]
        if not self.has_share(batch):
            return whole + 0 * logits.sum()
        return whole.index_copy(0, rows, logits)

    def forward(self, examples: list[Example]) -> Float[Tensor, "batch classes"]:
        output = self.model(**self.inputs(examples))
        return (output if isinstance(output, Tensor) else output.logits).float()

    def mine(self, batch: list[Example]) -> list[list[int]]:
        """Positions of the micro-batches that this process runs."""
        size, processes = self.config.micro_batch_size, self.accelerator.num_processes
        order = list(range(len(batch)))
        if self.config.bucketing != "none":
            order.sort(key=lambda i: _length(batch[i]))
        if processes > 1:
            share = order[self.accelerator.process_index :: processes]
            order = share or order[:1]  # every process must run something: they wait for each other
        if size is None and self.config.bucketing != "none":
            ends = cheapest_cuts([_length(batch[i]) for i in order], self.pass_tokens)
        else:
            ends = [*range(size or len(order), len(order), size or len(order)), len(order)]
        return [order[start:end] for start, end in itertools.pairwise([0, *ends])]

    def has_share(self, batch: list[Example]) -> bool:
        """False where there are more processes than examples, on those that only keep step."""
        return self.accelerator.process_index < len(batch)

    def inputs(self, examples: list[Example], *, labels: bool = False) -> dict[str, Tensor]:
        bare = [{k: v for k, v in example.items() if k != "targets"} for example in examples]
        inputs = self.collate(bare)
        if labels and "labels" not in inputs:
            mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
            inputs = {**inputs, "labels": inputs["input_ids"].masked_fill(mask == 0, _IGNORED)}
        return {name: tensor.to(self.accelerator.device) for name, tensor in inputs.items()}

    def targets(self, batch: list[Example]) -> Float[Tensor, "batch classes"]:
        rows = [torch.as_tensor(example["targets"], dtype=torch.float32) for example in batch]
        return torch.stack(rows).to(self.accelerator.device)

    @torch.no_grad()
    def judge(self, stop: EarlyStop) -> None:
        """Measure the fit to held-out supervision; note the best weights, or stop."""
        self.bare.eval()
        order = sorted(range(len(stop.examples)), key=lambda i: _length(stop.examples[i]))
        summed, size = 0.0, self.config.batch_size
        for start in range(0, len(order), size):
            batch = _fetch(stop.examples, order[start : start + size])
            losses = nn.functional.cross_entropy(
                self.forward(batch), self.targets(batch), reduction="sum"
            )
            summed += losses.item()
        self.bare.train(self.config.dropout)
        fit = summed / len(order)
        if fit < self.held.best - stop.min_delta:
            weights = {name: p.detach().clone() for name, p in self.trained.items()}
            self.held = _Held(best=fit, weights=weights)
        else:
            self.held.bad += 1
            self.stopped = self.held.bad >= stop.patience

    def save(self, store: Checkpoints) -> None:
        if not self.accelerator.is_main_process:
            return
        tensors = {f"parameter.{name}": p for name, p in self.trained.items()}
        tensors |= {f"buffer.{name}": b for name, b in self.bare.named_buffers()}
        tensors |= {f"loss.{name}": b for name, b in self.memory().items()}
        tensors |= {f"best.{name}": weight for name, weight in self.held.weights.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:
                    tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64)
        tensors["generator.cpu"] = torch.get_rng_state()
        if self.accelerator.device.type == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        scaler = self.accelerator.scaler
        about = {
            "identity": self.identity(),
            "best": self.held.best,
            "bad": self.held.bad,
            "stopped": self.stopped,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        store.save(tensors, about)

    def resume(self, store: Checkpoints) -> None:
        """Go on from the newest readable checkpoint, if there is one."""
        found = store.load()
        if found is None:
            return
        tensors, about = found
        mine = json.loads(json.dumps(self.identity()))
        if about["identity"] != mine:
            differing = ", ".join(k for k in mine if about["identity"].get(k) != mine[k])
            raise UserError(
                f"The checkpoint in {store.folder} belongs to another training ({differing} "
                "differ): remove it, or name another folder."
            )
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(tensors[f"parameter.{name}"])
            for name, buffer in self.bare.named_buffers():
                buffer.copy_(tensors[f"buffer.{name}"])
            for name, buffer in self.memory().items():
                buffer.copy_(tensors[f"loss.{name}"])
        self.optimizer.load_state_dict(
            {
                "state": _optimizer_state(tensors),
                "param_groups": self.optimizer.state_dict()["param_groups"],
            }
        )
        best = {
            name.removeprefix("best."): tensor.to(self.accelerator.device)
            for name, tensor in tensors.items()
            if name.startswith("best.")
        }
        self.held = _Held(about["best"], about["bad"], best)
        self.stopped = about["stopped"]
        self.history = tensors["history"].tolist()
        torch.set_rng_state(tensors["generator.cpu"])
        if "generator.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator.cuda"], self.accelerator.device)
        if about["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(about["scaler"])

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be this training's."""
        return {
            **asdict(self.config),
            "seed": self.seed,
            "number of examples": len(self.examples),
            "parameters": {name: list(p.shape) for name, p in self.trained.items()},
            "early stopping": None
            if self.stop is None
            else [self.stop.patience, self.stop.min_delta, self.stop.every],
        }


class _Pad:
    """The default collate: pads lists of numbers on the right and adds the attention mask."""

    def __init__(self, model: nn.Module) -> None:
        token = getattr(getattr(model, "config", None), "pad_token_id", None)
        self.fill = {"input_ids": token or 0, "labels": _IGNORED}

    def __call__(self, examples: list[Example]) -> dict[str, Tensor]:
        batch = {
            name: nn.utils.rnn.pad_sequence(
                [torch.as_tensor(example[name]) for example in examples],
                batch_first=True,
                padding_value=self.fill.get(name, 0),
            )
            if torch.as_tensor(examples[0][name]).ndim
            else torch.tensor([example[name] for example in examples])
            for name in examples[0]
        }
        if "input_ids" in batch and "attention_mask" not in batch:
            lengths = torch.tensor([len(example["input_ids"]) for example in examples])
            width = batch["input_ids"].shape[1]
            batch["attention_mask"] = (torch.arange(width) < lengths[:, None]).long()
        return batch


def cheapest_cuts(lengths: Sequence[int], pass_tokens: int) -> list[int]:
    """Where to cut ascending lengths into passes, so that padded tokens plus passes cost least.

    >>> cheapest_cuts([5, 6, 6, 7, 40, 42, 200], pass_tokens=50)
    [4, 6, 7]
    """
    sizes = np.asarray(lengths)
    cost, start = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1, dtype=int)
    for end in range(1, len(sizes) + 1):  # the cheapest way to cut the first `end` of them
        tokens = sizes[end - 1] * np.arange(end, 0, -1)
        costs = cost[:end] + pass_tokens + tokens
        start[end] = costs.argmin()
        cost[end] = costs[start[end]]
    ends = []
    end = len(sizes)
    while end:
        ends.append(end)
        end = int(start[end])
    return ends[::-1]


def _length(example: Example) -> int:
    tokens = example.get("input_ids")
    return 0 if tokens is None else len(tokens)


def _fetch(examples: Examples, rows: Sequence[int]) -> list[Example]:
    many = getattr(examples, "__getitems__", None)  # datasets.Dataset reads them in one go
    return many(list(rows)) if many is not None else [examples[i] for i in rows]


def _label_count(labels: Tensor) -> int:
    """Labels that a mean loss is over; in a sequence the first token has nothing before it."""
    counted = labels[:, 1:] if labels.ndim > 1 else labels
    return int((counted != _IGNORED).sum())


def _optimizer(
    config: TrainConfig, model: nn.Module, trained: dict[str, Tensor], device: torch.device
) -> torch.optim.Optimizer:
    exempt: Callable[[], list[str]] = getattr(model, "no_weight_decay", list)
    without = set(exempt())
    groups: list[dict[str, Any]] = [
        {
            "params": [p for name, p in trained.items() if (name in without) == bare],
            "weight_decay": 0.0 if bare else config.weight_decay,
        }
        for bare in (False, True)
    ]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    momentum = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    return kind[config.optimizer](
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        # Several times faster than one tensor at a time; but with momentum torch's fused SGD
        # breaks on a parameter whose first gradient comes after the first step.
        fused=device.type in ("cpu", "cuda") and not config.momentum,
        **momentum,
    )


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    return state


@contextmanager
def _one_generator(seed: int, place: torch.device) -> Iterator[None]:
    """torch's generators seeded for this training, and the caller's put back after it."""
    cuda = place.type == "cuda"
    if cuda:  # cuBLAS reads it when first used; without it sums may come in another order
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[place] if cuda else []))
        if cuda:
            stack.enter_context(torch.cuda.device(place))
            torch.use_deterministic_algorithms(True, warn_only=True)
            stack.callback(torch.use_deterministic_algorithms, before)
        torch.manual_seed(seed)
        yield


@contextmanager
def _accelerator(place: torch.device, precision: str) -> Iterator[Accelerator]:
    """An Accelerator of this training's own.

    accelerate keeps one state per process and refuses another device or precision afterwards, so
    in a single process the state is set aside and put back. Launched processes keep theirs.
    """
    if precision == "fp16" and place.type != "cuda":
        raise UserError(
            f"precision 'fp16' needs a CUDA device, not '{place}'; take 'bf16' or 'no'."
        )
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    states = (AcceleratorState._shared_state, PartialState._shared_state) if alone else ()
    kept = [dict(state) for state in states]
    for state in states:
        state.clear()
    try:
        try:
            accelerator = Accelerator(
                mixed_precision=precision,
                cpu=place.type == "cpu",
                kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
            )
        except ValueError as error:
            raise UserError(f"This machine cannot train in '{precision}': {error}") from error
        yield accelerator
    finally:
        for state, before in zip(states, kept, strict=True):
            state.clear()
            state.update(before)
