"""Full tuning, probing then tuning, and the weights half-way: three ways to tune one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from generality.lab import TrainConfig
from generality.lab.train import Collate, Examples, train
from generality.models import TextClassifier
from generality.modules import probe_head
from generality.objectives import soft_cross_entropy
from generality.weights import wise_ft


def ways_to_tune(
    model: Any,
    examples: Examples,
    features: Float[np.ndarray, "examples dim"],
    config: TrainConfig,
    *,
    seed: int,
    collate: Collate | None = None,
    alpha: float = 0.5,
    device: str = "auto",
) -> Iterator[str]:
    """Tune a model whole; then from a probed head; then go half-way between that and the probe.

    Under a shift the three can be far apart: full tuning distorts features that were good, a head
    that was probed first (LP-FT) distorts them less, and weights between the probe and the tuned
    model (WiSE-FT) keep more of both. It is the same model each time, changed in place: predict
    with it, or save it, before asking for the next.

    Args:
        model: any module whose linear `head` gives the logits, such as a `TextClassifier`.
        examples: what `generality.lab.train` learns from, each with "targets", its soft labels.
        features: what the untuned body gives the head for each example, for the probe.
        config: how to train, the same for both trainings.
        seed: of the order of the examples.
        collate: from examples to the model's inputs, as `train` takes it.
        alpha: of `wise_ft`: 0 is the probe, 1 is LP-FT.
        device: "auto", "cpu", "cuda" or "mps".

    Yields:
        "full-tuning", "lp-ft" and "wise-ft", when the model is that.

    Source: Kumar et al. 2022 (arXiv 2202.10054), section 3.3, and Wortsman et al. 2022 (arXiv
    2109.01903), equation 1.

    >>> import torch
    >>> class Bag(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.table, self.head = torch.nn.Embedding(10, 4), torch.nn.Linear(4, 2)
    ...     def forward(self, input_ids, attention_mask):
    ...         return self.head((self.table(input_ids) * attention_mask[..., None]).sum(1))
    >>> model, ids = Bag(), torch.arange(8)
    >>> examples = [{"input_ids": [int(i)], "targets": [i % 2, 1 - i % 2]} for i in ids]
    >>> features = model.table(ids).detach().numpy()
    >>> ways = ways_to_tune(model, examples, features, TrainConfig(), seed=0, device="cpu")
    >>> [(way, tuple(model(ids[:, None], torch.ones(8, 1)).shape)) for way in ways]
    [('full-tuning', (8, 2)), ('lp-ft', (8, 2)), ('wise-ft', (8, 2))]
    """
    start = _copied(model)
    targets = np.array([examples[i]["targets"] for i in range(len(examples))], dtype=np.float32)
    tuning: Any = {"seed": seed, "collate": collate, "device": device}
    train(model, examples, soft_cross_entropy, config, **tuning)
    yield "full-tuning"
    model.load_state_dict(start)
    probe_head(model.head, features, targets)
    probed = _copied(model)
    train(model, examples, soft_cross_entropy, config, **tuning)
    yield "lp-ft"
    model.load_state_dict(wise_ft(probed, model.state_dict(), alpha))
    yield "wise-ft"


def text_ways_to_tune(
    name: str,
    identity: str,
    texts: Sequence[str],
    labels: Int[np.ndarray, " texts"],
    features: Float[np.ndarray, "texts dim"],
    tests: Mapping[str, Sequence[str]],
    *,
    layer: int,
    max_length: int,
    config: TrainConfig,
    seed: int,
    device: str = "auto",
) -> dict[str, dict[str, Float[np.ndarray, "n classes"]]]:
    """What a text classifier says of other texts after each of `ways_to_tune`, by way and test.

    To keep, pass it to `Lab.step`; the classifiers themselves are dropped.

    Args:
        name: of the backbone, as `load_model` takes it.
        identity: of its weights (`model_identity`), for the key.
        texts: to learn from.
        labels: their classes.
        features: mean-pooled hidden states of the texts at `layer`, for the probe.
        tests: groups of texts by name.
        layer: hidden state that the head reads; the blocks after it are not run.
        max_length: tokens of a text.
        config: how to train.
        seed: of the order of the texts.
        device: "auto", "cpu", "cuda" or "mps".
    """
    soft = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]
    classifier = TextClassifier.from_name(
        name, soft.shape[1], layer=layer, pooling="mean", device=device
    )
    ids = classifier.tokenize(texts, max_length=max_length)
    data = [{"input_ids": i, "targets": t} for i, t in zip(ids, soft, strict=True)]
    ways = ways_to_tune(
        classifier, data, features, config, seed=seed, collate=classifier.collate, device=device
    )
    return {
        way: {k: classifier.predict_proba(t, max_length=max_length) for k, t in tests.items()}
        for way in ways
    }


def _copied(model: Any) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
