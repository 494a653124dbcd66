"""DomainBed's algorithms on coloured and rotated MNIST: its own loop, and ours.

ERM, IRM, V-REx, GroupDRO, CORAL, MMD, Mixup and SD with DomainBed's network for 28x28 images, 64
images of each domain a step, Adam at 1e-3, the last domain left out, every domain split into 80 %
"in" and 20 % "out", and the accuracy on every split of every domain at each checkpoint.

One side is DomainBed's way, written after its train.py: a loader per domain over a dataset of
tensors, the algorithms of domainbed_algorithms.py in single precision, and evaluation by loaders of
64. The other is `replicate_domains`: data kept as tensors and indexed, all domains in one forward
pass, the network in bfloat16 by autocast (weights, losses and Adam in single precision), and one
evaluation pass over all images in batches of 512. --precision float32 shows what remains without
bfloat16, which pays where the processor has instructions for it (lscpu: amx_bf16, avx512_bf16).

Seconds per step and per evaluated image are measured for both. DomainBed's schedule is 5001 steps
and an evaluation of 70000 images after every 300: the last lines put the two together for it, and
for the run as it was.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from domainbed_algorithms import TWINS
from generality.benchmarks.colored_digits import colored_digits
from generality.benchmarks.digits import digits
from generality.benchmarks.rotated_digits import rotated_digits
from generality.lab.replicate_domains import replicate_domains
from generality.models import Featurized, MnistCNN
from generality.objectives import ALGORITHMS

NAMES = ("erm", "irm", "vrex", "group_dro", "coral", "mmd", "mixup", "sd")
RATE, BATCH, HOLDOUT = 1e-3, 64, 0.2
SCHEDULE = {"steps": 5001, "every": 300, "images": 70_000}  # DomainBed's


def load(kind: str, images: int):
    """Images, labels, and each domain's rows, in-split and out-split."""
    pixels, labels = digits("mnist", size=28, count=images)
    grey = pixels[:, 0]
    data = colored_digits(grey, labels) if kind == "colored" else rotated_digits(grey, labels)
    splits = []
    for name in data.domain_names:
        rows = np.random.default_rng(0).permutation(data.rows(name))
        held = int(HOLDOUT * len(rows))
        splits.append((torch.as_tensor(rows[held:]), torch.as_tensor(rows[:held])))
    return torch.as_tensor(data.inputs), torch.as_tensor(data.labels), splits


# ------------------------------------------------------------------ DomainBed's way


class MNIST_CNN(nn.Module):  # noqa: N801
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, 1, padding=1)
        self.conv2 = nn.Conv2d(64, 128, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(128, 128, 3, 1, padding=1)
        self.conv4 = nn.Conv2d(128, 128, 3, 1, padding=1)
        self.bn0 = nn.GroupNorm(8, 64)
        self.bn1 = nn.GroupNorm(8, 128)
        self.bn2 = nn.GroupNorm(8, 128)
        self.bn3 = nn.GroupNorm(8, 128)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))

    def forward(self, x):
        x = self.bn0(F.relu(self.conv1(x)))
        x = self.bn1(F.relu(self.conv2(x)))
        x = self.bn2(F.relu(self.conv3(x)))
        x = self.bn3(F.relu(self.conv4(x)))
        x = self.avgpool(x)
        return x.view(len(x), -1)


class Split(Dataset):
    def __init__(self, underlying, keys):
        self.underlying, self.keys = underlying, keys

    def __getitem__(self, key):
        return self.underlying[self.keys[key]]

    def __len__(self):
        return len(self.keys)


class Endless:
    def __init__(self, sampler):
        self.sampler = sampler

    def __iter__(self):
        while True:
            yield from self.sampler


def infinite_loader(dataset, workers):
    if len(dataset) < BATCH:
        raise SystemExit(
            f"a domain has {len(dataset)} training images, fewer than {BATCH}: --images"
        )
    sampler = BatchSampler(RandomSampler(dataset, replacement=False), BATCH, drop_last=True)
    return iter(DataLoader(dataset, batch_sampler=Endless(sampler), num_workers=workers))


def loader_accuracy(algorithm, loader):
    correct, total = 0.0, 0.0
    algorithm.eval()
    with torch.no_grad():
        for x, y in loader:
            correct += algorithm.predict(x).argmax(1).eq(y).float().sum().item()
            total += len(x)
    algorithm.train()
    return correct / total


def domainbed(name, inputs, labels, splits, seed, steps, every, workers, clock):
    """Accuracies of each split at the last checkpoint, seconds of training and of evaluation."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    data = TensorDataset(inputs, labels)
    train = [infinite_loader(Split(data, inside), workers) for inside, _ in splits[:-1]]
    loaders = [
        DataLoader(Split(data, keys), batch_size=BATCH, num_workers=workers)
        for pair in splits
        for keys in pair
    ]
    hparams = {"lr": RATE, **ALGORITHMS[name].defaults()}
    if "anneal" in hparams:
        hparams["anneal"] = math.ceil(hparams["anneal"] * steps - 1e-9)
    classes = int(labels.max()) + 1
    torch.manual_seed(seed)  # the start that the other side has, too
    body, head = MNIST_CNN(inputs.shape[1]), nn.Linear(128, classes)
    algorithm = TWINS[name](body, head, len(train), hparams)
    training = evaluating = 0.0
    for step in range(steps):
        start = clock()
        algorithm.update([next(stream) for stream in train])
        training += clock() - start
        if step % every == 0 or step == steps - 1:
            start = clock()
            accuracies = [loader_accuracy(algorithm, loader) for loader in loaders]
            evaluating += clock() - start
    return accuracies, training, evaluating


# ------------------------------------------------------------------ ours


def ours(name, inputs, labels, splits, seed, steps, every, precision, clock):
    """The same three."""
    channels, classes = inputs.shape[1], int(labels.max()) + 1
    start = clock()
    replicas = replicate_domains(
        lambda _: Featurized(MnistCNN(channels), nn.Linear(128, classes)),
        inputs,
        labels,
        [[inside for inside, _ in splits[:-1]]],
        algorithm=ALGORITHMS[name],
        seeds=[seed],
        learning_rate=RATE,
        steps=steps,
        per_domain=BATCH,
        checkpoints=checkpoints(steps, every),
        precision=precision,
    )
    training, start = clock() - start, clock()
    for done in checkpoints(steps, every):
        model = replicas.at(done).module(0).eval()
        half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
        with torch.inference_mode(), half:
            said = torch.cat([model(part).argmax(1) for part in inputs.split(512)])
        right = (said == labels).float()
        accuracies = [right[keys].mean().item() for pair in splits for keys in pair]
    return accuracies, training, clock() - start


def checkpoints(steps: int, every: int) -> list[int]:
    """Steps done at each evaluation: after the first, every so many more, and at the end."""
    return sorted({*range(1, steps + 1, every), steps})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", nargs="*", default=["colored", "rotated"])
    options.add_argument("--algorithms", nargs="*", default=NAMES, choices=NAMES)
    options.add_argument("--steps", type=int, default=151)
    options.add_argument(
        "--every", type=int, default=75, help="steps from checkpoint to checkpoint"
    )
    options.add_argument("--images", type=int, default=5000)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--workers", type=int, default=0, help="of DomainBed's loaders, each")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    options.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    chosen = options.parse_args()
    clock = time.perf_counter if chosen.clock == "wall" else time.process_time
    torch.set_num_threads(chosen.threads)
    evaluations = len(checkpoints(chosen.steps, chosen.every))
    print(f"torch {torch.__version__}, {chosen.threads} threads, {chosen.clock} time,", end=" ")
    print(f"{chosen.images} images, {chosen.steps} steps, {chosen.precision}")
    print(f"{'ms a step':>31}{'ms an image':>20}{'in':>16}{'out':>18}{'left out':>18}")
    totals = np.zeros((2, 2))  # side x (as run, DomainBed's schedule), seconds
    differences = []
    for kind in chosen.data:
        inputs, labels, splits = load(kind, chosen.images)
        ours("erm", inputs[:600], labels[:600], _small(splits), 0, 2, 1, chosen.precision, clock)
        for name in chosen.algorithms:
            rows = []
            for side, run, how in ((0, domainbed, chosen.workers), (1, ours, chosen.precision)):
                found = [
                    run(name, inputs, labels, splits, seed, chosen.steps, chosen.every, how, clock)
                    for seed in range(chosen.seeds)
                ]
                accuracy = np.mean([each[0] for each in found], 0)
                a_step = sum(each[1] for each in found) / chosen.seeds / chosen.steps
                an_image = sum(each[2] for each in found) / chosen.seeds
                an_image /= evaluations * len(inputs)
                times = SCHEDULE["steps"] // SCHEDULE["every"] + 2
                totals[side, 0] += a_step * chosen.steps + an_image * evaluations * len(inputs)
                totals[side, 1] += a_step * SCHEDULE["steps"]
                totals[side, 1] += an_image * times * SCHEDULE["images"]
                inside, outside = accuracy[0:-2:2].mean(), accuracy[1:-2:2].mean()
                rows.append((1e3 * a_step, 1e3 * an_image, inside, outside, accuracy[-2:].mean()))
            before, after = rows
            differences.append([b - a for a, b in zip(before[2:], after[2:], strict=True)])
            print(f"{kind:<9}{name:<10}", end="")
            print(f"{before[0]:>6.0f} {after[0]:>5.0f}", end="")
            print(f"{before[1]:>13.3f} {after[1]:>6.3f}", end="")
            pairs = zip(before[2:], after[2:], strict=True)
            print("".join(f"{a:>11.3f} {b:>6.3f}" for a, b in pairs), flush=True)
    print(f"as run: {totals[0, 0]:.0f} s and {totals[1, 0]:.0f} s,", end=" ")
    print(f"{totals[0, 0] / totals[1, 0]:.2f}x (target 1.6x)")
    print(f"DomainBed's schedule: {totals[0, 1] / totals[1, 1]:.2f}x")
    mean, spread = np.mean(differences, 0), np.std(differences, 0)
    for what, m, s in zip(("in", "out", "left out"), mean, spread, strict=True):
        print(f"accuracy {what}: ours less DomainBed's {100 * m:+.2f} points (sd {100 * s:.2f})")


def _small(splits):
    return [tuple(torch.arange(8 * d, 8 * d + 8) for _ in pair) for d, pair in enumerate(splits)]


if __name__ == "__main__":
    main()
