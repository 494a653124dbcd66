"""Features, computed once per dataset, model and layer, mapped from disk by all who need them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from generality.errors import UserError
from generality.lab.encoders import Encoder
from generality.lab.fingerprint import fingerprint
from generality.lab.progress import Report
from generality.lab.steps import StepStore

WINDOW = 2048
"""Examples tokenised, sorted by length and kept at a time: what a killed run may repeat."""


def embed(
    store: StepStore,
    encoder: Encoder,
    examples: Sequence[Any],
    *,
    batch_tokens: int = 2048,
    batch_size: int = 64,
    content: Any = None,
    progress: Report | None = None,
) -> Float[np.ndarray, "examples dim"]:
    """Features of every example, in order, as a read-only memory map of float32.

    Works through windows of `WINDOW` examples; within one, batches hold examples of similar
    length, at most `batch_tokens` tokens (padding included) and `batch_size` examples each. Memory
    does not grow with the number of examples. A run that was killed goes on from its last window.
    `content` is what names the examples in the cache, when it is not the examples themselves.
    """
    if len(examples) == 0:
        raise ValueError("there is nothing to embed: the dataset is empty")
    named = examples if content is None else content
    key = fingerprint(type(encoder), encoder.fingerprint, named)  # a type is named by its code
    kept = _kept(store, key)
    if kept is not None:
        return kept
    with store.lock(key):
        kept = _kept(store, key)  # another process may have finished it meanwhile
        if kept is not None:
            return kept
        started = time.monotonic()
        partial = store.partial(key)
        partial.mkdir(parents=True, exist_ok=True)
        features = _fill(partial, encoder, examples, batch_tokens, batch_size, progress)
        store.computed += 1
        step = f"embed:{encoder.fingerprint[:8]}"
        arguments = [f"{len(examples)} examples", f"{features.shape[1]} features"]
        seconds = time.monotonic() - started
        with store.writing(key, step=step, arguments=arguments, seconds=seconds) as folder:
            os.rename(partial / "features.npy", folder / "features.npy")
        (partial / "progress.json").unlink(missing_ok=True)
        partial.rmdir()
    kept = _kept(store, key)
    return features if kept is None else kept


def standardised(
    features: Float[np.ndarray, "examples dim"], rows: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "examples dim"]:
    """Features with zero mean and unit variance over the given rows (those of training).

    >>> standardised(np.array([[1.0], [3.0], [5.0]]), np.array([0, 1])).ravel()
    array([-1.,  1.,  3.])
    """
    mean, scale = features[rows].mean(0), features[rows].std(0)
    return (features - mean) / np.where(scale > 0, scale, 1).astype(features.dtype)


def _kept(store: StepStore, key: str) -> Float[np.ndarray, "examples dim"] | None:
    if store.manifest(key) is None:
        return None
    store.reused += 1
    mapped: np.ndarray = np.load(store.folder(key) / "features.npy", mmap_mode="r")
    return mapped


def _fill(
    partial: Path,
    encoder: Encoder,
    examples: Sequence[Any],
    batch_tokens: int,
    batch_size: int,
    progress: Report | None,
) -> Float[np.ndarray, "examples dim"]:
    features, done = _resume(partial, len(examples))
    embedded = done
    while done < len(examples):
        prepared = encoder.prepare(examples[done : done + WINDOW])
        for rows in similar_batches([encoder.size(p) for p in prepared], batch_tokens, batch_size):
            vectors = encoder.encode([prepared[row] for row in rows])
            if features is None:
                shape = (len(examples), vectors.shape[1])
                features = _allocate(partial / "features.npy", shape)
            features[[done + row for row in rows]] = vectors
            embedded += len(rows)
            if progress:
                progress(embedded, len(examples))
        assert isinstance(features, np.memmap)
        done += len(prepared)
        features.flush()
        _write_progress(partial, done)
    assert features is not None
    return features


def similar_batches(sizes: Sequence[int], batch_tokens: int, batch_size: int) -> list[list[int]]:
    """Indices in batches of similar size, longest first (so that too little memory shows at once).

    >>> similar_batches([3, 9, 4, 8], batch_tokens=18, batch_size=8)
    [[1, 3], [2, 0]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        room = batch_tokens // sizes[batches[-1][0]] if batches else 0
        if batches and len(batches[-1]) < min(batch_size, max(room, 1)):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _resume(partial: Path, total: int) -> tuple[np.ndarray | None, int]:
    try:
        done = int(json.loads((partial / "progress.json").read_text())["done"])
        features: np.ndarray = np.load(partial / "features.npy", mmap_mode="r+")
    except (OSError, ValueError, KeyError):
        return None, 0
    return (features, done) if len(features) == total and done <= total else (None, 0)


def _allocate(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A file of its full size from the start: a disk that fills under a map kills the process."""
    features = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink()
        raise UserError(
            f"The features need {features.nbytes / 1e6:.0f} MB and the disk that holds "
            f"{path.parent} cannot give them ({error.strerror}); free space there or point "
            "GENERALITY_HOME to another folder, then run again."
        ) from error
    return features


def _write_progress(partial: Path, done: int) -> None:
    temporary = partial / "progress.json.tmp"
    temporary.write_text(json.dumps({"done": done}))
    os.replace(temporary, partial / "progress.json")
