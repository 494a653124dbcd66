"""G-Vendi: projected per-example gradients beside plain backward passes of the same batch.

1. Time of a batch's projected gradients of every linear layer over that of one plain forward and
   backward pass of the same batch (all weights' gradients), in turns; medians.
2. On a small model: the score beside that of dense Rademacher projections of the same gradients
   (their spread over seeds is the sampling error), and beside the eigenvalues' definition.
3. Memory: resident memory while a stream of examples is scored, early and late.

Quiet, on 2 cores, about 2 minutes: python benchmarks/g_vendi.py
With a real model: python benchmarks/g_vendi.py --model smollm2-135m --batch 4 --tokens 96
"""

from __future__ import annotations

import argparse
import statistics
import time

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from generality.benchmarks.worlds import ChainPrograms, solution, world_tokenizer
from generality.measures import (
    GVendi,
    ProjectedGradients,
    RademacherProjector,
    per_example_gradients,
    vendi_score,
)
from generality.measures.g_vendi import _batch, response_nll
from generality.models import load_model, tiny_decoder
from generality.models.prompt_response import encode_response


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def model_named(name: str) -> torch.nn.Module:
    if name != "llama-20m":
        return load_model(name, device="cpu")
    config = LlamaConfig(
        vocab_size=8192, hidden_size=384, intermediate_size=1024, num_hidden_layers=8,
        num_attention_heads=6, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def speed(name: str, batch: int, tokens: int, rounds: int, side: int) -> None:
    model = model_named(name).eval()
    ids = torch.randint(3, model.config.vocab_size, (batch, tokens))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    inputs["labels"][:, : tokens // 2] = -100
    project = ProjectedGradients(model, response_nll, side=side)

    def plain() -> None:
        model.zero_grad()
        response_nll(model, inputs).sum().backward()

    works = {"plain": plain, "projected": lambda: project(inputs)}
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for kind, work in works.items():
            taken = seconds(work)
            if turn:
                times[kind].append(taken)
    middle = {kind: statistics.median(values) for kind, values in times.items()}
    print(
        f"{name}, {batch} x {tokens} tokens: plain {1e3 * middle['plain']:.0f} ms, projected"
        f" {1e3 * middle['projected']:.0f} ms: {middle['projected'] / middle['plain']:.2f} times"
    )


def agreement(examples: int, seeds: int) -> None:
    tokenizer = world_tokenizer()
    model = tiny_decoder("0.05M", vocabulary=len(tokenizer))
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    chains = ChainPrograms().sample(examples, (1, 4), seed=0)
    ds = [{"prompt": chain.prompt, "response": solution(chain)} for chain in chains]
    inputs = _batch([encode_response(tokenizer, r["prompt"], r["response"]) for r in ds])
    exact = per_example_gradients(model, response_nll, inputs, params="proj|lm_head")
    dense = [vendi_score(RademacherProjector(1024, seed)(exact)) for seed in range(seeds)]
    ours = [GVendi(model, tokenizer, seed=seed).score(ds) for seed in range(seeds)]
    rows = GVendi(model, tokenizer).features(ds).double()
    values = torch.linalg.eigvalsh(rows @ rows.T / len(rows)).clamp(min=1e-300)
    entropy = float(torch.exp(-(values * values.log()).sum()))
    print(
        f"{examples} examples: {vendi_score(exact):.3f} without projection; dense"
        f" {statistics.mean(dense):.3f} ± {statistics.stdev(dense):.3f} over {seeds} seeds, both"
        f" sides {statistics.mean(ours):.3f} ± {statistics.stdev(ours):.3f};"
        f" from the covariance {ours[0]:.9f}, from the Gram matrix {entropy:.9f}"
    )


def memory(total: int) -> None:
    tokenizer, process = world_tokenizer(), psutil.Process()
    metric = GVendi(tiny_decoder("0.25M", vocabulary=len(tokenizer)), tokenizer)
    sizes: list[float] = []

    def stream():
        for part in range(total // 500):
            sizes.append(process.memory_info().rss / 2**20)
            for chain in ChainPrograms().sample(500, (1, 4), seed=part):
                yield {"prompt": chain.prompt, "response": solution(chain)}

    taken = seconds(lambda: metric.score(stream()))
    quarter = len(sizes) // 4
    print(
        f"{total:,} examples in {taken:.0f} s: resident {max(sizes[: quarter + 1]):.0f} MiB at most"
        f" in the first quarter, {max(sizes[-quarter:]):.0f} in the last"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", default="llama-20m", help="or any name that generality loads")
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--tokens", type=int, default=64)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--side", type=int, default=128)
    arguments.add_argument("--examples", type=int, default=300)
    arguments.add_argument("--seeds", type=int, default=8)
    arguments.add_argument("--stream", type=int, default=8000)
    options = arguments.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    speed(options.model, options.batch, options.tokens, options.rounds, options.side)
    agreement(options.examples, options.seeds)
    memory(options.stream)


if __name__ == "__main__":
    main()
