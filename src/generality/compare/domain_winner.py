"""The winner of a comparison over domains: trained on all of them, saved, asked about new rows.

A folder holds `winner.json` (what it is, how it was made), `network.safetensors` (`featurizer.*`
and `head.*` on features from which `mean` is taken and that are divided by `scale`) and, for a
method that adapts at test time, `adapter.safetensors`: the state that a stream starts from.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import generality
from generality.compare.domain_arms import Arm
from generality.compare.domain_diverse import refit_diverse
from generality.compare.domain_features import FeatureRecipe, features_of, readable_rows
from generality.compare.domain_frozen import Network, train_arms
from generality.compare.domain_methods import DOMAIN_METHODS
from generality.compare.domain_table import DomainTable, read_numbers
from generality.compare.winner import read_paths, read_texts, refuse_other_files
from generality.errors import UserError, unknown
from generality.estimators.soft_probe import moments, standardised
from generality.lab import Lab
from generality.models.atomic_folder import atomic_folder

KIND = "domains"


def refit(
    table: DomainTable,
    features: Float[np.ndarray, "n dim"],
    method: str,
    hyper: Mapping[str, Mapping[str, float]],
    network: Network,
    recipe: FeatureRecipe,
    folder: Path,
    lab: Lab,
) -> None:
    """Train a method once more, with seed 0, on the labelled rows of all domains; save it.

    Raises:
        UserError: it diverged, or the folder holds other files.
    """
    state = lab.step(
        _refitted, features, table.labels, table.domains, len(table.label_names), method, hyper,
        network,
    )  # fmt: skip
    if not all(each.isfinite().all() for each in state["network"].values()):
        raise UserError(
            f"Trained on all domains, {method} diverged; the rows are kept. Choose other methods, "
            "or more draws."
        )
    about = {
        "kind": KIND, "method": method, "hyper": hyper, "input": table.kind,
        "columns": table.columns, "text": table.columns[0] if table.kind == "text" else None,
        "label_names": table.label_names, "domain_names": table.domain_names,
        **recipe.to_dict(), "dim": features.shape[1], "hidden": network.hidden,
        "steps": network.steps, "per_domain": network.per_domain, "stream": network.stream,
        "seed": 0, "rows": int((table.labels >= 0).sum()), "generality": generality.__version__,
        "unlabelled": int((table.labels < 0).sum()),
    }  # fmt: skip
    refuse_other_files(folder)
    with atomic_folder(folder) as fresh:
        save_file(state["network"], fresh / "network.safetensors")
        if state["adapter"]:
            save_file(state["adapter"], fresh / "adapter.safetensors")
        text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
        (fresh / "winner.json").write_text(text, encoding="utf-8")


def _refitted(
    features: Float[np.ndarray, "n dim"],
    labels: np.ndarray,
    domains: np.ndarray,
    classes: int,
    name: str,
    hyper: Mapping[str, Mapping[str, float]],
    network: Network,
) -> dict[str, dict[str, Tensor]]:
    """The memoised step behind `refit`."""
    method = DOMAIN_METHODS[name]
    known = np.flatnonzero(labels >= 0)
    mean, scale = moments(np.asarray(features)[known])
    inputs = standardised(features, mean, scale)
    centre = {
        "mean": torch.from_numpy(mean.astype(np.float32)),
        "scale": torch.from_numpy(scale.astype(np.float32)),
    }
    if method.diverse:
        chosen = refit_diverse(inputs, labels, domains, classes, name, hyper, network)
        return {"network": _plain({**chosen, **centre}), "adapter": {}}
    rows = tuple(known[domains[known] == d] for d in np.unique(domains[known]))
    trained = train_arms(
        method.algorithm, [hyper["trained"]], inputs, labels, [Arm(0, 0, rows)], classes, network
    )
    module: Any = trained.module(0).eval().requires_grad_(False)
    state = {**module.state_dict(), **centre}
    adapter: dict[str, Tensor] = {}
    if method.adapter is not None:
        seen = module.featurizer(torch.from_numpy(inputs[known]))
        truth = torch.from_numpy(labels[known])
        adapter = method.adapter(module, seen, truth, hyper["adapter"], classes).state_dict()
    return {"network": _plain(state), "adapter": _plain(adapter)}


class SavedDomainClassifier:
    """A saved winner. It answers rows in the order they come, a batch at a time.

    Where its method adapts, each batch is learned from after it is answered, and what was learned
    lasts as long as the object.

    Args:
        folder: where `refit` saved it.
        lab: where features are computed.

    Raises:
        UserError: the folder is damaged.
    """

    def __init__(self, folder: Path, lab: Lab) -> None:
        self.lab = lab
        try:
            about = json.loads((folder / "winner.json").read_text(encoding="utf-8"))
            self._take(about, folder)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(f"The classifier in {folder} is damaged: {error}") from error

    def _take(self, about: dict[str, Any], folder: Path) -> None:
        self.about = about
        self.label_names: list[str] = about["label_names"]
        self.text: str | None = about["text"]
        self.columns: list[str] = about["columns"]
        self.input = about["input"]
        named = {name: about[name] for name in FeatureRecipe.__dataclass_fields__}
        self.recipe = FeatureRecipe(**named)
        tensors = load_file(folder / "network.safetensors")
        self.mean, self.scale = (tensors.pop(name).numpy() for name in ("mean", "scale"))
        classes = len(self.label_names)
        self.module: Any = Network(hidden=about["hidden"]).module(
            about["dim"], len(tensors["head.weight"])
        )
        self.module.load_state_dict(tensors)
        self.module.eval().requires_grad_(False)
        method = DOMAIN_METHODS[about["method"]]
        self.on_inputs, self.adapter = method.on_inputs, None
        if method.adapter is not None:
            hyper = about["hyper"]["adapter"]
            self.adapter = method.adapter(self.module, None, None, hyper, classes)
            self.adapter.load_state_dict(load_file(folder / "adapter.safetensors"))

    def predict_proba(
        self, inputs: Any, *, adapt: bool = True, skip_unreadable: bool = False
    ) -> Float[np.ndarray, "n classes"]:
        """Class probabilities of texts, images or rows of numbers, in the order of `label_names`.

        Rows with a number that is missing or infinite get NaN, and are not learned from; so do
        images that cannot be read, with `skip_unreadable`.

        Raises:
            UserError: an image that cannot be read.
        """
        said = np.full((len(inputs), len(self.label_names)), np.nan, dtype=np.float32)
        if skip_unreadable and self.input == "image":
            good = readable_rows(inputs)
            if len(good) < len(inputs):
                if len(good):
                    said[good] = self.predict_proba([inputs[row] for row in good], adapt=adapt)
                return said
        raw = np.asarray(features_of(self.input, inputs, self.recipe, self.lab))
        whole = np.flatnonzero(np.isfinite(raw).all(1))
        if holes := len(raw) - len(whole):
            first = int(np.flatnonzero(~np.isfinite(raw).all(1))[0]) + 1
            warnings.warn(
                f"{holes} of {len(raw)} rows lack a number or hold an infinite one, first row "
                f"{first}: they get no prediction, and nothing is learned from them.",
                stacklevel=2,
            )
        features = torch.from_numpy(standardised(raw[whole], self.mean, self.scale))
        size = int(self.about["stream"])
        for start in range(0, len(whole), size):
            batch = features[start : start + size]
            said[whole[start : start + size]] = self._answer(batch, adapt).numpy()
        return said

    def _answer(self, batch: Tensor, adapt: bool) -> Tensor:
        if self.adapter is None:
            answer: Tensor = self.module(batch).softmax(-1)
            return answer
        asked = batch if self.on_inputs else self.module.featurizer(batch)
        adapted: Tensor = self.adapter.predict(asked, adapt=adapt)
        return adapted

    def read_inputs(
        self, data: Dataset, column: str | None = None, folder: Path | None = None
    ) -> Any:
        """The inputs in a table's columns, named as when it was made; paths start at `folder`.

        Raises:
            UserError: a column is missing or holds something else.
        """
        if self.input == "numeric":
            return read_numbers(data, self.columns)
        if self.input == "image":
            return read_paths(data, column or self.columns[0], folder)
        name = column or self.columns[0]
        if name not in data.column_names:
            raise unknown("column", name, data.column_names)
        return read_texts(data, name)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()}
