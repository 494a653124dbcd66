"""Tuning a model on solutions of its own: the whole loop, from weights to weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from generality.lab.threads import threads
from generality.lab.train import TrainConfig, train
from generality.selection.online_self_sampler import OnlineSelfSampler
from generality.selection.solution_buffer import SolutionBuffer
from generality.selection.state_tracer import StateTracer


def tune_self_sampling(
    *,
    network: Callable[[int], nn.Module],
    tokenizer: Any,
    prompts: Sequence[str],
    references: Sequence[str],
    config: TrainConfig,
    seed: int,
    weights: Mapping[str, Tensor] | None = None,
    golds: Sequence[Any] | None = None,
    known: Sequence[Sequence[str]] | None = None,
    tracer: StateTracer | None = None,
    partial: bool = True,
    length_tolerance: int = 0,
    separator: str = "\n",
    device: str = "cpu",
    **options: Any,
) -> dict[str, Any]:
    """Train a language model on prompts while it looks for further solutions of them.

    A step that `Lab.step` can keep: `lab.step(tune_self_sampling, network=…, …)`. It is trained on
    one thread by `generality.lab.train`, all targets of a batch's problems in one pass.

    Args:
        network: from the seed to a causal language model.
        tokenizer: its tokenizer.
        prompts: the problems.
        references: one correct program each.
        config: of the training; `batch_size` counts problems.
        seed: of the network, the order of problems and the draws.
        weights: to begin with.
        golds: the correct answers; None: those of the references.
        known: further correct programs of each problem to begin with.
        tracer: runs programs.
        partial: save partially correct programs.
        length_tolerance: as of `SolutionBuffer`.
        separator: between statements.
        options: of `OnlineSelfSampler`: loss, samples, guided, most, every, max_tokens, ….

    Returns:
        "weights"; "losses" of each step; "sampled", how many programs were written, and "counts",
        what became of them; "full" and "partial", the programs that each problem ended with.
    """
    golds = golds if golds is not None else [None] * len(prompts)
    tracer = tracer or StateTracer()
    buffers = [
        SolutionBuffer(
            reference, tracer, gold=gold, partial=partial, length_tolerance=length_tolerance,
            separator=separator,
        )
        for reference, gold in zip(references, golds, strict=True)
    ]  # fmt: skip
    for buffer, programs in zip(buffers, known or [[]] * len(buffers), strict=True):
        for program in programs:
            buffer.offer(program)
    with threads(1):
        model = network(seed)
        if weights is not None:
            model.load_state_dict(dict(weights))
        sampler = OnlineSelfSampler(model, tokenizer, prompts, buffers, seed=seed, **options)
        result = train(
            sampler, sampler.examples(), None, replace(config, bucketing="none"), seed=seed,
            device=device,
        )  # fmt: skip
    with torch.no_grad():
        kept = {name: value.cpu().clone() for name, value in model.state_dict().items()}
    return {
        "weights": kept,
        "losses": [float(loss) for loss in result.history],
        "sampled": sampler.sampled,
        "counts": {str(status): count for status, count in sampler.counts.items()},
        "full": [buffer.full for buffer in buffers],
        "partial": [buffer.partial for buffer in buffers],
    }
