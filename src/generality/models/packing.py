"""Several examples in one sequence, without any of them seeing another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from generality.models.prompt_response import IGNORED


def pack(
    tokens: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], *, max_length: int
) -> list[dict[str, list[int]]]:
    """Examples put one after another into sequences of at most `max_length` tokens.

    Each goes into the first of the open sequences that has room, in the given order; a longer one
    is cut at its end. Positions begin at 0 with every example, `segments` number them from 1, and
    the first label of each is ignored: the model would predict it from the example before.

    Source: Mukherjee et al. 2023 (arXiv 2306.02707), section 4.2 (2,048 tokens, 2.7 examples each);
    the separation of the examples is ours to state: the paper does not say.

    >>> rows = pack([[5, 6, 7], [8, 9], [4, 4, 4, 4]], [[5, 6, 7], [8, 9], [4] * 4], max_length=5)
    >>> rows[0]["input_ids"], rows[0]["position_ids"], rows[0]["labels"]
    ([5, 6, 7, 8, 9], [0, 1, 2, 0, 1], [-100, 6, 7, -100, 9])
    >>> len(rows)
    2
    """
    if max_length < 1 or len(tokens) != len(labels):
        raise ValueError("max_length is positive, and there are as many labels as tokens")
    packed: list[dict[str, list[int]]] = []
    for example, wanted in zip(tokens, labels, strict=True):
        example, wanted = list(example[:max_length]), list(wanted[:max_length])
        room = (row for row in packed if len(row["input_ids"]) + len(example) <= max_length)
        row = next(room, None)
        if row is None:
            row = {"input_ids": [], "labels": [], "position_ids": [], "segments": []}
            packed.append(row)
        number = max(row["segments"], default=0) + 1
        row["input_ids"] += example
        row["labels"] += [IGNORED, *wanted[1:]] if wanted else []
        row["position_ids"] += range(len(example))
        row["segments"] += [number] * len(example)
    return packed


@dataclass(frozen=True)
class PackedCollator:
    """From rows of `pack` to a batch for a causal language model of transformers.

    The attention mask is (batch, 1, length, length), 0 where a token may look (back, within its
    own example) and the type's lowest number elsewhere: what "eager" and "sdpa" attention take as
    it is. "flash_attention_2" takes none: give it the positions alone.

    Attributes:
        pad: the token that fills up.
        dtype: the model's.

    >>> batch = PackedCollator()(pack([[5, 6], [7, 8]], [[5, 6], [7, 8]], max_length=4))
    >>> (batch["attention_mask"][0, 0] == 0).int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    """

    pad: int = 0
    dtype: torch.dtype = torch.float32

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """The batch."""
        fill = {"input_ids": self.pad, "labels": IGNORED, "position_ids": 0, "segments": 0}
        batch = {
            name: torch.nn.utils.rnn.pad_sequence(
                [torch.as_tensor(row[name]) for row in rows], batch_first=True, padding_value=value
            )
            for name, value in fill.items()
        }
        segments = batch.pop("segments")
        same = segments[:, :, None] == segments[:, None, :]
        batch["attention_mask"] = torch.where(
            same.tril(), 0.0, torch.finfo(self.dtype).min
        )[:, None].to(self.dtype)  # fmt: skip
        return batch
