"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Write into the folder given; when the block ends well it is renamed to `folder`.

    What a killed block left is removed by the next one. An older `folder` is replaced. One writer
    at a time.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as parent:
    ...     with atomic_folder(Path(parent, "new")) as fresh:
    ...         (fresh / "a.txt").touch()
    ...     [path.name for path in Path(parent).rglob("*")]
    ['new', 'a.txt']
    """
    fresh, old = (folder.with_name(f".{folder.name}.{state}") for state in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
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
