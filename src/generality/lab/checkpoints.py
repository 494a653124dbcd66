"""Checkpoints a training resumes from after a kill: one safetensors file and its predecessor."""

from __future__ import annotations

import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_MOST_OF_THE_TIME = 0.05  # spent on writing checkpoints, at most


class Checkpoints:
    """Named tensors and a JSON description, written atomically; the one before is kept.

    A file holds everything (the description and a checksum of the tensors in its header), is
    written beside the last one, synced, and renamed over it. A kill at any moment leaves a whole
    one. What cannot be read falls back to the one before, then to nothing, with a warning; what
    cannot be written (a full disk) is a warning too, and training goes on. Not for two processes
    at once on one folder.

    Args:
        folder: made if missing.
        every: seconds between checkpoints; 0: each time one is offered. When writing is slow the
            pauses grow, so that at most 5 % of the time goes into it (not with 0).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Checkpoints(folder).save({"weight": torch.ones(2)}, {"step": 3})
    ...     Checkpoints(folder).load()
    True
    ({'weight': tensor([1., 1.])}, {'step': 3})
    """

    def __init__(self, folder: str | Path, *, every: float = 60.0) -> None:
        self.folder, self.every = Path(folder), every
        self._last = time.monotonic()
        self._took = 0.0

    @property
    def paths(self) -> tuple[Path, Path]:
        """The newest checkpoint and the one before."""
        return self.folder / "checkpoint.safetensors", self.folder / "previous.safetensors"

    def due(self) -> bool:
        """Whether it is time for another."""
        pause = max(self.every, self._took / _MOST_OF_THE_TIME) if self.every else 0.0
        return time.monotonic() - self._last >= pause

    def save(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> bool:
        """Write a checkpoint; False, with a warning, where the disk does not take it."""
        started = time.monotonic()
        newest, previous = self.paths
        writing = self.folder / "writing.tmp"
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"about": json.dumps(about), "checksum": _checksum(tensors)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, writing, metadata=header)
            _sync(writing)
            if newest.exists():
                os.replace(newest, previous)
            os.replace(writing, newest)
            _sync(self.folder)
        except (OSError, SafetensorError) as error:
            writing.unlink(missing_ok=True)
            warnings.warn(f"No checkpoint written in {self.folder}: {error}", stacklevel=2)
            return False
        finally:
            self._last = time.monotonic()
            self._took = self._last - started
        return True

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest readable checkpoint as (tensors on the CPU, description); None without one."""
        for path in self.paths:
            if not path.exists():
                continue
            try:
                return _read(path)
            except (OSError, SafetensorError, ValueError) as error:
                warnings.warn(f"The checkpoint {path} is unusable: {error}", stacklevel=2)
        return None

    def clear(self) -> None:
        """Remove the checkpoints, and the folder if nothing else is in it."""
        for path in (*self.paths, self.folder / "writing.tmp"):
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        # Copies: what is mapped would change under us when the file is replaced on some systems.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if header.get("checksum") != _checksum(tensors):
        raise ValueError("its checksum does not match")
    return tensors, json.loads(header["about"])


def _checksum(tensors: dict[str, Tensor]) -> str:
    state = xxhash.xxh3_128()
    for name in sorted(tensors):
        state.update(name.encode())
        state.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
