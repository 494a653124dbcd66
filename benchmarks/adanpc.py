"""AdaNPC's memory: 100,000 entries of 384 numbers, queries in batches of 64, k = 100.

1. The exact mode beside the bare matrix product of the same batch and entries, in turns.
2. The approximate index beside the exact mode: predictions a second, recall of the true neighbours,
   share of equal predictions, on queries that are not stored.
3. A stream of a million through a memory of 100,000, everything stored: resident memory as it goes.

Features are drawn as real ones lie: 100 clusters (10 classes of 10) with normal centres, each with
32 directions of its own in which it is 0.6 of the centre's spread wide, and 0.1 in all others. In
the stream the centres drift, so that the index grows old.

Quiet, on 2 cores, about 4 minutes: python benchmarks/adanpc.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import psutil
import torch
from torch.nn.functional import normalize

from generality.estimators import AdaNPCAdapter, FeatureMemory

DIM, CLUSTERS, CLASSES, RANK, BATCH, K = 384, 100, 10, 32, 64, 100


class Clusters:
    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.centres = self._normal(CLUSTERS, DIM)
        self.directions = 0.6 * self._normal(CLUSTERS, RANK, DIM) / RANK**0.5

    def _normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape, dtype=np.float32)

    def draw(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        which = np.sort(self.rng.integers(CLUSTERS, size=n))
        within = self._normal(n, RANK)
        features = 0.1 * self._normal(n, DIM)
        for cluster in np.unique(which):
            own = which == cluster
            features[own] += self.centres[cluster] + within[own] @ self.directions[cluster]
        order = self.rng.permutation(n)
        return features[order], which[order] % CLASSES

    def drift(self, amount: float) -> None:
        self.centres += amount * self._normal(CLUSTERS, DIM)


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def filled(index: str, features, labels) -> FeatureMemory:
    memory = FeatureMemory(DIM, CLASSES, k=K, capacity=len(features), index=index)
    memory.add(features, labels)
    return memory


def speed(entries: int, rounds: int) -> None:
    data = Clusters()
    features, labels = data.draw(entries)
    queries, _ = data.draw(BATCH * rounds)
    batches = torch.from_numpy(queries).split(BATCH)
    exact, fast = (filled(index, features, labels) for index in ("exact", "approximate"))
    built = seconds(lambda: fast.scores(batches[0]))
    exact.scores(batches[0])
    stored, product = exact.features, torch.empty(BATCH, entries)
    times: dict[str, list[float]] = {"product": [], "exact": [], "index": []}
    for batch in batches:
        unit = normalize(batch, dim=1)
        times["product"].append(seconds(lambda u=unit: torch.mm(u, stored.T, out=product)))
        times["exact"].append(seconds(lambda b=batch: exact.scores(b)))
        times["index"].append(seconds(lambda b=batch: fast.scores(b)))
    middle = {name: statistics.median(values) for name, values in times.items()}
    for name, value in middle.items():
        print(f"{name:8} {1e3 * value:7.2f} ms a batch, {BATCH / value:9,.0f} predictions a second")
    least = torch.cat([exact.nearest(b)[0].amin(1) for b in batches])[:, None] - 1e-6
    recall = (torch.cat([fast.nearest(b)[0] for b in batches]) >= least).float().mean()
    same = torch.cat([exact.scores(b).argmax(1) == fast.scores(b).argmax(1) for b in batches])
    print(
        f"exact mode runs at {middle['product'] / middle['exact']:.0%} of the bare product's rate"
    )
    print(
        f"the index makes {middle['exact'] / middle['index']:.1f} times the exact mode's"
        f" predictions a second at recall {recall:.3f},"
        f" {same.float().mean():.1%} of predictions equal; it took {built:.1f} s to build,"
        f" {fast._inverted.index.nprobe} of {fast._inverted.index.nlist} lists probed"
    )


def stream(index: str, entries: int, total: int, predict_every: int) -> None:
    data, process = Clusters(), psutil.Process()
    features, labels = data.draw(entries // 2)
    memory = FeatureMemory(DIM, CLASSES, k=K, capacity=entries, index=index)
    memory.add(features, labels)
    memory.protect()
    del features
    adapter = AdaNPCAdapter(memory)
    sizes, right, asked, started = [], 0, 0, time.perf_counter()
    for done in range(0, total, 6400):
        data.drift(0.002)
        for batch, (features, labels) in enumerate(data.draw(BATCH) for _ in range(100)):
            if batch % predict_every:
                memory.add(features, labels)
                continue
            right += int((adapter.predict(features).argmax(1).numpy() == labels).sum())
            asked += BATCH
        assert len(memory) <= entries
        if done >= entries:  # full: from here on it may not grow
            sizes.append(process.memory_info().rss / 2**20)
    print(
        f"{index}: {total:,} seen in {time.perf_counter() - started:.0f} s, {len(memory):,} stored,"
        f" {asked:,} predicted, {right / asked:.1%} of them right; resident {sizes[0]:.0f} MiB when"
        f" first full, {max(sizes):.0f} at most, {sizes[-1]:.0f} at the end"
        f" (the entries alone: {entries * DIM * 4 / 2**20:.0f} MiB)"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--entries", type=int, default=100_000)
    arguments.add_argument("--rounds", type=int, default=60, help="batches timed")
    arguments.add_argument("--stream", type=int, default=1_000_000)
    arguments.add_argument("--predict-every", type=int, default=50, help="batches of the stream")
    options = arguments.parse_args()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.entries:,} entries"
    )
    speed(options.entries, options.rounds)
    for index in ("exact", "approximate"):
        stream(index, options.entries, options.stream, options.predict_every)


if __name__ == "__main__":
    main()
