"""The likeliest tokens of a teacher at every place of a text it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from generality.models.prompt_response import encode_response


@torch.inference_mode()
def teacher_topk(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    k: int = 5,
    batch_size: int = 64,
) -> list[tuple[list[str], list[dict[str, float]]]]:
    """Of each response its tokens and, at each of them, the k likeliest with their probabilities.

    What `project_topk` takes. The end of the sequence is not among them.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        prompts: what comes before each response; needed as context, not part of the answer.
        responses: texts to be judged, the teacher's own samples or others.
        k: tokens at each place.
        batch_size: texts run together.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> from generality.models import tiny_decoder
    >>> tokenizer = world_tokenizer()
    >>> model = tiny_decoder("0.05M", vocabulary=len(tokenizer))
    >>> [(tokens, likely)] = teacher_topk(model, tokenizer, ["a = 3 ; a ?"], ["3 => 3"], k=2)
    >>> tokens, [len(each) for each in likely]
    (['3', '=>', '3'], [2, 2, 2])
    """
    encoded = [
        encode_response(tokenizer, prompt, response, eos=False)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    place = next(model.parameters()).device
    found: list[tuple[list[str], list[dict[str, float]]]] = []
    for at in range(0, len(encoded), batch_size):
        part = encoded[at : at + batch_size]
        width = max(len(tokens) for tokens, _ in part)
        pad = tokenizer.pad_token_id or 0
        inputs = torch.tensor([row + [pad] * (width - len(row)) for row, _ in part], device=place)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in part])
        logits = model(input_ids=inputs, attention_mask=mask.to(place)).logits.float()
        probabilities, names = logits.softmax(-1).topk(min(k, logits.shape[-1]))
        for i, (row, start) in enumerate(part):
            steps = range(max(start, 1) - 1, len(row) - 1)
            likely = [
                dict(
                    zip(
                        tokenizer.convert_ids_to_tokens(names[i, step].tolist()),
                        probabilities[i, step].tolist(),
                        strict=True,
                    )
                )
                for step in steps
            ]
            found.append((tokenizer.convert_ids_to_tokens(row[max(start, 1) :]), likely))
    return found
