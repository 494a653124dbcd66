"""openai/weak-to-strong's training loop, rebuilt from its description, against ours.

    python benchmarks/openai_weak_to_strong.py [--model minilm-l6] [--examples 256]

The baseline takes micro-batches of 8 in file order (the same every epoch), pads each to its own
longest, gathers the logits of all micro-batches before one loss over the batch of 32, and steps
Adam under a cosine schedule, in eval mode, with the head on the last token. Its probe runs the
frozen body at every step; ours embeds the texts once and trains all probes together. Probe grid:
2 supervisors x 3 losses x 5 seeds, of which the baseline is timed on one per loss and multiplied
by ten. Both sides give the encoder its attention mask. Targets: full tuning at least 1.5 times the
examples per second; the grid at least 5 times.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from generality.benchmarks import load_benchmark
from generality.lab.encoders import make_encoder
from generality.lab.features import similar_batches
from generality.lab.replicate import replicate
from generality.lab.train import TrainConfig, train
from generality.models import TextClassifier
from generality.objectives import ConfidenceLoss, ProductLoss, soft_cross_entropy

BATCH, MICRO, RATE, EPOCHS, SEEDS = 32, 8, 5e-5, 2, range(5)


def baseline(classifier: TextClassifier, examples: list[dict], loss: Callable, epochs: int) -> None:
    """Their loop; whole batches only, as theirs."""
    classifier.eval()
    steps = len(examples) * epochs // BATCH
    optimizer = torch.optim.Adam(classifier.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    stream = iter(examples * epochs)
    for step in range(steps):
        logits, targets = [], []
        for _ in range(BATCH // MICRO):
            micro = [next(stream) for _ in range(MICRO)]
            logits.append(classifier(**classifier.collate(micro)))
            targets += [example["targets"] for example in micro]
        value = loss(torch.cat(logits), torch.tensor(targets), step / steps)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        value.item()


def grid(model: str, texts: list[str], supervision: torch.Tensor, losses: list[Callable]) -> None:
    """Ours: the texts embedded once, ten probes trained together for each loss."""
    encoder = make_encoder(model, pooling="last", device="cpu")
    prepared = encoder.prepare(texts)
    batches = similar_batches([len(ids) for ids in prepared], 2048, 64)
    vectors = np.concatenate([encoder.encode([prepared[i] for i in rows]) for rows in batches])
    features = torch.empty(vectors.shape)
    features[torch.tensor([i for rows in batches for i in rows])] = torch.from_numpy(vectors)
    for loss in losses:
        replicate(
            lambda seed: zero_head(features.shape[1]), features,
            supervision.repeat_interleave(len(SEEDS), 0), seeds=[*SEEDS] * len(supervision),
            loss=loss, learning_rate=RATE, epochs=EPOCHS, batch_size=BATCH, optimizer="adam",
            schedule="cosine",
        )  # fmt: skip


def zero_head(width: int) -> nn.Module:
    """The head every probe starts from."""
    head = nn.Linear(width, 2, bias=False)
    nn.init.zeros_(head.weight)
    return head


def timed(work: Callable[[], None]) -> float:
    """Seconds it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="minilm-l6")
    parser.add_argument("--examples", type=int, default=256, help="a multiple of 32")
    parser.add_argument("--rounds", type=int, default=2, help="of full tuning; the best counts")
    options = parser.parse_args()

    rows = (
        load_benchmark("sentiment").splits["train"].shuffle(seed=0).select(range(options.examples))
    )
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor(rows["label"])
    noise = torch.rand(2, len(labels), generator=generator)
    second = torch.where(labels == 1, 1 - 0.6 * noise, 0.6 * noise)  # two unsure supervisors
    supervision = torch.stack([1 - second, second], -1)

    full = TextClassifier.from_name(options.model, 2, device="cpu", pooling="last")
    texts = list(rows["text"])
    examples = [
        {"input_ids": ids, "targets": target}
        for ids, target in zip(full.tokenize(texts), supervision[0].tolist(), strict=True)
    ]
    config = TrainConfig(epochs=1, batch_size=BATCH, learning_rate=RATE)

    def tuned(part: list[dict] = examples) -> None:
        train(full, part, soft_cross_entropy, config, seed=0, device="cpu", collate=full.collate)

    tuned(examples[:BATCH])  # warm up
    theirs_full = ours_full = float("inf")
    for _ in range(options.rounds):
        theirs_full = min(
            theirs_full, timed(lambda: baseline(full, examples, soft_cross_entropy, epochs=1))
        )
        ours_full = min(ours_full, timed(tuned))

    losses = [soft_cross_entropy, ConfidenceLoss(), ProductLoss()]
    probe = TextClassifier.from_name(options.model, 2, device="cpu", pooling="last", tuning="probe")
    theirs_grid = sum(
        10 * timed(lambda loss=loss: baseline(probe, examples, loss, EPOCHS)) for loss in losses
    )
    ours_grid = timed(lambda: grid(options.model, texts, supervision, losses))

    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads; {options.model}, "
        f"{len(texts)} texts"
    )
    print(f"{'':<34}{'theirs':>10}{'ours':>10}{'ratio':>8}")
    print(
        f"{'full tuning, examples/s':<34}{len(texts) / theirs_full:>10.1f}"
        f"{len(texts) / ours_full:>10.1f}{theirs_full / ours_full:>8.2f} (target 1.5)"
    )
    print(
        f"{'30 probes, s (embedding included)':<34}{theirs_grid:>10.1f}{ours_grid:>10.1f}"
        f"{theirs_grid / ours_grid:>8.1f} (target 5)"
    )


if __name__ == "__main__":
    main()
