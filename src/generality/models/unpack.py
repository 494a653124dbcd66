"""Named files out of an archive, and nothing else."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO


def unpack(archive: Path, members: Mapping[str, str], into: Path) -> None:
    """Write the members that match a pattern below `into`; only plain files, never outside it.

    Args:
        archive: a wheel or zip, or a tar of any compression.
        members: for each pattern (`*` also matches `/`) the folder under `into` that takes the
            place of the pattern's fixed folders: `{"a/b/*.txt": "texts"}` writes `a/b/c/d.txt`
            to `texts/c/d.txt`.
        into: an existing folder.

    Raises:
        ValueError: a pattern matches nothing, or a member would land outside `into`.
    """
    missing = set(members)
    for name, file in _files(archive):
        for pattern, folder in members.items():
            if not fnmatchcase(name, pattern):
                continue
            missing.discard(pattern)
            fixed = pattern.split("*")[0].rpartition("/")[0]
            target = into / folder / PurePosixPath(name[len(fixed) :].lstrip("/"))
            if not target.resolve().is_relative_to(into.resolve()):
                raise ValueError(f"{archive.name} has a member that leaves its folder: {name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as sink:
                shutil.copyfileobj(file, sink, 1 << 20)
            break
    if missing:
        raise ValueError(f"{archive.name} has no {', '.join(sorted(missing))}")


def _files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every plain file, in order; links and devices are passed over."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    with zipped.open(info) as file:
                        yield info.filename, file
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isreg() and (content := tar.extractfile(member)) is not None:
                with closing(content):
                    yield member.name, content
