"""Classifiers of texts or images tuned whole or by groups of adapters, tested off their sources."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from generality.benchmarks.left_out_domain import Labelled
from generality.lab import TrainConfig
from generality.lab.train import train
from generality.measures import accuracy
from generality.models import TextClassifier
from generality.models.image_classifier import ImageClassifier
from generality.modules import LoRAGroup
from generality.objectives import orthogonal_group_loss, soft_cross_entropy


def tuned_with_adapters(
    model: str,
    identity: str,
    source: Labelled,
    tests: Mapping[str, Labelled],
    *,
    layer: int,
    max_length: int,
    device: str,
    settings: TrainConfig,
    seed: int,
    rank: int = 0,
    num: int = 0,
    lam: float = 0.0,
    preserve: bool = True,
    diversify: bool = True,
) -> dict[str, float]:
    """Tune every weight, or a `LoRAGroup`, on the sources; scores, and what became of updates.

    To keep, pass it to `Lab.step`; the classifier itself is dropped.

    Args:
        model: of the backbone, as `load_model` takes it.
        identity: of its weights (`model_identity`), for the key.
        source: texts, or an array of images, and their classes.
        tests: "source" and "target", likewise.
        layer: hidden state of texts that the head reads; the blocks after it are not run.
        max_length: tokens of a text.
        device: where to train.
        settings: of the training.
        seed: of adapters and order.
        rank: of each adapter.
        num: adapters on each query and value projection; 0 tunes every weight.
        lam: weight of `orthogonal_group_loss`.
        preserve: of the same.
        diversify: of the same.

    Returns:
        What `source_and_target` says, `trained_share` of the backbone's weights, and with adapters
        what `LoRAGroup.report` does and `merge_error`, the largest change of a log-probability
        when they are merged.

    Source: Hu et al. 2024 (arXiv 2407.15085).
    """
    images = isinstance(source[0], np.ndarray)
    classes = 1 + max(int(labels.max()) for _, labels in (source, *tests.values()))
    classifier: Any
    if images:
        classifier = ImageClassifier.from_name(model, classes, device=device)
        classifier.body.requires_grad_(False).tower.requires_grad_(True)  # no tower of texts
        body, blocks, inputs, collate = classifier.body.tower, None, list(source[0]), _stacked
    else:
        classifier = TextClassifier.from_name(
            model, classes, layer=layer, pooling="mean", device=device
        )
        body, blocks, collate = classifier.model, layer, classifier.collate
        inputs = classifier.tokenize(source[0], max_length=max_length)
    backbone = sum(p.numel() for p in body.parameters())
    group = LoRAGroup(body, rank=rank, num=num, blocks=blocks, seed=seed) if num else None
    penalty = partial(orthogonal_group_loss, lam=lam, preserve=preserve, diversify=diversify)
    soft = np.eye(classes, dtype=np.float32)[source[1]]
    train(
        classifier, [{"input_ids": i, "targets": t} for i, t in zip(inputs, soft, strict=True)],
        soft_cross_entropy, settings, seed=seed, device=device, collate=collate,
        penalty=penalty if lam else None,
    )  # fmt: skip

    def say(name: str) -> np.ndarray:
        options = {} if images else {"max_length": max_length}
        found: np.ndarray = classifier.predict_proba(tests[name][0], **options)
        return found

    updates = {"trained_share": 1.0}
    said = {"source": say("source")}
    if group:
        trained = sum(parameter.numel() for parameter in group.parameters())
        updates = {**group.report(), "trained_share": trained / backbone}
        group.unload()
        merged = say("source")
        updates["merge_error"] = float(np.abs(np.log(merged) - np.log(said["source"])).max())
    return {**source_and_target({**said, "target": say("target")}, tests), **updates}


def source_and_target(
    said: Mapping[str, Float[np.ndarray, "n classes"]], tests: Mapping[str, Labelled]
) -> dict[str, float]:
    """Accuracy on the target as `score`, and `source_score` and `source_loss` (nats).

    >>> said = {"source": np.array([[0.5, 0.5]]), "target": np.array([[0.1, 0.9]])}
    >>> tests = {"source": (["a"], np.array([0])), "target": (["b"], np.array([1]))}
    >>> {name: round(value, 3) for name, value in source_and_target(said, tests).items()}
    {'score': 1.0, 'source_score': 1.0, 'source_loss': 0.693}
    """
    (_, target), (_, source) = tests["target"], tests["source"]
    own = said["source"][np.arange(len(source)), source]
    return {
        "score": accuracy(said["target"], target),
        "source_score": accuracy(said["source"], source),
        "source_loss": float(-np.log(own.clip(1e-9)).mean()),
    }


def image_features(
    model: str, identity: str, device: str, pixels: Float[np.ndarray, "n 3 height width"]
) -> Float[np.ndarray, "n dim"]:
    """What a linear probe reads of images in [0, 1]; `identity` names the weights, for the key."""
    body = ImageClassifier.from_name(model, 1, tuning="probe", device=device).body.eval()
    with torch.inference_mode():
        parts = [body(each.to(device)).cpu() for each in torch.from_numpy(pixels).split(32)]
    return torch.cat(parts).numpy()


def _stacked(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of images."""
    return {"images": torch.from_numpy(np.stack([each["input_ids"] for each in examples]))}
