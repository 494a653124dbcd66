"""Embedding: the feature cache against a bare forward loop, and its memory on more data.

    python benchmarks/embedding.py

The bare loop has every advantage: all texts tokenised and sorted by length beforehand, the same
batch sizes, nothing kept. Target: at least 95 % of its texts per second; peak memory independent
of the number of texts.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from generality.benchmarks import load_benchmark
from generality.lab import StepStore, embed
from generality.lab.encoders import TextEncoder
from generality.lab.features import similar_batches
from generality.models import load_model, load_tokenizer


def bare(encoder: TextEncoder, texts: list[str]) -> float:
    """Seconds of a forward loop over perfectly sorted batches."""
    started = time.perf_counter()
    prepared = encoder.prepare(texts)
    for rows in similar_batches([len(ids) for ids in prepared], 2048, 64):
        encoder.encode([prepared[row] for row in rows])
    return time.perf_counter() - started


def cached(encoder: TextEncoder, texts: list[str]) -> float:
    """Seconds of the feature cache on the same texts, from nothing to a file that is kept."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        embed(StepStore(Path(folder)), encoder, texts)
        return time.perf_counter() - started


def peak_of(copies: int) -> float:
    """Peak resident MiB of a process that embeds `copies` × 500 texts."""
    command = [sys.executable, "-c", f"import embedding; embedding.fill({copies})"]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, text=True, capture_output=True, check=True)
    return float(done.stdout)


def fill(copies: int) -> None:
    """Embed numbered copies of short texts by a one-layer look into MiniLM; print the peak."""
    from datasets import Dataset

    with tempfile.TemporaryDirectory() as folder:
        source = Dataset.from_generator(
            lambda: ({"text": f"text number {i}"} for i in range(copies * 500)), cache_dir=folder
        )
        encoder = TextEncoder(
            load_model("minilm-l6", device="cpu"), load_tokenizer("minilm-l6"), layer=0
        )
        embed(StepStore(Path(folder)), encoder, source["text"], content=source)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Print both comparisons."""
    texts = load_benchmark("sentiment").splits["train"]["text"][:]
    encoder = TextEncoder(load_model("minilm-l6", device="cpu"), load_tokenizer("minilm-l6"))
    bare(encoder, texts[:500])
    pairs = [(bare(encoder, texts), cached(encoder, texts)) for _ in range(3)]
    loop, cache = (min(times) for times in zip(*pairs, strict=True))
    print(
        f"{len(texts)} texts, minilm-l6, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}"
    )
    print(f"bare sorted loop  {len(texts) / loop:8.0f} texts/s")
    print(f"feature cache     {len(texts) / cache:8.0f} texts/s")
    print(f"ratio             {loop / cache:8.2f} (target 0.95)")
    small, large = peak_of(20), peak_of(200)
    print(f"peak memory       {small:8.0f} MiB for 10 000 texts, {large:.0f} MiB for 100 000")


if __name__ == "__main__":
    main()
