"""Trains one small network in processes of several counts and layouts, each going on from the
checkpoint of another; run by tests/test_reshard.py, prints every curve as JSON."""

from __future__ import annotations

import json
import multiprocessing
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from generality.weights import (
    LayoutSpec,
    ParamRule,
    Rank,
    load_rank,
    load_training_state,
    open_training_state,
    save_training_state,
    training_state,
)

STEPS = 3
RULES = (
    ParamRule(r"layers\.\d+\.up\.weight", "column"),
    ParamRule(r"layers\.\d+\.down\.weight", "row"),
    ParamRule(r"(first|last)\.weight", "replicated"),
)


class Sum(torch.autograd.Function):
    """The sum over processes; its gradient is that of each."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


class Same(torch.autograd.Function):
    """The value itself; its gradient is the sum over processes."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


class Layer(nn.Module):
    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.up = nn.Linear(6, 12 // parts, bias=False)
        self.down = nn.Linear(12 // parts, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.parts == 1:
            return x + self.down(self.up(x).tanh())
        return x + Sum.apply(self.down(self.up(Same.apply(x)).tanh()))


class Network(nn.Module):
    def __init__(self, parts: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 6, bias=False)
        self.layers = nn.ModuleList(Layer(parts) for _ in range(2))
        self.last = nn.Linear(6, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


def adamw(parameters) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1, foreach=False)


def batch() -> tuple[Tensor, Tensor]:
    """Drawn from the global generator, so that a curve goes on only if its state does."""
    x = torch.randn(8, 3)
    return x, x.sin().sum(1, keepdim=True)


def curve(model: nn.Module, optimizer, steps: int, rank: int = 0, world: int = 1) -> list[float]:
    losses = []
    for _ in range(steps):
        x, y = (side[rank::world] for side in batch())
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        whole = loss.detach()
        if world > 1:
            dist.all_reduce(whole)
        losses.append(whole.item() / world)
    return losses


def fsdp(rank: int, world: int, home: Path, resume: str | None, save: str | None) -> list[float]:
    model = fully_shard(Network(), mesh=init_device_mesh("cpu", (world,)))
    optimizer = adamw(model.parameters())
    torch.manual_seed(1)
    if resume:
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optimizer": moments, "rng": torch.get_rng_state()}
        dcp.load(state, checkpoint_id=home / resume)
        set_state_dict(
            model, optimizer, model_state_dict=weights, optim_state_dict=state["optimizer"]
        )
        torch.set_rng_state(state["rng"])
    losses = curve(model, optimizer, STEPS, rank, world)
    if save:
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optimizer": moments, "rng": torch.get_rng_state(), "step": 3}
        dcp.save(state, checkpoint_id=home / save)
    return losses


def from_rank(model: nn.Module, folder: Path, rank: Rank) -> torch.optim.AdamW:
    part = load_rank(folder, rank)
    optimizer = adamw(model.parameters())
    for name, parameter in model.named_parameters():
        parameter.data.copy_(part[f"weight/{name}"])
        optimizer.state[parameter] = {
            key: part[f"{key}/{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")
        }
    torch.set_rng_state(open_training_state(folder).extra["rng"])
    return optimizer


def tensor_parallel(rank: int, world: int, home: Path) -> list[float]:
    model = Network(world)
    optimizer = from_rank(model, home / "tp", Rank(0, rank, 0))
    return curve(model, optimizer, STEPS)


def pipeline(rank: int, world: int, home: Path) -> list[float]:
    whole = Network()
    if rank == 0:
        stage = nn.ModuleDict(
            {"first": whole.first, "layers": nn.ModuleDict({"0": whole.layers[0]})}
        )
    else:
        stage = nn.ModuleDict({"layers": nn.ModuleDict({"1": whole.layers[1]}), "last": whole.last})
    optimizer = from_rank(stage, home / "pp", Rank(rank, 0, 0))
    losses = []
    for _ in range(STEPS):
        x, y = batch()
        optimizer.zero_grad()
        if rank == 0:
            sent = stage["layers"]["0"](stage["first"](x))
            dist.send(sent.detach(), 1)
            grad = torch.empty_like(sent)
            dist.recv(grad, 1)
            sent.backward(grad)
        else:
            got = torch.empty(8, 6)
            dist.recv(got, 0)
            got.requires_grad_()
            loss = nn.functional.mse_loss(stage["last"](stage["layers"]["1"](got)), y)
            loss.backward()
            dist.send(got.grad, 0)
            losses.append(loss.item())
        optimizer.step()
    return losses


def child(work, rank: int, world: int, meet: Path, queue, *args) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    losses = work(rank, world, *args)
    queue.put((rank, losses))
    dist.barrier()
    dist.destroy_process_group()


def processes(work, world: int, home: Path, *args) -> list[float]:
    """What the last of `world` processes gives."""
    context = multiprocessing.get_context("fork")
    meet, queue = (
        home / f"meet-{work.__name__}-{world}-{len(list(home.iterdir()))}",
        context.Queue(),
    )
    every = [
        context.Process(target=child, args=(work, rank, world, meet, queue, home, *args))
        for rank in range(world)
    ]
    for process in every:
        process.start()
    found = dict(queue.get(timeout=120) for _ in every)
    for process in every:
        process.join(30)
    return found[world - 1]


def main(home: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = Network()
    optimizer = adamw(model.parameters())
    torch.manual_seed(1)
    told = {"before": curve(model, optimizer, STEPS)}
    rng = torch.get_rng_state()
    save_training_state(training_state(model, optimizer, rng=rng), home / "one")
    told["after"] = curve(model, optimizer, STEPS)

    told["fsdp 2 before"] = processes(fsdp, 2, home, None, "two")
    two = open_training_state(home / "two")
    save_training_state(two, home / "universal")
    middle = open_training_state(home / "universal")
    model = Network()
    optimizer = adamw(model.parameters())
    extra = load_training_state(middle, model, optimizer)
    torch.set_rng_state(extra["rng"])
    told["fsdp 2 to 1"] = curve(model, optimizer, STEPS)

    save_training_state(middle, home / "four", to="dcp")
    told["fsdp 2 to 4"] = processes(fsdp, 4, home, "four", None)
    save_training_state(middle, home / "tp", to=LayoutSpec(tp=2), rules=RULES)
    told["fsdp 2 to tensor 2"] = processes(tensor_parallel, 2, home)
    save_training_state(open_training_state(home / "tp"), home / "pp", to=LayoutSpec(pp=2))
    told["tensor 2 to pipeline 2"] = processes(pipeline, 2, home)
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
