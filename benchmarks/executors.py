"""Two processes of one thread each against one process with all threads, over small trainings.

    python benchmarks/executors.py

Twelve trainings of a small network, each a step of its own that nothing has kept. Target:
`--on processes:2` at least 1.7 times as fast as in-process, start of the workers included.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from generality.lab import Lab
from generality.lab.threads import available_cores


def training(lab: Lab, seed: int) -> float:
    """Train a small network on made data; the mean of its weights, so that results can differ."""
    torch.manual_seed(seed)
    inputs, targets = torch.randn(2048, 64), torch.randint(0, 4, (2048,))
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 4)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(150):
        for start in range(0, len(inputs), 32):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                network(inputs[start : start + 32]), targets[start : start + 32]
            )
            loss.backward()
            optimizer.step()
    return float(network[0].weight.detach().mean())


def timed(on: str) -> tuple[float, list[float]]:
    """Seconds for all trainings, and their results."""
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(on=on, device="cpu", home=Path(folder), progress=False)
        started = time.perf_counter()
        results = list(lab.map(training, range(12)))
        return time.perf_counter() - started, results


def main() -> None:
    """Print the comparison."""
    one, results = timed("in-process")
    two, again = timed("processes:2")
    worst = max(abs(a - b) for a, b in zip(results, again, strict=True))
    print(f"{available_cores()} cores, torch {torch.__version__}")
    print(f"in-process   {one:6.1f} s with {torch.get_num_threads()} threads")
    print(f"processes:2  {two:6.1f} s with {max(1, available_cores() // 2)} each")
    print(f"ratio        {one / two:6.2f} (target 1.7); results differ by at most {worst:.1e}")


if __name__ == "__main__":
    main()
