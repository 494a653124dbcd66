"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from generality.errors import UserError


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Write into the folder given; when the block ends well it is renamed to `folder`.

    What a killed block left is removed by the next one. An older `folder` is replaced.

    Raises:
        UserError: the folder cannot be made there, or another process is at it.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as parent:
    ...     with atomic_folder(Path(parent, "new")) as fresh:
    ...         (fresh / "a.txt").touch()
    ...     [path.name for path in Path(parent).rglob("*")]
    ['new', 'a.txt']
    """
    fresh, old = (folder.with_name(f".{folder.name}.{state}") for state in ("new", "old"))
    held = _claimed(fresh, folder)
    try:
        yield fresh
        if hasattr(os, "sync"):  # file by file, thousands of small ones take ten seconds
            os.sync()
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        _close(held)


def _claimed(fresh: Path, folder: Path) -> int | None:
    """Make the folder anew and lock it: a kill lets go of the lock, and nothing is left of it."""
    try:
        with suppress(FileNotFoundError):
            _close(_lock(fresh, folder))
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        return _lock(fresh, folder)
    except OSError as error:
        raise UserError(
            f"'{folder}' cannot be made ({error.strerror}): name another place."
        ) from error


def _lock(fresh: Path, folder: Path) -> int | None:
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    handle = os.open(fresh, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UserError(
            f"Another run is writing '{folder}': wait for it, or name another folder."
        ) from error
    return handle


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)
