"""Public names of a package, imported when first used: torch and transformers take seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`, given the module below it that holds each name.

    Importing a module sets it as an attribute of its package: where a name is that of its module,
    the name is what stays.
    """

    class Package(ModuleType):
        def __setattr__(self, name: str, value: Any) -> None:
            hides = isinstance(value, ModuleType) and homes.get(name) == name
            super().__setattr__(name, getattr(value, name) if hides else value)

    sys.modules[package].__class__ = Package

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)  # next time without this detour
        return value

    return get, lambda: sorted(homes)
