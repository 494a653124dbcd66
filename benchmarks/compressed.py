"""Structured pruning: is the smaller network as much faster as it has fewer operations?

Removes the same share of channels from every group that `channel_groups` finds, in SmolLM2-135M's
architecture (feed-forward channels) and in ResNet-18 for small images (all tied channels),
counts the operations of a forward pass, and times full and small networks in alternating rounds.

    python benchmarks/compressed.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from generality.models import load_model
from generality.models.preact_resnet import PreActResNet18
from generality.weights import channel_groups, remove_channels

TARGET = 0.8  # of the reduction in operations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {options.sparsity:.0%} of the channels removed")
    torch.manual_seed(0)
    smollm = load_model("smollm2-135m", device="cpu")
    ids = torch.randint(0, 40_000, (4, 128))
    report("smollm2-135m", smollm, {"input_ids": ids, "use_cache": False}, ids[:1, :4], options)
    images = torch.randn(32, 3, 32, 32)
    report("ResNet-18 for 32 pixels", PreActResNet18(10), {"images": images}, images[:1], options)


def report(
    name: str, full: nn.Module, inputs: dict[str, Any], example: torch.Tensor, options: Any
) -> None:
    first = next(iter(inputs))
    small_inputs = {**inputs, first: example}
    groups = channel_groups(full.eval(), (), small_inputs)
    masks = [torch.arange(g.channels) < round(options.sparsity * g.channels) for g in groups]
    small = remove_channels(full, groups, masks).eval()
    operations = [counted(lambda m=m: m(**inputs)) for m in (full, small)]
    fewer = operations[0] / operations[1]
    faster = timed(lambda: full(**inputs), lambda: small(**inputs), options.rounds)
    share = faster / fewer
    verdict = "reached" if share >= TARGET else "falls short"
    print(
        f"{name}: {len(groups)} groups; "
        f"{operations[0] / 1e9:.1f} -> {operations[1] / 1e9:.1f} GFLOP, "
        f"{fewer:.2f}x fewer; {faster:.2f}x faster: {share:.0%} of it "
        f"(target {TARGET:.0%}, {verdict})"
    )


def counted(run: Callable[[], Any]) -> int:
    """Floating-point operations of a call."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        run()
    return counter.get_total_flops()


def timed(full: Callable[[], Any], small: Callable[[], Any], rounds: int) -> float:
    """Median time of `full` over that of `small`, taken in turns."""
    seconds: dict[str, list[float]] = {"full": [], "small": []}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, run in (("full", full), ("small", small)):
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
    return statistics.median(seconds["full"][1:]) / statistics.median(seconds["small"][1:])


if __name__ == "__main__":
    main()
