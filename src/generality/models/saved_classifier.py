"""What every saved classifier has in its folder: `classifier.json` and `head.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from generality.errors import UserError

FILE = "classifier.json"


def check_target(folder: Path, label_names: Sequence[str], head: nn.Linear) -> None:
    """Before a classifier is written.

    Raises:
        UserError: the folder holds something else.
        ValueError: not one name a class.
    """
    if len(label_names) != head.out_features:
        raise ValueError(f"{head.out_features} classes, but {len(label_names)} names")
    if folder.exists() and not (folder / FILE).exists() and any(folder.iterdir()):
        raise UserError(f"'{folder}' holds other files; give a new folder for the classifier.")


def write_classifier(folder: Path, about: dict[str, Any], head: dict[str, Tensor]) -> None:
    """Settings and the head's weights."""
    (folder / FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in head.items()}
    save_file(weights, folder / "head.safetensors")


def read_classifier(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `write_classifier` wrote.

    Raises:
        UserError: the folder holds no classifier.
    """
    try:
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        head = load_file(folder / "head.safetensors")
        head["weight"]  # the one that every head has
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"'{folder}' holds no saved classifier: {error}") from error
    return about, head
