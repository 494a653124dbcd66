"""Scoring candidate responses: prompts run once for their candidates beside each pair from scratch.

Prompts of 64 to 96 tokens with 8 candidates of 16 to 24 tokens each, random words, scored by
SmolLM2-135M in turns with and without the shared prefix, in the same batches.

Quiet, on 2 cores, about 2 minutes: python benchmarks/grape.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from generality.measures import response_logprob
from generality.models import load_model, load_tokenizer

CANDIDATES = 8


def texts(tokenizer, prompts: int) -> tuple[list[str], list[str]]:
    """Random single-token words, so that a text has as many tokens as words."""
    words = [word for word in map(tokenizer.decode, range(1000, 20000)) if word.strip().isalpha()]
    words = [word for word in words if word.startswith(" ")]
    generator = np.random.default_rng(0)

    def text(least: int, most: int) -> str:
        return "".join(generator.choice(words, size=generator.integers(least, most + 1))).strip()

    asked = [text(64, 96) for _ in range(prompts)]
    return [p for p in asked for _ in range(CANDIDATES)], [
        text(16, 24) for _ in range(prompts * CANDIDATES)
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--prompts", type=int, default=6)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    tokenizer, model = load_tokenizer("smollm2-135m"), load_model("smollm2-135m", device="cpu")
    prompts, responses = texts(tokenizer, options.prompts)
    lengths = [
        [len(tokenizer(text)["input_ids"]) for text in side] for side in (prompts, responses)
    ]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {options.prompts} prompts "
        f"of {min(lengths[0])} to {max(lengths[0])} tokens, {CANDIDATES} candidates each of "
        f"{min(lengths[1])} to {max(lengths[1])}"
    )
    times: dict[bool, list[float]] = {True: [], False: []}
    scores = {}
    for turn in range(options.rounds + 1):
        for shared in (True, False):
            started = time.perf_counter()
            scores[shared] = response_logprob(
                model, tokenizer, prompts, responses, reduce="none", batch_size=CANDIDATES,
                shared_prefix=shared,
            )  # fmt: skip
            if turn:  # the first warms up
                times[shared].append(time.perf_counter() - started)
    for shared, name in ((False, "from scratch"), (True, "shared prefix")):
        middle = statistics.median(times[shared])
        print(f"{name:14} {len(responses) / middle:6.2f} candidates a second")
    ratios = [slow / fast for slow, fast in zip(times[False], times[True], strict=True)]
    apart = (scores[True] - scores[False]).abs().nan_to_num().max().item()
    print(
        f"shared prefix is {statistics.median(ratios):.2f} times as fast (each round: "
        + ", ".join(f"{ratio:.2f}" for ratio in ratios)
        + f"); log-probabilities of tokens differ by at most {apart:.1e}"
    )


if __name__ == "__main__":
    main()
