"""Fused decoding beside the members' own: is the time of a token more than the sum of theirs?

SmolLM2-135M is the large model; its experts are copies of it (as dear as it can get) or tiny
decoders with its vocabulary (where fusing weighs most, as the members hardly take time). Every
member decodes alone through `generate_texts`, then all of them fused, batch 1 and 8, with weights
fixed and chosen at every token. Turns alternate and the least time of each counts. Target: tokens
per second at least 85 % of 1 / (sum of the members' own times per token).

Quiet, on 2 cores, about 2 minutes: python benchmarks/fused_decoding.py
Beside other work, a part of it: … --sides tiny --threads 1 --cpu-time --tokens 8
"""

from __future__ import annotations

import argparse
import copy
import time

import torch

from generality.decoding import FusedCausalLM, KLMatchedFusion, StaticFusion
from generality.models import generate_texts, load_model, load_tokenizer, tiny_decoder

PROMPTS = [f"The {thing} in the old town" for thing in (
    "bridge", "library", "market", "clock", "garden", "school", "station", "harbour",
)]  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--tokens", type=int, default=16)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    arguments.add_argument(
        "--sides", nargs="+", choices=["tiny", "copies"], default=["tiny", "copies"]
    )
    arguments.add_argument("--cpu-time", action="store_true", help="not that of the clock")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = load_tokenizer("smollm2-135m")
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(16)  # never written, so texts are full
    large = load_model("smollm2-135m", device="cpu")
    vocabulary = large.config.vocab_size
    sides = {
        "tiny": lambda: [tiny_decoder("0.25M", seed, vocabulary=vocabulary) for seed in (0, 1)],
        "copies": lambda: [copy.deepcopy(large), copy.deepcopy(large)],
    }
    clock = time.process_time if options.cpu_time else time.perf_counter
    strategies = {"fixed": StaticFusion(), "dynamic": KLMatchedFusion()}
    print(f"torch {torch.__version__}, {options.threads} threads, {options.tokens} tokens a text")
    for side in options.sides:
        expert, base = sides[side]()
        for batch in options.batches:
            models = {"large": large, "expert": expert, "base": base} | {
                name: FusedCausalLM(large, [expert], [base], strategy)
                for name, strategy in strategies.items()
            }
            seconds = dict.fromkeys(models, float("inf"))
            for _ in range(options.rounds):
                for name, model in models.items():
                    started = clock()
                    generate_texts(model, tokenizer, PROMPTS[:batch], max_tokens=options.tokens)
                    seconds[name] = min(seconds[name], clock() - started)
            alone = [seconds[name] for name in ("large", "expert", "base")]
            members, each = sum(alone), ", ".join(f"{1e3 * t / options.tokens:.1f}" for t in alone)
            print(f"{side:6} batch {batch}  members alone: {each} ms a token")
            for name in strategies:
                rate = batch * options.tokens / seconds[name]
                print(
                    f"{side:6} batch {batch}  {name:8} {rate:7.1f} tokens/s  "
                    f"{100 * members / seconds[name]:5.1f} % of the members' sum (target 85)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
