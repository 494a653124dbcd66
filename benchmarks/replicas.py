"""100 linear probes trained together, against the same 100 one at a time.

10 seeds x 10 weight decays on one feature matrix (2000 x 384, two classes), AdamW, batches of 32.
Both sides get the thread count that suits them best. The plain loop is timed on every tenth probe
(all of one seed's decays take the same time) unless --all is given; weights are compared for those.
"""

from __future__ import annotations

import argparse
import platform
import time

import torch
from torch import nn

from generality.lab.replicate import replicate
from generality.objectives import soft_cross_entropy

EXAMPLES, WIDTH, CLASSES, BATCH, EPOCHS = 2000, 384, 2, 32, 5
DECAYS = [10.0**power for power in range(-8, 2)]
RATE = 1e-3


def probe(seed: int) -> nn.Module:
    return nn.Linear(WIDTH, CLASSES)


def plain(features, targets, seed: int, decay: float, fused: bool) -> nn.Module:
    torch.manual_seed(seed)
    model = probe(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=decay, fused=fused)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(EXAMPLES, generator=generator).split(BATCH):
            optimizer.zero_grad()
            soft_cross_entropy(model(features[rows]), targets[rows]).backward()
            optimizer.step()
    return model


def timed(work):
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--all", action="store_true", help="time all 100 plain probes")
    every = 1 if arguments.parse_args().all else 10
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(EXAMPLES, WIDTH, generator=generator)
    targets = (2 * torch.randn(EXAMPLES, CLASSES, generator=generator)).softmax(-1)
    grid = [(seed, decay) for seed in range(10) for decay in DECAYS]
    picked = list(range(0, 100, every)) if every == 1 else [11 * i for i in range(10)]
    best_threads = torch.get_num_threads()

    together, alone = {}, {}
    for threads in sorted({1, best_threads}):
        torch.set_num_threads(threads)

        def batched():
            return replicate(
                probe,
                features,
                targets,
                loss=soft_cross_entropy,
                seeds=[seed for seed, _ in grid],
                learning_rate=RATE,
                weight_decay=[decay for _, decay in grid],
                epochs=EPOCHS,
                batch_size=BATCH,
            )

        replicas, together[threads] = min((timed(batched) for _ in range(3)), key=lambda r: r[1])
        for fused in (False, True):
            plain(features, targets, 0, 0.0, fused)  # warm up
            models, seconds = timed(
                lambda fused=fused: [plain(features, targets, *grid[i], fused) for i in picked]
            )
            alone[threads, "fused" if fused else "default"] = seconds * 100 / len(picked)

    worst = max(
        (replicas.parameters[name][i] - weight).abs().max().item()
        for i, model in zip(picked, models, strict=True)
        for name, weight in model.named_parameters()
    )
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}")
    print(f"{'100 probes':<34}{'threads':>8}{'seconds':>10}")
    for (threads, kind), seconds in alone.items():
        print(f"{'one at a time, AdamW ' + kind:<34}{threads:>8}{seconds:>10.2f}")
    for threads, seconds in together.items():
        print(f"{'together':<34}{threads:>8}{seconds:>10.2f}")
    fused_seconds = min(s for (_, kind), s in alone.items() if kind == "fused")
    default_seconds = min(s for (_, kind), s in alone.items() if kind == "default")
    best = min(together.values())
    print(f"ratio, best against best: {default_seconds / best:.1f}x (target 8x)")
    print(f"ratio, plain loop with the fused optimiser: {fused_seconds / best:.1f}x")
    print(f"largest difference of any weight: {worst:.1e} (target 1e-4)")


if __name__ == "__main__":
    main()
