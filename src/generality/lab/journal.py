"""Answers kept one by one as they come, so that a killed job asks for none of them again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any


class Journal:
    """Values by key in a file of JSON lines that only grows; several threads may write.

    Every value is on the disk when `write` returns. A line that a kill tore is dropped when the
    file is opened again. One process at a time: inside a memoised step, whose lock sees to that.

    Args:
        path: of the file; its folder is made.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     Journal(Path(folder, "answers.jsonl")).write("2 + 2?", "4")
    ...     Journal(Path(folder, "answers.jsonl")).read()
    {'2 + 2?': '4'}
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and (whole := path.read_bytes().rfind(b"\n") + 1) < path.stat().st_size:
            os.truncate(path, whole)

    def read(self) -> dict[str, Any]:
        """All values so far; the last one of a key counts."""
        if not self.path.exists():
            return {}
        with self.path.open("rb") as file:
            return dict(map(json.loads, file))

    def write(self, key: str, value: Any) -> None:
        """Add one value; it is on the disk when this returns."""
        line = json.dumps([key, value]).encode() + b"\n"
        with self._lock, self.path.open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())
