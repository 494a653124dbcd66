"""What a study is, where studies are found, and how their knobs are turned."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from generality.errors import UserError, unknown

if typing.TYPE_CHECKING:
    from generality.claims import Claim, Row

SCALES = ("smoke", "small", "full")


@dataclass(frozen=True)
class Paper:
    """The paper whose claims a study tests."""

    title: str
    arxiv: str
    year: int


@dataclass(frozen=True)
class Study:
    """A study module, seen from outside; it is imported when more than its title is asked for.

    Attributes:
        name: as it is typed.
        family: the folder it is in.
        where: the module, or its full name.
    """

    name: str
    family: str
    where: ModuleType | str

    @cached_property
    def module(self) -> ModuleType:
        """The module itself."""
        return importlib.import_module(self.where) if isinstance(self.where, str) else self.where

    @cached_property
    def title(self) -> str:
        """First line of the module's docstring."""
        return (ast.get_docstring(self._source) or self.name).splitlines()[0].rstrip(".")

    @cached_property
    def paper(self) -> Paper:
        """The paper it tests."""
        for line in self._source.body:
            if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "PAPER":
                with contextlib.suppress(ValueError, AttributeError):  # not written out in full
                    call = typing.cast(ast.Call, line.value)
                    named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
                    return Paper(*map(ast.literal_eval, call.args), **named)
        return typing.cast(Paper, self.module.PAPER)

    @cached_property
    def _source(self) -> ast.Module:
        if isinstance(self.where, str):
            spec = importlib.util.find_spec(self.where)
            file = spec and spec.origin
        else:
            file = self.where.__file__
        return ast.parse(Path(str(file)).read_text(encoding="utf-8"))

    @property
    def scales(self) -> Mapping[str, Any]:
        """Configurations by scale."""
        return typing.cast(Mapping[str, Any], self.module.SCALES)

    @property
    def claims(self) -> Sequence[Claim]:
        """What the paper claims, as tests over the rows."""
        return typing.cast("Sequence[Claim]", self.module.CLAIMS)

    @property
    def factors(self) -> tuple[str, ...] | None:
        """Columns of a row that are set, not measured; None: the study declares none."""
        return getattr(self.module, "FACTORS", None)

    @property
    def run(self) -> Callable[..., Iterator[Row]]:
        """The study itself: run(config, lab) yields rows."""
        return typing.cast("Callable[..., Iterator[Row]]", self.module.run)


def find_studies() -> list[Study]:
    """Every study that ships with generality, by family and name; none of them is imported."""
    package = importlib.import_module("generality.studies")
    found = []
    for family in pkgutil.iter_modules(package.__path__):
        if not family.ispkg:
            continue
        rooms = importlib.import_module(f"generality.studies.{family.name}")
        for paper in pkgutil.iter_modules(rooms.__path__):
            name = paper.name.replace("_", "-")
            found.append(Study(name, family.name, f"{rooms.__name__}.{paper.name}"))
    return found


def find_study(name: str) -> Study:
    """A study by name (`weak-to-strong`), or one of your own by the path of its file."""
    if name.endswith(".py"):
        return _study_from_file(Path(name))
    studies = {study.name: study for study in find_studies()}
    if name not in studies:
        if Path(name).is_file():
            raise UserError(f"{name} is no study: a study of your own is a Python file (.py).")
        raise unknown("study", name, studies)
    return studies[name]


def _study_from_file(path: Path) -> Study:
    if not path.exists():
        raise UserError(f"There is no file {path}; name a study (generality list) or its file.")
    path = path.resolve()
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) != str(path):
        raise UserError(f"{path.name} has the name of another Python module; rename it.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    # known by name, so that its code counts in step keys and worker processes can import it
    sys.modules[path.stem] = module
    # behind everything else: no file beside the study may stand in for one of Python's modules
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    missing = [part for part in ("SCALES", "run", "CLAIMS", "PAPER") if not hasattr(module, part)]
    if missing:
        raise UserError(f"{path} is no study: it lacks {', '.join(missing)}.")
    return Study(path.stem.replace("_", "-"), "own", module)


def configure(study: Study, scale: str, settings: Sequence[str] = ()) -> Any:
    """The study's configuration at a scale, with `key=value` settings applied.

    Values are read as the field's type; lists are separated by commas.
    """
    if scale not in study.scales:
        raise unknown("scale", scale, study.scales)
    config = study.scales[scale]
    hints = typing.get_type_hints(type(config))
    changes = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: write key=value.")
        if key not in hints:
            raise unknown("setting", key, hints)
        changes[key] = _parse(key, text, hints[key])
    try:
        return dataclasses.replace(config, **changes)
    except ValueError as error:
        raise UserError(f"That configuration does not work: {error}") from error


def _parse(key: str, text: str, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType or origin is typing.Union:
        if text.lower() in ("none", "null") and type(None) in arguments:
            return None
        kinds = [argument for argument in arguments if argument is not type(None)]
        for alternative in kinds[:-1]:
            with contextlib.suppress(UserError):
                return _parse(key, text, alternative)
        return _parse(key, text, kinds[-1])
    if origin is tuple:
        items = [item.strip() for item in text.split(",") if item.strip()]
        return tuple(_parse(key, item, arguments[0]) for item in items)
    if origin is typing.Literal:
        choices = {str(argument): argument for argument in arguments}
        if text not in choices:
            raise unknown(f"value of {key}", text, choices)
        return choices[text]
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
        return text if kind is str else json.loads(text)
    except (KeyError, ValueError) as error:
        name = getattr(kind, "__name__", str(kind))
        raise UserError(f"--set {key}={text}: that is no {name}.") from error
