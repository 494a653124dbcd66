"""Errors a person can act on.

Anything a user did, or that happened to their machine, is raised as a `UserError`: one clear
sentence that says what is wrong and what to do. The command line prints it without a traceback
and exits with code 2. A bug of ours stays an ordinary exception.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType


class UserError(Exception):
    """Something the user can fix; its message says what is wrong and what to do."""

    exit_code = 2


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """A `UserError` for a mistyped name, with the nearest known one.

    >>> str(unknown("study", "weak-to-stong", ["weak-to-strong", "drm"]))
    "There is no study 'weak-to-stong'. Did you mean 'weak-to-strong'? Known: drm, weak-to-strong."
    """
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listing = f" Known: {', '.join(choices)}." if choices else ""
    return UserError(f"There is no {kind} '{name}'.{hint}{listing}")


def import_extra(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra of generality brings it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"This needs the package '{module}'; install it with: pip install 'generality[{extra}]'"
        ) from error
