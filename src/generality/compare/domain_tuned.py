"""Text backbones tuned (LoRA or fully) by losses over domain-balanced batches, and measured."""

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

from generality.compare.crafted_shifts import craft_texts
from generality.compare.domain_arms import Arm, Fold, accuracy, candidate, mean
from generality.compare.domain_bundles import Bundled, BundledLoss, make_bundles
from generality.compare.domain_features import FeatureRecipe
from generality.compare.domain_frozen import Hyper, Network
from generality.compare.domain_methods import ALGORITHMS, DOMAIN_METHODS, SHARED
from generality.compare.domain_table import DomainTable
from generality.compare.winner import save_tuned
from generality.errors import UserError, unknown
from generality.lab import Lab, TrainConfig
from generality.lab.train import train
from generality.models import TextClassifier
from generality.models.identity import model_identity

RATES = {"lora": 0.5, "full": 0.05}
"""What a draw's learning rate is multiplied by: 1e-3 for heads becomes 5e-4 and 5e-5."""
TUNED_NETWORK = Network(steps=100, per_domain=8)
"""A tuned backbone's usual steps and rows of each domain in one."""


@dataclass(frozen=True)
class Tuned:
    """How the backbone is tuned.

    Attributes:
        recipe: the backbone.
        tuning: "lora" or "full".
        network: steps, and rows of each domain in one; its `hidden` is not used.
    """

    recipe: FeatureRecipe
    tuning: str
    network: Network

    def classifier(self, classes: int, device: str, seed: int) -> TextClassifier:
        """The backbone with a new head, before training."""
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
    if table.kind != "text" or recipe.model == "bag-of-words":
        what = recipe.model if table.kind == "text" else f"{table.kind} inputs"
        raise UserError(f"--tuning {tuning} tunes text backbones, not {what}; use probe.")
    return Tuned(recipe, tuning, network or TUNED_NETWORK)


def text_views(table: DomainTable) -> dict[str, list[str]]:
    """The texts as they are, under "", and changed, under the name of each crafted shift."""
    return {"": list(table.inputs), **craft_texts(table.inputs)}


def measure_tuned(
    lab: Lab,
    texts: Mapping[str, Sequence[str]],
    labels: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    fold: Fold,
    name: str,
    hypers: Sequence[Hyper],
    tuned: Tuned,
    inner: bool,
) -> dict[str, list[dict[str, float]]]:
    """What `domain_frozen.measure` does for heads, for a tuned backbone: a training at a time.

    `texts` are those of every row, under "" as they are and under each kind of crafted shift.
    """
    candidates = []
    for arm in fold.arms(labels, len(hypers), inner=False):
        split = fold.splits[arm.seed]
        held = np.concatenate([split[domain].held for domain in fold.sources])
        asked = {view: held for view in texts if view}
        asked[""] = np.concatenate([held, split[fold.target].known, split[fold.target].score])
        said = _answers(lab, texts, labels, fold, arm, name, hypers, tuned, asked)
        look_up = functools.partial(_looked_up, said)
        candidates.append(candidate(look_up, 0, arm, fold, labels, groups, list(texts)))
    if inner:
        left_out: dict[tuple[int, int], list[float]] = {}
        for arm in fold.arms(labels, len(hypers), inner=True):
            rows = fold.splits[arm.seed][arm.without].held
            said = _answers(lab, texts, labels, fold, arm, name, hypers, tuned, {"": rows})
            right = accuracy(said[""][rows], labels[rows])
            left_out.setdefault((arm.draw, arm.seed), []).append(right)
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
    texts: Mapping[str, Sequence[str]],
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
            said = _answers(lab, texts, labels, fold, arm, "erm", hypers, tuned, asked)[""]
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
    found = tune(
        lab,
        [[table.inputs[row] for row in own] for own in rows],
        [table.labels[own] for own in rows],
        len(table.label_names),
        name,
        hyper["trained"],
        tuned,
        0,
        {},
        keep_weights=True,
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
            "domain_names": table.domain_names, "text": table.columns[0], "model": recipe.model,
            "tuning": tuned.tuning, "layer": recipe.layer, "pooling": recipe.pooling,
            "max_length": recipe.max_length, "steps": tuned.network.steps,
            "per_domain": tuned.network.per_domain, "rows": int((table.labels >= 0).sum()),
        },
    )  # fmt: skip


def tune(
    lab: Lab,
    texts: Sequence[Sequence[str]],
    labels: Sequence[Int[np.ndarray, " n"]],
    classes: int,
    name: str,
    hyper: Hyper,
    tuned: Tuned,
    seed: int,
    ask: Mapping[str, Sequence[str]],
    *,
    keep_weights: bool = False,
) -> dict[str, Any]:
    """Tune on texts of several domains; kept, and resumed where it was killed.

    Args:
        texts: of each domain.
        labels: their classes.
        ask: groups of texts to give probabilities of.
        keep_weights: also return the trained weights.

    Returns:
        "probabilities" by group, and "weights".
    """
    lab.fetch(tuned.recipe.model)
    arguments = {
        "identity": model_identity(tuned.recipe.model), "texts": [list(each) for each in texts],
        "labels": list(labels), "classes": classes, "name": name, "hyper": dict(hyper),
        "tuned": tuned, "seed": seed, "ask": {key: list(each) for key, each in ask.items()},
        "device": lab.device, "keep_weights": keep_weights,
    }  # fmt: skip
    key = lab.steps.key(_tune, **arguments)
    checkpoint = lab.steps.partial(key)
    with lab.progress.task(f"Tuning {tuned.recipe.model} ({name})") as report:
        found: dict[str, Any] = lab.step(
            _tune, uncached={"checkpoint": checkpoint, "progress": report}, **arguments
        )
    if lab.steps.folder(key).exists():
        shutil.rmtree(checkpoint, ignore_errors=True)
    return found


def _tune(
    *,
    identity: str,
    texts: Sequence[Sequence[str]],
    labels: Sequence[np.ndarray],
    classes: int,
    name: str,
    hyper: Hyper,
    tuned: Tuned,
    seed: int,
    ask: Mapping[str, Sequence[str]],
    device: str,
    keep_weights: bool,
    checkpoint: Any = None,
    progress: Any = None,
) -> dict[str, Any]:
    """The memoised step behind `tune`; `identity` names the backbone's weights."""
    domains, length = len(texts), tuned.recipe.max_length
    classifier = tuned.classifier(classes, device, seed)
    tokens = [classifier.tokenize(each, max_length=length) for each in texts]
    examples = make_bundles(
        tokens, labels, classes, tuned.network.steps * tuned.network.per_domain, seed
    )

    def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        return classifier.collate([{"input_ids": ids} for each in examples for ids in each["ids"]])

    own = {key: value for key, value in hyper.items() if key not in SHARED}
    config = TrainConfig(
        epochs=1,
        batch_size=tuned.network.per_domain,
        learning_rate=hyper["learning_rate"] * RATES[tuned.tuning],
        weight_decay=hyper["weight_decay"],
        bucketing="none",
    )
    loss = BundledLoss(ALGORITHMS[DOMAIN_METHODS[name].algorithm], own, domains, classes)
    train(
        Bundled(classifier, domains), examples, loss, config, seed=seed, collate=collate,
        device=device, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    weights = {
        key: parameter.detach().cpu()
        for key, parameter in classifier.named_parameters()
        if parameter.requires_grad
    }
    return {
        "probabilities": {
            key: classifier.predict_proba(list(group), max_length=length)
            for key, group in ask.items()
        },
        "weights": weights if keep_weights else {},
    }


def _answers(
    lab: Lab,
    texts: Mapping[str, Sequence[str]],
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
        [[texts[""][row] for row in rows] for rows in arm.rows],
        [labels[rows] for rows in arm.rows],
        fold.classes,
        name,
        hypers[arm.draw],
        tuned,
        arm.seed,
        {view: [texts[view][row] for row in rows] for view, rows in asked.items()},
    )
    said = {}
    for view, rows in asked.items():
        said[view] = np.full((len(labels), fold.classes), np.nan, dtype=np.float32)
        said[view][rows] = found["probabilities"][view]
    return said
