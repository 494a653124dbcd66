"""A leave-one-domain-out tournament trained together, against the same trainings one by one.

10 methods x 4 domains left out x 5 seeds x 4 draws of hyper-parameters = 800 trainings of a small
network (features -> hidden -> classes, Adam, 32 rows of each source domain a step) on cached
features of the digits in four styles: their principal components, or features from a file. The
other side is a plain PyTorch loop over DomainBed's algorithms (domainbed_algorithms.py) on the same
rows in the same order from the same starts. It is timed on an even sample of the trainings, spread
over domains, seeds and draws, and scaled to all of them; with --every 1 on all. Accuracies, on the
whole of the domain left out, are compared for the sampled trainings. One torch thread on each side.
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import product

import numpy as np
import torch
from torch import nn

from domainbed_algorithms import TWINS
from generality.benchmarks.digits import digit_domains
from generality.lab.replicate_domains import replicate_domains
from generality.models import Featurized, mlp
from generality.objectives import ALGORITHMS
from generality.objectives.domain_algorithms import Range

LEARNING_RATE = Range(3e-3, 1e-3, 3e-2)
SEEDS, DRAWS, PER_DOMAIN = 5, 4, 32
METHODS = tuple(TWINS)


def digits(dim: int, per_domain: int):
    """Principal components of the digits' pixels, labels, rows of each domain."""
    data = digit_domains(per_domain=per_domain)
    pixels = torch.as_tensor(data.inputs).flatten(1)
    pixels = pixels - pixels.mean(0)
    directions = torch.linalg.eigh(pixels.T @ pixels).eigenvectors[:, -dim:]
    features = pixels @ directions
    rows = [torch.as_tensor(data.rows(name)) for name in data.domain_names]
    return features / features.std(), torch.as_tensor(data.labels), rows


def trainings(method: str):
    """(domain left out, seed, hyper-parameters with lr) of every training of one method."""
    rng = np.random.default_rng(METHODS.index(method))
    algorithm = ALGORITHMS[method]
    hypers = [{"lr": LEARNING_RATE.default, **algorithm.defaults()}]
    while len(hypers) < DRAWS:
        hypers.append({"lr": LEARNING_RATE.draw(rng), **algorithm.draw(rng)})
    return list(product(range(4), range(SEEDS), hypers))


def network(dim: int, hidden: int):
    def build(seed: int) -> nn.Module:
        return Featurized(nn.Sequential(mlp(dim, hidden), nn.ReLU()), nn.Linear(hidden, 10))

    return build


def batches(rows, seed: int, steps: int):
    """The rows of each domain at each step: one permutation after another, cut into batches."""
    generator = torch.Generator().manual_seed(seed)
    streams = []
    for own in rows:
        passes = math.ceil(steps * PER_DOMAIN / len(own))
        order = [torch.randperm(len(own), generator=generator) for _ in range(passes)]
        streams.append(own[torch.cat(order)].split(PER_DOMAIN)[:steps])
    return zip(*streams, strict=True)


def plain(method, build, features, labels, rows, seed, hyper, steps):
    """One training in a plain loop."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = build(seed)
    hparams = dict(hyper)
    if "anneal" in hparams:
        hparams["anneal"] = math.ceil(hparams["anneal"] * steps - 1e-9)
    if method == "mixup":
        rng = np.random.default_rng(seed)
        hparams["draws"] = ALGORITHMS[method].draws(rng, hyper, steps, len(rows))
    algorithm = TWINS[method](model.featurizer, model.head, len(rows), hparams)
    for step_rows in batches(rows, seed, steps):
        algorithm.update([(features[own], labels[own]) for own in step_rows])
    return model


def together(method, build, features, labels, rows, jobs, steps):
    names = [name for name in jobs[0][2] if name != "lr"]
    return replicate_domains(
        build,
        features,
        labels,
        [[own for d, own in enumerate(rows) if d != target] for target, _, _ in jobs],
        algorithm=ALGORITHMS[method],
        seeds=[seed for _, seed, _ in jobs],
        learning_rate=[hyper["lr"] for _, _, hyper in jobs],
        hyper={name: [hyper[name] for _, _, hyper in jobs] for name in names},
        steps=steps,
        per_domain=PER_DOMAIN,
    )


def accuracies(method, logits, labels, rows, jobs):
    picked = [rows[target] for target, _, _ in jobs]
    return [
        (logits[i, own].argmax(-1) == labels[own]).double().mean().item()
        for i, own in enumerate(picked)
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--dim", type=int, default=64, help="features of an example")
    options.add_argument("--hidden", type=int, default=32)
    options.add_argument("--per-domain", type=int, default=1500, help="images of each style")
    options.add_argument("--every", type=int, default=9, help="time each n-th training alone")
    options.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: on a machine that is not quiet",
    )
    options.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    chosen = options.parse_args()
    clock = time.perf_counter if chosen.clock == "wall" else time.process_time
    torch.set_num_threads(1)
    features, labels, rows = digits(chosen.dim, chosen.per_domain)
    build = network(chosen.dim, chosen.hidden)

    print(f"torch {torch.__version__}, 1 thread, {chosen.clock} time")
    print(f"{len(features)} rows of {chosen.dim} features, hidden width {chosen.hidden}")
    heads = f"{'alone s':>10}{'together s':>12}{'ratio':>8}{'accuracy':>10}{'together':>10}"
    print(f"{'method':<12}{heads}{'largest difference':>20}")
    alone_seconds = together_seconds = 0.0
    all_alone, all_together = [], []
    for method in chosen.methods:
        jobs = trainings(method)
        warm = jobs[:2]
        together(method, build, features, labels, rows, warm, 2)
        plain(method, build, features, labels, rows[1:], 0, jobs[0][2], 2)
        start = clock()
        replicas = together(method, build, features, labels, rows, jobs, chosen.steps)
        batched = clock() - start
        ours = accuracies(method, replicas.logits(features), labels, rows, jobs)

        sample = range(0, len(jobs), chosen.every)
        models, seconds = [], 0.0
        for i in sample:
            target, seed, hyper = jobs[i]
            sources = [own for d, own in enumerate(rows) if d != target]
            start = clock()
            models.append(
                plain(method, build, features, labels, sources, seed, hyper, chosen.steps)
            )
            seconds += clock() - start
        alone = seconds * len(jobs) / len(sample)
        with torch.no_grad():
            logits = torch.stack([model(features) for model in models])
        theirs = accuracies(method, logits, labels, rows, [jobs[i] for i in sample])
        mine = [ours[i] for i in sample]
        largest = max(abs(a - b) for a, b in zip(theirs, mine, strict=True))
        times = f"{alone:>10.1f}{batched:>12.2f}{alone / batched:>8.1f}"
        same = f"{np.mean(theirs):>10.4f}{np.mean(mine):>10.4f}{largest:>20.4f}"
        print(f"{ALGORITHMS[method].name:<12}{times}{same}", flush=True)
        alone_seconds, together_seconds = alone_seconds + alone, together_seconds + batched
        all_alone, all_together = all_alone + theirs, all_together + mine
    count = len(chosen.methods) * 4 * SEEDS * DRAWS
    print(f"{count} trainings of {chosen.steps} steps: {alone_seconds:.0f} s one after another")
    print(f"(from {len(all_alone)} timed), {together_seconds:.1f} s together:")
    print(f"{alone_seconds / together_seconds:.1f}x (target 8x)")
    difference = 100 * abs(np.mean(all_alone) - np.mean(all_together))
    print(f"mean accuracies differ by {difference:.3f} points (target 0.5)")


if __name__ == "__main__":
    main()
