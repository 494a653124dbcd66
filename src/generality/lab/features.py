"""Features, computed once per dataset, model and layer, mapped from disk by all who need them."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

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
            _put(partial / "features.npy", folder / "features.npy")
        if store.folder(key).exists():
            shutil.rmtree(partial, ignore_errors=True)
    kept = _kept(store, key, count=False)
    return features if kept is None else kept


def _kept(
    store: StepStore, key: str, *, count: bool = True
) -> Float[np.ndarray, "examples dim"] | None:
    if store.manifest(key) is None:
        return None
    store.reused += count
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
    path = partial / "features.npy"
    embedded = done = _resume(partial, len(examples))
    while done < len(examples):
        prepared = encoder.prepare(examples[done : done + WINDOW])
        window: np.ndarray | None = None
        for rows in similar_batches([encoder.size(p) for p in prepared], batch_tokens, batch_size):
            vectors = encoder.encode([prepared[row] for row in rows])
            if window is None:
                window = np.empty((len(prepared), vectors.shape[1]), np.float32)
                if done == 0:
                    _allocate(path, (len(examples), vectors.shape[1]))
            window[rows] = vectors
            embedded += len(rows)
            if progress:
                progress(embedded, len(examples))
        mapped = np.load(path, mmap_mode="r+")  # anew each time: pages that stay mapped add up
        mapped[done : done + len(prepared)] = window
        mapped.flush()
        del mapped
        done += len(prepared)
        _write_progress(partial, done)
    features: np.ndarray = np.load(path, mmap_mode="r")
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


def _resume(partial: Path, total: int) -> int:
    """How many examples an earlier, killed process has done."""
    try:
        done = int(json.loads((partial / "progress.json").read_text())["done"])
        features: np.ndarray = np.load(partial / "features.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return done if len(features) == total and done <= total else 0


def _allocate(path: Path, shape: tuple[int, int]) -> None:
    """A file of its full size from the start: a disk that fills under a map kills the process."""
    try:
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"The features need {math.prod(shape) * 4 / 1e6:.0f} MB and the disk that holds "
            f"{path.parent} cannot give them ({error.strerror}); free space there or point "
            "GENERALITY_HOME to another folder, then run again."
        ) from error


def _put(source: Path, target: Path) -> None:
    """As a second name where the disk can: the first stays for a rerun until all is kept."""
    try:
        os.link(source, target)
    except OSError:
        os.rename(source, target)


def _write_progress(partial: Path, done: int) -> None:
    temporary = partial / "progress.json.tmp"
    temporary.write_text(json.dumps({"done": done}))
    os.replace(temporary, partial / "progress.json")
