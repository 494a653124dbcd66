"""The winner of a comparison as a folder: saved, loaded, and asked about new texts.

A folder holds `winner.json` (what it is, how it was made) and, for a probe, `head.safetensors`
(`weight` (classes, dim) on features from which `mean` is taken and that are divided by `scale`);
for a tuned model what `TextClassifier.save_pretrained` writes, which `transformers`, `peft` and
`safetensors` can load.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import generality
from generality.compare.sequence_classifier import SequenceClassifier
from generality.errors import UserError, unknown
from generality.lab import Lab
from generality.lab.fingerprint import file_fingerprint, fingerprint
from generality.models import TextClassifier
from generality.models.atomic_folder import atomic_folder
from generality.models.identity import model_identity
from generality.models.image_classifier import ImageClassifier
from generality.models.load import fetch_model

_OURS = ("winner.json", "classifier.json")
_GIVE = "Give the folder `best` of a comparison, or a sequence classifier (a folder, hf:org/name)."


class Classifier(Protocol):
    """What `load_classifier` gives."""

    label_names: list[str]
    text: str | None
    """Name of the column of texts that it was made from, where known."""

    def predict_proba(self, texts: Sequence[str]) -> Float[np.ndarray, "texts classes"]:
        """Class probabilities of each text, in the order of `label_names`."""


class SavedProbe:
    """A linear head on a named backbone's frozen features."""

    def __init__(self, about: dict[str, Any], tensors: dict[str, Tensor], lab: Lab) -> None:
        self.about, self.lab = about, lab
        self.label_names: list[str] = about["label_names"]
        self.text: str | None = about.get("text")
        self.weight, self.mean, self.scale = (
            tensors[name].double().numpy() for name in ("weight", "mean", "scale")
        )

    def predict_proba(self, texts: Sequence[str]) -> Float[np.ndarray, "texts classes"]:
        """Class probabilities of each text."""
        about = self.about
        features = self.lab.embed(
            about["model"],
            list(texts),
            layer=about["layer"],
            pooling=about["pooling"],
            max_length=about["max_length"],
        )
        logits = ((features - self.mean) / self.scale) @ self.weight.T
        return torch.from_numpy(logits).softmax(-1).float().numpy()


class SavedTuned:
    """A tuned `TextClassifier`."""

    def __init__(self, about: dict[str, Any], classifier: TextClassifier) -> None:
        self.classifier, self.text = classifier, about.get("text")
        self.label_names = list(classifier.label_names)
        self.max_length = int(about.get("max_length", 256))

    def predict_proba(self, texts: Sequence[str]) -> Float[np.ndarray, "texts classes"]:
        """Class probabilities of each text."""
        return self.classifier.predict_proba(texts, max_length=self.max_length)


def save_probe(folder: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write a probe to `folder`, whole or not at all; an older one there is replaced."""
    refuse_other_files(folder)
    with atomic_folder(folder) as fresh:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, fresh / "head.safetensors")
        _write_about(fresh, "probe", about)


def save_tuned(
    folder: Path, classifier: TextClassifier | ImageClassifier, about: dict[str, Any]
) -> None:
    """Write a tuned classifier to `folder`, whole or not at all; an older one is replaced."""
    refuse_other_files(folder)
    with atomic_folder(folder) as fresh:
        classifier.save_pretrained(fresh, label_names=about["label_names"])
        _write_about(fresh, "tuned", about)


def load_classifier(
    path: str | Path, *, lab: Lab | None = None, max_length: int = 256
) -> Classifier:
    """A classifier of texts: a saved winner, or a `transformers` sequence classifier.

    Nothing is unpickled and no code of the folder is run.

    Args:
        path: a `best` folder, or the run that it is in; or a sequence classifier's folder or
            `hf:org/name`.
        lab: where a probe embeds texts, and which device is used.
        max_length: tokens of a text that a sequence classifier reads.

    Raises:
        UserError: there is no classifier, or it is damaged.
    """
    lab = lab or Lab(progress=False)
    folder = saved_folder(path)
    if folder is None:
        place = Path(path).expanduser()
        far = str(path).startswith("hf:")
        if not far and not place.exists():
            raise UserError(f"There is no classifier at '{path}'. {_GIVE}")
        if not (far or (place / "config.json").is_file()) or not is_sequence_classifier(str(path)):
            raise UserError(
                f"'{path}' holds no classifier: neither winner.json, nor the config.json of a "
                f"sequence classifier. {_GIVE}"
            )
        return SequenceClassifier(str(path), device=lab.device, max_length=max_length)
    about = _read_about(folder)
    if about.get("kind") == "domains":
        from generality.compare.domain_winner import SavedDomainClassifier

        return SavedDomainClassifier(folder, lab)
    if about.get("input") == "image":
        from generality.compare.image_winner import SavedTunedImages

        return SavedTunedImages(about, folder, lab)
    if about.get("kind") != "probe":
        return SavedTuned(about, TextClassifier.from_pretrained(folder, device=lab.device))
    try:
        tensors = load_file(folder / "head.safetensors")
        return SavedProbe(about, tensors, lab)
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(f"The classifier in {folder} is damaged: {error}") from error


def saved_folder(path: str | Path) -> Path | None:
    """The folder of a classifier that we saved, if `path` is one or a run with one."""
    for folder in (Path(path).expanduser(), Path(path).expanduser() / "best"):
        if any((folder / name).is_file() for name in _OURS):
            return folder
    return None


def input_of(path: str | Path) -> tuple[str, str | None]:
    """What a classifier reads ("text", "image" or "numeric"), and the column it was made with.

    Raises:
        UserError: it is damaged.
    """
    folder = saved_folder(path)
    about = _read_about(folder) if folder else {}
    kind = about.get("input", "text")
    column = about.get("text") or (about["columns"][0] if kind == "image" else None)
    return kind, column


def is_sequence_classifier(name: str) -> bool:
    """Whether a model comes with a classification head of its own."""
    if name == "bag-of-words":
        return False
    config = json.loads((fetch_model(name) / "config.json").read_text(encoding="utf-8"))
    return any(a.endswith("ForSequenceClassification") for a in config.get("architectures") or [])


def classifier_identity(path: str | Path) -> str:
    """What tells a classifier's weights and settings from any other's."""
    folder = saved_folder(path)
    if folder is None:
        return model_identity(str(path))
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return fingerprint([(file.name, file_fingerprint(file)) for file in files])


def predict(
    path: str | Path,
    data: Dataset,
    *,
    text: str | None = None,
    adapt: bool = True,
    skip_unreadable: bool = False,
    folder: Path | None = None,
    lab: Lab,
) -> Dataset:
    """A table with a saved classifier's answers beside it.

    Args:
        path: what `load_classifier` takes.
        data: the table.
        text: its column of texts; None is the column the comparison was made with. Missing texts
            count as empty ones. For a winner over domains also the column of image paths; its
            numbers are found by name.
        adapt: let a winner that adapts at test time learn from the rows, in their order.
        skip_unreadable: give no prediction for images that cannot be read, rather than refuse.
        folder: where paths of images start; None is the working folder.
        lab: where the work is done.

    Returns:
        The table with `prediction` (the most probable label), `probability` (its probability) and
        a column `p_<label>` per label. A row that cannot be read (a number is missing) has no
        prediction, and NaN for its probabilities.

    Raises:
        UserError: no classifier, no rows, no such column, or a column that is in the way.
    """
    classifier: Any = load_classifier(path, lab=lab)
    if len(data) == 0:
        raise UserError("There are no rows to predict.")
    added = ["prediction", "probability", *(f"p_{name}" for name in classifier.label_names)]
    if taken := [name for name in added if name in data.column_names]:
        raise UserError(f"The table already has a column '{taken[0]}'; rename it first.")
    adapts = hasattr(classifier, "read_inputs")  # a winner over domains
    inputs = (
        classifier.read_inputs(data, text, folder) if adapts else _texts(classifier, data, text)
    )
    with lab.progress.task(f"Predicting {len(data)} rows"):
        options = {"adapt": adapt, "skip_unreadable": skip_unreadable} if adapts else {}
        probabilities = classifier.predict_proba(inputs, **options)
    known = np.isfinite(probabilities).all(1)
    best = np.where(known, np.nan_to_num(probabilities).argmax(1), -1)
    columns: list[Any] = [[classifier.label_names[k] if k >= 0 else None for k in best]]
    columns += [probabilities.max(1), *probabilities.T]
    for name, values in zip(added, columns, strict=True):
        data = data.add_column(name, list(values))
    return data


def _texts(
    classifier: Classifier, data: Dataset, text: str | None, folder: Path | None = None
) -> list[str]:
    column = text or classifier.text or "text"
    if column not in data.column_names:
        raise unknown("column", column, data.column_names)
    return read_texts(data, column)


def read_texts(data: Dataset, column: str) -> list[str]:
    """A column's texts; missing ones are empty.

    Raises:
        UserError: it holds something else.
    """
    values = list(data[column])
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise UserError(
                f"Column '{column}' holds {type(value).__name__} in row {row + 1}, not text."
            )
    return [value or "" for value in values]


def about_blank(texts: Sequence[str]) -> list[str]:
    """A sentence about empty texts, if there are any.

    Raises:
        UserError: all are.
    """
    blank = sum(not text.strip() for text in texts)
    if blank == len(texts):
        raise UserError("The column of texts is blank in every row.")
    return [f"{blank} of {len(texts)} texts are empty; they are kept."] if blank else []


def read_paths(data: Dataset, column: str, folder: Path | None) -> list[str]:
    """A column's paths of images, which start at `folder`.

    Raises:
        UserError: there is no such column, or a row names no image.
    """
    if column not in data.column_names:
        raise unknown("column", column, data.column_names)
    values = read_texts(data, column)
    if "" in values:
        raise UserError(f"Column '{column}' names no image in row {values.index('') + 1}.")
    return [str((folder or Path()) / value) for value in values]


def _write_about(folder: Path, kind: str, about: dict[str, Any]) -> None:
    content = {"kind": kind, **about, "generality": generality.__version__}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (folder / "winner.json").write_text(text, encoding="utf-8")


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / "winner.json"
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        needed = ("label_names", "model", "layer", "pooling", "max_length")
        missing = [name for name in needed if name not in about]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if missing:
        raise UserError(f"{path} is damaged: it lacks {', '.join(missing)}.")
    return dict(about)


def refuse_other_files(folder: Path) -> None:
    """Raise a `UserError` where a folder holds anything but an earlier winner."""
    if folder.exists() and any(folder.iterdir()) and saved_folder(folder) != folder:
        raise UserError(f"'{folder}' holds other files; move them away first.")
