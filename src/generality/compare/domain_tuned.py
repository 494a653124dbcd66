"""Backbones of texts and images tuned by losses over domain-balanced batches, and measured."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from generality.compare.crafted_shifts import IMAGE_SHIFTS, craft_texts
from generality.compare.domain_arms import Arm, Fold, candidate, mean, sure
from generality.compare.domain_bundles import Bundled, BundledLoss, make_bundles
from generality.compare.domain_features import (
    FeatureRecipe,
    crafted_images,
    image_names,
    image_side,
    pixels,
)
from generality.compare.domain_frozen import Hyper, Network
from generality.compare.domain_methods import ALGORITHMS, DOMAIN_METHODS, SHARED
from generality.compare.domain_table import DomainTable, Kind
from generality.compare.winner import save_tuned
from generality.errors import UserError, unknown
from generality.lab import Lab, TrainConfig
from generality.lab.train import Diverged, train
from generality.measures import accuracy
from generality.models import TextClassifier
from generality.models.identity import model_identity
from generality.models.image_classifier import ImageClassifier

RATES = {"lora": 0.5, "full": 0.05}
"""What a draw's learning rate is multiplied by: 1e-3 for heads becomes 5e-4 and 5e-5."""
TUNED_NETWORK = Network(steps=100, per_domain=8)
"""A tuned backbone's usual steps and rows of each domain in one."""
_BATCH = 32  # images that are read at a time


@dataclass(frozen=True)
class Tuned:
    """How the backbone is tuned.

    Attributes:
        recipe: the backbone.
        tuning: "lora" or "full".
        network: steps, and rows of each domain in one; its `hidden` is not used.
        kind: "text" or "image".
    """

    recipe: FeatureRecipe
    tuning: str
    network: Network
    kind: Kind = "text"

    def classifier(self, classes: int, device: str, seed: int) -> TextClassifier | ImageClassifier:
        """The backbone with a new head, before training."""
        if self.kind == "image":
            return ImageClassifier.from_name(
                self.recipe.model, classes, tuning=self.tuning, device=device, seed=seed
            )
        return TextClassifier.from_name(
            self.recipe.model,
            classes,
            pooling=self.recipe.pooling,
            layer=-1 if self.recipe.layer is None else self.recipe.layer,
            tuning=self.tuning,
            device=device,
            seed=seed,
        )


def how_tuned(
    table: DomainTable, recipe: FeatureRecipe, tuning: str, network: Network | None
) -> Tuned | None:
    """How the backbone is tuned; None where it is frozen."""
    if tuning == "probe":
        return None
    if tuning not in RATES:
        raise unknown("tuning", tuning, ("probe", *RATES))
    if table.kind == "numeric" or recipe.model == "bag-of-words":
        what = recipe.model if table.kind == "text" else "columns of numbers"
        raise UserError(f"--tuning {tuning} tunes backbones of texts and images, not {what}.")
    return Tuned(recipe, tuning, network or TUNED_NETWORK, table.kind)


@dataclass(frozen=True)
class Inputs:
    """Texts or images, and what names each in the key of kept work.

    Attributes:
        values: texts, paths, arrays (3, h, w), or images to be crafted.
        names: of each: the text itself, the file's content, the array.
    """

    values: Sequence[Any]
    names: Sequence[Any]

    def take(self, rows: Int[np.ndarray, " n"]) -> Inputs:
        """Some of them."""
        return Inputs([self.values[row] for row in rows], [self.names[row] for row in rows])


def input_views(table: DomainTable) -> dict[str, Inputs]:
    """The inputs as they are, under "", and changed, under the name of each crafted shift."""
    views: dict[str, Any] = {"": table.inputs}
    if table.kind == "text":
        views |= craft_texts(table.inputs)
        return {name: Inputs(texts, texts) for name, texts in views.items()}
    named: dict[str, Any] = {"": image_names(table.inputs)}
    for shift in IMAGE_SHIFTS:
        views[shift] = crafted_images(table.inputs, shift)
        named[shift] = crafted_images(named[""], shift)
    return {name: Inputs(images, named[name]) for name, images in views.items()}


def measure_tuned(
    lab: Lab,
    inputs: Mapping[str, Inputs],
    labels: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    fold: Fold,
    name: str,
    hypers: Sequence[Hyper],
    tuned: Tuned,
    inner: bool,
) -> dict[str, list[dict[str, float]]]:
    """What `domain_frozen.measure` does for heads, for a tuned backbone: a training at a time.

    `inputs` are those of every row, under "" as they are and under each kind of crafted shift.
    """
    candidates = []
    for arm in fold.arms(labels, len(hypers), inner=False):
        split = fold.splits[arm.seed]
        held = np.concatenate([split[domain].held for domain in fold.sources])
        asked = {view: held for view in inputs if view}
        asked[""] = np.concatenate([held, split[fold.target].known, split[fold.target].score])
        said = _answers(lab, inputs, labels, fold, arm, name, hypers, tuned, asked)
        look_up = functools.partial(_looked_up, said)
        candidates.append(candidate(look_up, 0, arm, fold, labels, groups, list(inputs)))
    if inner:
        left_out: dict[tuple[int, int], list[float]] = {}
        for arm in fold.arms(labels, len(hypers), inner=True):
            values = left_out.setdefault((arm.draw, arm.seed), [])
            if len(rows := fold.splits[arm.seed][arm.without].held):
                said = _answers(lab, inputs, labels, fold, arm, name, hypers, tuned, {"": rows})
                values.append(accuracy(said[""][rows], labels[rows]))
        for each in candidates:
            found = left_out[int(each["draw"]), int(each["seed"])]
            each["leave-one-domain-out"] = mean(found)
    return {name: candidates}


def _looked_up(
    said: Mapping[str, np.ndarray], place: int, rows: np.ndarray, view: str
) -> Float[np.ndarray, "n classes"]:
    return said[view][rows]


def ceiling_tuned(
    lab: Lab,
    inputs: Mapping[str, Inputs],
    labels: Int[np.ndarray, " n"],
    fold: Fold,
    hypers: Sequence[Hyper],
    tuned: Tuned,
) -> list[float]:
    """What `domain_frozen.ceiling` does for heads."""
    best: dict[int, tuple[float, float]] = {}
    for arms in fold.ceiling_arms(labels, len(hypers)):
        for arm in arms:
            held = fold.target_part(labels, arm.seed).held
            score = fold.splits[arm.seed][fold.target].score
            asked = {"": np.concatenate([held, score])}
            said = _answers(lab, inputs, labels, fold, arm, "erm", hypers, tuned, asked)[""]
            value = accuracy(said[held], labels[held])
            if arm.seed not in best or value > best[arm.seed][0]:
                best[arm.seed] = value, accuracy(said[score], labels[score])
    return [best[seed][1] for seed in sorted(best)]


def refit_tuned(
    table: DomainTable,
    name: str,
    hyper: Mapping[str, Mapping[str, float]],
    tuned: Tuned,
    folder: Path,
    lab: Lab,
) -> None:
    """Tune once more, with seed 0, on the labelled rows of all domains; save it."""
    rows = [
        np.flatnonzero((table.domains == domain) & (table.labels >= 0))
        for domain in range(len(table.domain_names))
        if table.labelled(domain)
    ]
    every = input_views(table)[""]
    found = tune(
        lab,
        [every.take(own) for own in rows],
        [table.labels[own] for own in rows],
        len(table.label_names),
        name,
        hyper["trained"],
        tuned,
        0,
        {},
        keep_weights=True,
    )
    if not found["weights"]:
        raise UserError(
            f"Trained on all domains, {name} diverged; the rows are kept. Choose other methods, or "
            "more draws."
        )
    classifier = tuned.classifier(len(table.label_names), lab.device, 0)
    with torch.no_grad():
        for key, parameter in classifier.named_parameters():
            if key in found["weights"]:
                parameter.copy_(found["weights"][key])
    recipe = tuned.recipe
    save_tuned(
        folder,
        classifier,
        {
            "method": name, "hyper": hyper, "seed": 0, "label_names": table.label_names,
            "domain_names": table.domain_names, "input": table.kind, "text": table.columns[0],
            "tuning": tuned.tuning, **recipe.to_dict(), "steps": tuned.network.steps,
            "per_domain": tuned.network.per_domain, "rows": int((table.labels >= 0).sum()),
        },
    )  # fmt: skip


def tune(
    lab: Lab,
    inputs: Sequence[Inputs],
    labels: Sequence[Int[np.ndarray, " n"]],
    classes: int,
    name: str,
    hyper: Hyper,
    tuned: Tuned,
    seed: int,
    ask: Mapping[str, Inputs],
    *,
    keep_weights: bool = False,
) -> dict[str, Any]:
    """Tune on rows of several domains; kept, and resumed where it was killed.

    Args:
        inputs: of each domain.
        labels: their classes.
        ask: groups of inputs to give probabilities of.
        keep_weights: also return the trained weights.

    Returns:
        "probabilities" by group, NaN where the training diverged, and "weights".
    """
    lab.fetch(tuned.recipe.model)
    arguments = {
        "identity": model_identity(tuned.recipe.model), "names": [each.names for each in inputs],
        "labels": list(labels), "classes": classes, "name": name, "hyper": dict(hyper),
        "tuned": tuned, "seed": seed, "asked": {key: each.names for key, each in ask.items()},
        "device": lab.device, "keep_weights": keep_weights,
    }  # fmt: skip
    uncached = {
        "inputs": [each.values for each in inputs],
        "ask": {key: each.values for key, each in ask.items()},
    }
    key = lab.steps.key(_tune, **arguments)
    checkpoint = lab.steps.partial(key)
    with lab.progress.task(f"Tuning {tuned.recipe.model} ({name})") as report:
        found: dict[str, Any] = lab.step(
            _tune, uncached={**uncached, "checkpoint": checkpoint, "progress": report}, **arguments
        )
    if lab.steps.folder(key).exists():
        shutil.rmtree(checkpoint, ignore_errors=True)
    return found


def _tune(
    *,
    identity: str,
    names: Any,
    labels: Sequence[np.ndarray],
    classes: int,
    name: str,
    hyper: Hyper,
    tuned: Tuned,
    seed: int,
    asked: Any,
    device: str,
    keep_weights: bool,
    inputs: Sequence[Sequence[Any]],
    ask: Mapping[str, Sequence[Any]],
    checkpoint: Any = None,
    progress: Any = None,
) -> dict[str, Any]:
    """The memoised step behind `tune`; `identity`, `names` and `asked` name what is read."""
    domains = len(inputs)
    classifier = tuned.classifier(classes, device, seed)
    examples = make_bundles(
        [_prepared(classifier, each, tuned.recipe) for each in inputs],
        labels, classes, tuned.network.steps * tuned.network.per_domain, seed,
    )  # fmt: skip

    def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        every = [item for example in examples for item in example["inputs"]]
        if isinstance(classifier, TextClassifier):
            return classifier.collate([{"input_ids": ids} for ids in every])
        return {"images": torch.from_numpy(pixels(every, image_side(tuned.recipe)))}

    own = {key: value for key, value in hyper.items() if key not in SHARED}
    config = TrainConfig(
        epochs=1,
        batch_size=tuned.network.per_domain,
        learning_rate=hyper["learning_rate"] * RATES[tuned.tuning],
        weight_decay=hyper["weight_decay"],
        bucketing="none",
    )
    loss = BundledLoss(ALGORITHMS[DOMAIN_METHODS[name].algorithm], own, domains, classes)
    try:
        train(
            Bundled(classifier, domains), examples, loss, config, seed=seed, collate=collate,
            device=device, checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
    except Diverged:  # of some draws of the hyper-parameters; the others go on
        nothing = {key: np.full((len(each), classes), np.nan) for key, each in ask.items()}
        return {"probabilities": nothing, "weights": {}}
    weights = {
        key: parameter.detach().cpu()
        for key, parameter in classifier.named_parameters()
        if parameter.requires_grad
    }
    return {
        "probabilities": {
            key: said_of(classifier, group, tuned.recipe) for key, group in ask.items()
        },
        "weights": weights if keep_weights else {},
    }


def _prepared(
    classifier: TextClassifier | ImageClassifier, inputs: Sequence[Any], recipe: FeatureRecipe
) -> Sequence[Any]:
    """Tokens of texts; images as they are, to be read batch by batch."""
    if isinstance(classifier, TextClassifier):
        return classifier.tokenize(list(inputs), max_length=recipe.max_length)
    return inputs


def said_of(
    classifier: TextClassifier | ImageClassifier, inputs: Sequence[Any], recipe: FeatureRecipe
) -> Float[np.ndarray, "n classes"]:
    """Class probabilities of texts or images, which are read batch by batch."""
    if isinstance(classifier, TextClassifier):
        return classifier.predict_proba(list(inputs), max_length=recipe.max_length)
    side = image_side(recipe)
    batches = [inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH)]
    said = [classifier.predict_proba(pixels(batch, side)) for batch in batches]
    empty = np.zeros((0, classifier.head.out_features), dtype=np.float32)
    return np.concatenate([empty, *said])


def _answers(
    lab: Lab,
    inputs: Mapping[str, Inputs],
    labels: np.ndarray,
    fold: Fold,
    arm: Arm,
    name: str,
    hypers: Sequence[Hyper],
    tuned: Tuned,
    asked: Mapping[str, np.ndarray],
) -> dict[str, Float[np.ndarray, "n classes"]]:
    """Probabilities of the rows asked about, by view, at the place of each row; NaN elsewhere."""
    found = tune(
        lab,
        [inputs[""].take(rows) for rows in arm.rows],
        [labels[rows] for rows in arm.rows],
        fold.classes,
        name,
        hypers[arm.draw],
        tuned,
        arm.seed,
        {view: inputs[view].take(rows) for view, rows in asked.items()},
    )
    said = {}
    for view, rows in asked.items():
        said[view] = np.full((len(labels), fold.classes), np.nan, dtype=np.float32)
        said[view][rows] = sure(found["probabilities"][view])
    return said
