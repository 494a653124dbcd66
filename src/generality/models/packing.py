"""Several examples in one sequence, without any of them seeing another."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

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
    if max_length < 1 or list(map(len, tokens)) != list(map(len, labels)):
        raise ValueError("max_length is positive, and every example has a label for each token")
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
            name: pad_sequence(
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


def pack_candidates(
    prefixes: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[Sequence[int]]],
    *,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Each prefix with all its continuations in one row, every one of them right after the prefix.

    A continuation sees the prefix and itself. Prefixes end in the same column: they are padded on
    the left, continuations on the right, which the mask hides. What a model needs of the attention
    is as for `PackedCollator`; `takes_packed` asks it.

    Args:
        prefixes: tokens, one prefix a row, none empty.
        candidates: the continuations of each, in order.
        dtype: the model's, of the mask.

    Returns:
        `input_ids`, `position_ids` (rows, length) and `attention_mask` (rows, 1, length, length).

    >>> batch = pack_candidates([[5, 6]], [[[7, 8], [9]]])
    >>> batch["input_ids"].tolist(), batch["position_ids"].tolist()
    ([[5, 6, 7, 8, 9]], [[0, 1, 2, 3, 2]])
    >>> (batch["attention_mask"][0, 0, -1] == 0).int().tolist()
    [1, 1, 0, 0, 1]
    """
    width = max(map(len, prefixes))
    columns: dict[str, list[Tensor]] = {"input_ids": [], "position_ids": [], "segments": []}
    for prefix, several in zip(prefixes, candidates, strict=True):
        start, left = len(prefix), [0] * (width - len(prefix))
        tokens, places, segments = [*left, *prefix], [*left, *range(start)], [-1] * len(left)
        segments += [0] * start
        for number, candidate in enumerate(several, 1):
            tokens += candidate
            places += range(start, start + len(candidate))
            segments += [number] * len(candidate)
        for name, values in zip(columns, (tokens, places, segments), strict=True):
            columns[name].append(torch.tensor(values))
    fill = {"input_ids": 0, "position_ids": 0, "segments": -1}
    batch = {
        name: pad_sequence(rows, batch_first=True, padding_value=fill[name])
        for name, rows in columns.items()
    }
    of = batch.pop("segments")
    sees = ((of[:, None, :] == of[:, :, None]) | (of[:, None, :] == 0)).tril()
    batch["attention_mask"] = torch.zeros(sees.shape, dtype=dtype).masked_fill(
        ~sees, torch.finfo(dtype).min
    )[:, None]  # fmt: skip
    return batch


_TAKES_PACKED: WeakKeyDictionary[nn.Module, dict[str, bool]] = WeakKeyDictionary()


@torch.no_grad()
def takes_packed(model: nn.Module) -> bool:
    """Whether a causal language model reads what `pack_candidates` makes as it is meant.

    It needs "eager" or "sdpa" attention, positions and a mask of four dimensions. Since models may
    take such a mask and overlook it (recurrent ones, relative positions by column), it is tried,
    once a model: a continuation behind another one must read as it does alone.

    >>> from generality.models import tiny_decoder
    >>> takes_packed(tiny_decoder("0.05M", vocabulary=20))
    True
    """
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    whole: Any = model
    inner = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    named = inspect.signature(inner.forward).parameters
    dtype = getattr(model, "dtype", torch.float32)
    if (
        attention not in ("eager", "sdpa")
        or not {"position_ids", "attention_mask"} <= {*named}
        or not dtype.is_floating_point
    ):
        return False
    tried = _TAKES_PACKED.setdefault(model, {})
    if attention not in tried:
        device = next(model.parameters()).device
        prefix, first, second = [1, 2, 3], [4, 5, 6], [2, 0, 1, 3]
        batch = pack_candidates([prefix], [[first, second]], dtype=dtype)
        alone = torch.tensor([[*prefix, *second]], device=device)
        try:
            packed = model(**{k: v.to(device) for k, v in batch.items()}, use_cache=False).logits
        except (RuntimeError, ValueError, TypeError, IndexError):  # a mask of another shape
            tried[attention] = False
        else:
            wanted = model(input_ids=alone, use_cache=False).logits[:, -len(second) :].float()
            apart = (packed[:, -len(second) :].float() - wanted).abs().max()
            bound = torch.finfo(dtype).eps ** 0.5 * wanted.abs().max()
            tried[attention] = bool(apart <= bound)
    return tried[attention]
