"""Flow-Attention: time and memory from 1k to 64k tokens, and against PyTorch's own attention.

1. Forward and backward of `flow_attend`, causal and not, at lengths that double: median seconds,
   peak bytes of tensors, and the fitted powers of the length (1 is linear).
2. The same of `scaled_dot_product_attention`, in turns, up to --softmax tokens, and the ratio.

Quiet, about 2 minutes: python benchmarks/flow_attention.py --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from generality.measures import length_scaling
from generality.modules import flow_attend


def call(attend, length: int, heads: int, dim: int):
    def run() -> None:
        q, k, v = inputs
        torch.autograd.grad(attend(q, k, v).sum(), inputs)

    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(1, heads, length, dim, generator=generator, requires_grad=True)
        for _ in range(3)
    ]
    return run


def flow(causal: bool):
    return lambda q, k, v: flow_attend(q, k, v, causal=causal)


def softmax(causal: bool):
    return lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=causal
    )


def in_turns(calls, rounds: int, clock) -> list[float]:
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for each, work in zip(times, calls, strict=True):
            start = clock()
            work()
            if turn:
                each.append(clock() - start)
    return [statistics.median(each) for each in times]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--heads", type=int, default=4)
    arguments.add_argument("--dim", type=int, default=64)
    arguments.add_argument("--longest", type=int, default=65536)
    arguments.add_argument("--softmax", type=int, default=8192, help="longest for softmax")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--cpu-time", action="store_true", help="not that of the clock")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    size = {"heads": options.heads, "dim": options.dim}
    print(f"torch {torch.__version__}, {options.threads} threads, {size}, forward and backward")
    lengths = [1024]
    while lengths[-1] * 2 <= options.longest:
        lengths.append(lengths[-1] * 2)
    for causal in (False, True):
        name = "causal" if causal else "both ways"
        found = length_scaling(
            lambda length, causal=causal: call(flow(causal), length, **size),
            lengths, repeats=options.rounds, clock=clock,
        )  # fmt: skip
        for length, seconds, peak in zip(lengths, found.seconds, found.peak, strict=True):
            print(f"{name}: {length} tokens {1e3 * seconds:.1f} ms, {peak / 2**20:.1f} MiB")
        print(f"{name}: time ∝ n^{found.time_exponent:.3f}, memory ∝ n^{found.memory_exponent:.3f}")
        for length in (length for length in lengths if length <= options.softmax):
            ours, theirs = in_turns(
                [call(flow(causal), length, **size), call(softmax(causal), length, **size)],
                options.rounds, clock,
            )  # fmt: skip
            print(
                f"{name}: {length} tokens, flow {1e3 * ours:.1f} ms, softmax {1e3 * theirs:.1f} ms:"
                f" {theirs / ours:.2f} times as fast"
            )


if __name__ == "__main__":
    main()
