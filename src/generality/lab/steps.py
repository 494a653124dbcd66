"""Memoised steps: results kept under the content of everything that made them.

An entry is a folder named by its key, `steps/<2 hex>/<key>/`:

    manifest.json       what made it, when, how long it took, size and checksum of every file
    result.json         the result's structure, with plain values in place
    arrays.safetensors  its arrays and tensors
    *.npy               features too large to hold in memory, mapped instead of read

It is written beside its place and renamed into it last, so a reader sees all of it or nothing,
whoever is killed when. A lock per key keeps two processes from computing the same step twice.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from generality.errors import UserError
from generality.lab.fingerprint import code_fingerprint, file_fingerprint, fingerprint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One kept result, as `generality cache ls` shows it."""

    key: str
    folder: Path
    step: str
    size: int
    seconds: float
    used: float

    @property
    def age_days(self) -> float:
        """Days since the entry was last used."""
        return (time.time() - self.used) / 86_400


class StepStore:
    """Results on disk, keyed by function, code version and arguments.

    >>> import tempfile
    >>> store = StepStore(Path(tempfile.mkdtemp()))
    >>> store.compute(divmod, 17, 5)
    (3, 2)
    >>> store.compute(divmod, 17, 5), store.computed, store.reused
    ((3, 2), 1, 1)
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.computed = 0
        self.reused = 0

    def compute(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        uncached: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """`function(*args, **kwargs, **uncached)`, or its kept result.

        The result may nest dicts, lists and tuples of None, bool, int, float, str, numpy arrays
        and torch tensors. `uncached` holds arguments that do not change it (a progress callback).
        """
        key = self.key(function, *args, **kwargs)
        result = self._read(key)
        if result is not _MISSING:
            return result
        with self.lock(key):
            result = self._read(key)  # another process may have finished it meanwhile
            if result is not _MISSING:
                return result
            started = time.monotonic()
            arrays: dict[str, torch.Tensor] = {}
            structure = _encode(function(*args, **kwargs, **(uncached or {})), arrays)
            seconds = time.monotonic() - started
            self.computed += 1
            step = f"{function.__module__}.{function.__qualname__}"
            arguments = [_short(value) for value in args]
            arguments += [f"{name}={_short(value)}" for name, value in kwargs.items()]
            with self.writing(key, step=step, arguments=arguments, seconds=seconds) as folder:
                if arrays:
                    _save_arrays(arrays, folder / "arrays.safetensors")
                (folder / "result.json").write_text(json.dumps(structure))
            return _decode(structure, arrays)  # the same types as when read back

    def key(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        """The name of the result of this call."""
        return fingerprint(code_fingerprint(function), args, kwargs)

    def folder(self, key: str) -> Path:
        """Where the entry of a key is, or would be."""
        return self.root / key[:2] / key

    def partial(self, key: str) -> Path:
        """Where a step that can be resumed keeps what it has so far."""
        return self.root / "partial" / key

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Held by the one process that computes a key; freed by the system if it dies."""
        path = self.root / "locks" / f"{key}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another process is computing step %s; waiting for its result", key[:8])
            lock.acquire()
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            yield
        finally:
            lock.release()

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"The cache folder {self.root} cannot be written ({error.strerror}); free space "
            "there or point GENERALITY_HOME to another folder."
        )

    @contextmanager
    def writing(
        self, key: str, *, step: str, arguments: list[str], seconds: float
    ) -> Iterator[Path]:
        """A folder to write an entry's files into; it becomes the entry when the block ends.

        A full disk keeps nothing and is said once: the run goes on without the entry.
        """
        temporary = self.root / "tmp" / f"{key}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        try:
            temporary.mkdir(parents=True)
            yield temporary
            manifest = {
                "step": step,
                "arguments": arguments,
                "seconds": round(seconds, 3),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "python": sys.version.split()[0],
                "torch": torch.__version__,
                "files": {path.name: _describe(path) for path in sorted(temporary.iterdir())},
            }
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
            _sync(temporary)
            self.folder(key).parent.mkdir(parents=True, exist_ok=True)
            os.rename(temporary, self.folder(key))
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return  # someone else kept the same result first
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            warnings.warn(
                f"The disk that holds {self.root} is full: results are not kept, and a later run "
                "computes them again. Free space there or run `generality cache gc`.",
                stacklevel=2,
            )
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def manifest(self, key: str) -> dict[str, Any] | None:
        """The manifest of an intact entry; None when there is none. A damaged one is removed."""
        folder = self.folder(key)
        if not folder.exists():
            return None
        problem = check(folder)
        if problem:
            warnings.warn(f"Cache entry {key[:8]} {problem}; it is computed again.", stacklevel=2)
            self.remove(key)
            return None
        with contextlib.suppress(OSError):  # a cache shared read-only
            os.utime(folder / "manifest.json")  # when it was last used, for gc
        return dict(json.loads((folder / "manifest.json").read_text()))

    def entries(self) -> list[Entry]:
        """Every entry, the most recently used first."""
        found = []
        for folder in self.root.glob("[0-9a-f][0-9a-f]/*"):
            manifest_path = folder / "manifest.json"
            try:
                manifest = json.loads(manifest_path.read_text())
                size = sum(described["size"] for described in manifest["files"].values())
                step, seconds = manifest["step"], float(manifest["seconds"])
                used = manifest_path.stat().st_mtime
            except (ValueError, KeyError, TypeError, OSError):
                size, step, seconds, used = 0, "(damaged)", 0.0, 0.0
            found.append(Entry(folder.name, folder, step, size, seconds, used))
        return sorted(found, key=lambda entry: -entry.used)

    def verify(self) -> list[tuple[Entry, str]]:
        """Entries that are damaged, each with what is wrong; nothing is changed."""
        checked = ((entry, check(entry.folder)) for entry in self.entries())
        return [(entry, problem) for entry, problem in checked if problem]

    def gc(self, *, older_than_days: float | None = None, max_bytes: int | None = None) -> int:
        """Remove damaged entries and leftovers of killed processes, then what is older than
        `older_than_days`, then the least recently used beyond `max_bytes`. Returns bytes freed.
        """
        freed = 0
        for entry, _ in self.verify():
            freed += entry.size
            self.remove(entry.key)
        for leftover in [
            *self.root.glob("tmp/*"),
            *self.root.glob("partial/*"),
            *self.root.glob("locks/*"),
        ]:
            try:
                if time.time() - leftover.stat().st_mtime < 86_400:
                    continue
            except FileNotFoundError:  # another process is done with it
                continue
            files = [path for path in (leftover, *leftover.rglob("*")) if path.is_file()]
            freed += sum(path.stat().st_size for path in files)
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
        kept = 0
        for entry in self.entries():
            too_old = older_than_days is not None and entry.age_days > older_than_days
            too_much = max_bytes is not None and kept + entry.size > max_bytes
            if too_old or too_much:
                freed += entry.size
                self.remove(entry.key)
            else:
                kept += entry.size
        return freed

    def remove(self, key: str) -> None:
        """Forget one entry; readers that have its files mapped keep them."""
        grave = self.root / "tmp" / f"{key}.{uuid.uuid4().hex[:8]}"
        grave.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(self.folder(key), grave)
        except FileNotFoundError:
            return
        shutil.rmtree(grave, ignore_errors=True)

    def _read(self, key: str) -> Any:
        if self.manifest(key) is None:
            return _MISSING
        result = _read_result(self.folder(key))
        self.reused += 1
        return result


class _Missing:
    pass


_MISSING = _Missing()


def check(folder: Path) -> str:
    """What is wrong with an entry's files; empty when they are what the manifest says."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return "has no readable manifest"
    for name, described in files.items():
        path = folder / name
        if not path.exists():
            return f"lacks {name}"
        if path.stat().st_size != described["size"]:
            return f"has a truncated {name}"
        if file_fingerprint(path) != described["xxh3"]:
            return f"has a damaged {name}"
    return ""


def _describe(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "xxh3": file_fingerprint(path)}


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _save_arrays(arrays: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(arrays, path)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):  # a full disk comes in this dress
            raise OSError(int(number[1]), str(error), str(path)) from error
        raise


def _short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    text = f"{type(value).__name__}{tuple(shape)}" if shape is not None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# A result is stored as JSON in which an array is {"$array": name} and a tuple {"$tuple": […]}.


def _read_result(folder: Path) -> Any:
    path = folder / "arrays.safetensors"
    arrays = load_file(path) if path.exists() else {}
    return _decode(json.loads((folder / "result.json").read_text()), arrays)


def _encode(value: Any, arrays: dict[str, torch.Tensor]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (torch.Tensor, np.ndarray)):
        name = f"a{len(arrays)}"
        is_numpy = isinstance(value, np.ndarray)
        tensor = torch.from_numpy(np.array(value)) if is_numpy else torch.as_tensor(value)
        arrays[name] = tensor.detach().cpu().clone().contiguous()
        return {"$array": name, "numpy": is_numpy}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"$dict": {key: _encode(item, arrays) for key, item in value.items()}}
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_encode(item, arrays) for item in value]
    raise TypeError(
        f"a memoised step returned a {type(value).__name__}; it may return plain values, arrays, "
        "tensors, and dicts (with string keys), lists and tuples of them"
    )


def _decode(value: Any, arrays: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        tensor = arrays[value["$array"]]
        return tensor.numpy() if value["numpy"] else tensor
    if "$tuple" in value:
        return tuple(_decode(item, arrays) for item in value["$tuple"])
    return {key: _decode(item, arrays) for key, item in value["$dict"].items()}
