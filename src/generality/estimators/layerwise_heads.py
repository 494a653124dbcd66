"""Layer-wise ensembles on the hidden states of a frozen model, which are computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from generality.lab import Lab, TrainConfig
from generality.lab.train import train
from generality.models import load_tokenizer
from generality.modules import LayerwiseEnsemble, TinyTextEncoder

Read = Mapping[str, Any]
"""`ids`, a list of token ids for each text, and `hidden`, an array (texts, layers, dim)."""


class LayerReader:
    """Token ids and mean-pooled hidden states of any of these texts, each computed once.

    Args:
        lab: keeps the states.
        model: a name as `lab.embed` takes it.
        layers: hidden states, counted as transformers does.
        texts: all that will be asked for.
        max_length: tokens of a text.
    """

    def __init__(
        self, lab: Lab, model: str, layers: Sequence[int], texts: Sequence[str], *, max_length: int
    ) -> None:
        unique = sorted(set(texts))
        self._row = {text: i for i, text in enumerate(unique)}
        self._hidden = [
            lab.embed(model, unique, layer=layer, pooling="mean", max_length=max_length)
            for layer in layers
        ]
        tokenizer = load_tokenizer(model)
        self._ids = tokenizer(unique, truncation=True, max_length=max_length)["input_ids"]

    def __call__(self, texts: Sequence[str]) -> dict[str, Any]:
        """These texts' `ids` and `hidden`, see `Read`."""
        rows = [self._row[text] for text in texts]
        hidden = np.stack([layer[rows] for layer in self._hidden], axis=1)
        return {"ids": [self._ids[row] for row in rows], "hidden": hidden}


def layerwise_heads(
    source: Read,
    labels: Int[np.ndarray, " texts"],
    tests: Mapping[str, Read],
    *,
    layers: Sequence[int],
    settings: TrainConfig,
    seed: int,
    vocab: int = 4096,
    dim: int = 64,
    head_hidden: int = 256,
) -> dict[str, Any]:
    """Train a `LayerwiseEnsemble` on given hidden states; what it says of other texts.

    Args:
        source: texts to learn from, as a `LayerReader` gives them.
        labels: their classes, 0 or 1.
        tests: groups of texts by name, likewise.
        layers: places in the source's `hidden` that heads read; none: the small model alone.
        settings: of the training.
        seed: of first weights and order.
        vocab: entries of the small model's table, into which token ids are hashed.
        dim: of the small model; 0 leaves it out.
        head_hidden: width of a head's hidden layer.

    Returns:
        `probabilities` by the test's name, (texts, 2), and `weights`, the number of them.

    >>> def read(count, seed):
    ...     hidden = np.random.default_rng(seed).normal(size=(count, 2, 4)).astype(np.float32)
    ...     return {"ids": [[1, 2]] * count, "hidden": hidden}
    >>> found = layerwise_heads(
    ...     read(8, 0), np.arange(8) % 2, {"new": read(3, 1)}, layers=(0, 1), dim=0,
    ...     settings=TrainConfig(epochs=1), seed=0,
    ... )
    >>> found["probabilities"]["new"].shape
    (3, 2)
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        small = TinyTextEncoder(vocab, dim) if dim else None
        model = LayerwiseEnsemble(
            None, small, layers, 2, hidden_size=source["hidden"].shape[-1], head_hidden=head_hidden
        )

    def examples(read: Read) -> list[dict[str, Any]]:
        hidden = read["hidden"][:, list(layers)]
        return [{"input_ids": i, "hidden": h} for i, h in zip(read["ids"], hidden, strict=True)]

    data = [{**e, "labels": int(y)} for e, y in zip(examples(source), labels, strict=True)]
    train(model, data, None, settings, seed=seed, device="cpu")
    return {
        "probabilities": {
            name: model.predict_proba(examples(read)) for name, read in tests.items()
        },
        "weights": sum(p.numel() for p in model.parameters()),
    }
