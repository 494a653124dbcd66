"""Merging three copies of SmolLM2-135M: `generality merge` against mergekit 0.1.5.

    python -m venv mergekit && mergekit/bin/pip install mergekit==0.1.5
    python benchmarks/merge.py --mergekit mergekit/bin/mergekit-yaml

Whole commands from start to exit, one thread each, files in the page cache, rounds alternating; the
copies are the model plus noise of a tenth of each tensor's standard deviation, in float32. Targets:
at least 2.5 times faster for average and task arithmetic, at least 6 times for TIES and DARE-TIES,
results within 1e-6 where both are deterministic, peak memory under a quarter. Where other work runs
beside it, processor seconds say more than seconds by the clock; both are printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

COPIES = 3
METHODS = {
    "average": ("linear", {}, []),
    "task-arithmetic": ("task_arithmetic", {"weight": 0.4}, ["--weights", "0.4,0.4,0.4"]),
    "ties": ("ties", {"weight": 1.0, "density": 0.2}, ["--density", "0.2"]),
    "dare-ties": ("dare_ties", {"weight": 1.0, "density": 0.2}, ["--density", "0.2"]),
}
"""Our name → mergekit's, its parameters of each model, our options."""


@dataclass(frozen=True)
class Run:
    """What a whole command took: by the clock, of the processor, at its peak."""

    seconds: float
    cpu: float
    peak: float  # MB


def timed(command: list[str]) -> Run:
    """Run a command on one thread to its end."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, env={**os.environ, **threads}, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        if status:
            said.seek(0)
            sys.exit(f"{' '.join(command)}\n{said.read().decode()}")
    seconds = time.perf_counter() - started
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def copies(folder: Path) -> list[Path]:
    """The base and its perturbed copies."""
    import torch  # here, because a command's peak is not below that of who starts it
    from safetensors.torch import load_file, save_file

    from generality.models import fetch_model

    source = fetch_model("smollm2-135m")
    found = [folder / "base", *(folder / f"copy{number}" for number in range(COPIES))]
    for number, target in enumerate(found):
        shutil.copytree(source, target)
        weights = load_file(source / "model.safetensors")
        generator = torch.Generator().manual_seed(number)
        for tensor in weights.values() if number else ():
            tensor += torch.randn(tensor.shape, generator=generator) * tensor.std() / 10
        save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return found


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in a process of its own: what a command is said to have had at its peak is not less
    than what the process that starts it has then."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def configuration(method: str, base: Path, experts: list[Path]) -> str:
    """mergekit's."""
    name, parameters, _ = METHODS[method]
    lines = [f"merge_method: {name}", "dtype: float32", "models:"]
    for expert in experts:
        lines += [f"  - model: {expert}", "    parameters:"]
        lines += [f"      {key}: {value}" for key, value in (parameters or {"weight": 1}).items()]
    if method != "average":
        lines.append(f"base_model: {base}")
    return "\n".join(lines) + "\n"


def sequential(folder: Path, size: int) -> float:
    """Seconds in which the disk takes as many bytes in one go."""
    block, path = os.urandom(1 << 22), folder / "sequential"
    started = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds


def difference(one: Path, other: Path) -> float:
    """Largest difference of any two numbers."""
    from safetensors.torch import load_file

    mine = {k: t for f in one.glob("*.safetensors") for k, t in load_file(f).items()}
    theirs = {k: t for f in other.glob("*.safetensors") for k, t in load_file(f).items()}
    theirs.pop("lm_head.weight", None)
    if mine.keys() != theirs.keys():
        sys.exit(f"different tensors: {sorted(mine.keys() ^ theirs.keys())[:3]}")
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mergekit", type=Path, help="its mergekit-yaml; without it, ours alone")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="for the copies (2.2 GB)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        base, *experts = apart(copies, folder)
        size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
        for method in given.methods.split(","):
            ours = ["-m", "generality", "merge", *map(str, experts), "--method", method]
            if method != "average":
                ours += ["--variant", "mergekit", "--base", str(base), *METHODS[method][2]]
            (folder / "config.yml").write_text(configuration(method, base, experts))
            runs: dict[str, list[Run]] = {"generality": [], "mergekit": []}
            for _ in range(given.rounds):
                for who in runs if given.mergekit else ["generality"]:
                    out = folder / who
                    shutil.rmtree(out, ignore_errors=True)
                    command = {
                        "generality": [sys.executable, *ours, "-o", str(out)],
                        "mergekit": [str(given.mergekit), str(folder / "config.yml"), str(out)],
                    }[who]
                    runs[who].append(timed(command))
            best = {
                who: Run(
                    min(run.seconds for run in done),
                    min(run.cpu for run in done),
                    min(run.peak for run in done),
                )
                for who, done in runs.items()
                if done
            }
            for who, run in best.items():
                print(f"{method:16} {who:11} {run.seconds:7.2f} s  cpu {run.cpu:7.2f} s  "
                      f"peak {run.peak:6.0f} MB", flush=True)  # fmt: skip
            plain = sequential(folder, size)
            mine = best["generality"]
            print(f"{method:16} {'disk':11} {plain:7.2f} s for as many bytes in one go: "
                  f"{plain / mine.seconds:.0%} of its sequential bandwidth")  # fmt: skip
            if "mergekit" in best:
                theirs = best["mergekit"]
                apart_by = apart(difference, folder / "generality", folder / "mergekit")
                print(
                    f"{method:16} {'ratio':11} {theirs.seconds / mine.seconds:7.2f} x  cpu "
                    f"{theirs.cpu / mine.cpu:7.2f} x  peak {mine.peak / theirs.peak:6.1%}  "
                    f"difference {apart_by:.1e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
