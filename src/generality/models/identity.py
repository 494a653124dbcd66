"""A name for a model's weights that changes when they do."""

from __future__ import annotations

import functools
from pathlib import Path

import xxhash

from generality.models.artifacts import ARTIFACTS
from generality.models.load import fetch_model


def model_identity(name: str) -> str:
    """What tells a model's weights from any others: the pin, or the content of its files.

    Pinned models are named by their sha256; hub and local ones by the xxh3-128 of their
    safetensors, configuration and tokenizer. The model is fetched if it is not there yet.

    >>> model_identity("bag-of-words")
    'bag-of-words'
    """
    if name == "bag-of-words":
        return name
    if name in ARTIFACTS:
        return f"{name}:{ARTIFACTS[name].sha256}"
    folder = fetch_model(name)
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json"))
    return _content(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@functools.lru_cache(maxsize=16)
def _content(files: tuple[tuple[Path, int, int], ...]) -> str:
    content = xxhash.xxh3_128()
    for path, _, _ in files:
        content.update(path.name.encode())
        with path.open("rb") as file:
            while piece := file.read(1 << 22):
                content.update(piece)
    return content.hexdigest()
