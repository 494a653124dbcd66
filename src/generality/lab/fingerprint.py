"""Names for content: equal values get equal fingerprints, in any process, on any day.

A memoised step is keyed by the fingerprint of its arguments and of the code that computes it, so
both must be stable: no ids, no hash seeds, no timestamps.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import dis
import enum
import functools
import importlib
import importlib.util
import inspect
import json
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, cast

import numpy as np
import torch
import xxhash

_STANDARD_LIBRARY = sysconfig.get_path("stdlib")
_CONSTANTS = (bool, int, float, complex, str, bytes, type(None))


def fingerprint(*values: Any) -> str:
    """A 128-bit content hash, in hex, of plain values, arrays, modules, datasets and code.

    Instances of a project's own classes (dataclasses, losses) are named by their fields and the
    source of their class; functions by their source and that of everything of the same project
    they call. Raises TypeError for a value whose content cannot be told.

    >>> fingerprint({"a": 1, "b": [1.0, None]}) == fingerprint({"b": [1.0, None], "a": 1})
    True
    >>> fingerprint(1) == fingerprint(1.0) or fingerprint("1") == fingerprint(1)
    False
    """
    content = xxhash.xxh3_128()
    for value in values:
        _feed(content, value)
    return content.hexdigest()


def file_fingerprint(path: Path) -> str:
    """xxh3-128 of a file's bytes, in hex, read in pieces."""
    content = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            content.update(piece)
    return content.hexdigest()


def _feed(content: xxhash.xxh3_128, value: Any) -> None:
    def token(kind: str, payload: bytes = b"") -> None:
        content.update(f"{kind}:{len(payload)}:".encode())
        content.update(payload)

    if isinstance(value, enum.Enum):
        token("enum", f"{_qualified(type(value))}.{value.name}".encode())
    elif isinstance(value, _CONSTANTS):
        token(type(value).__name__, repr(value).encode())
    elif isinstance(value, np.generic):
        _feed(content, value.item())
    elif isinstance(value, Path):
        token("path", str(value).encode())
    elif isinstance(value, Mapping):
        token("mapping", str(len(value)).encode())
        for key in sorted(value, key=repr):
            _feed(content, key)
            _feed(content, value[key])
    elif isinstance(value, (list, tuple, range)):
        token(type(value).__name__, str(len(value)).encode())
        for item in value:
            _feed(content, item)
    elif isinstance(value, (set, frozenset)):
        token("set", "".join(sorted(fingerprint(item) for item in value)).encode())
    elif isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            _feed(content, value.tolist())
            return
        token("array", f"{value.dtype.str}{value.shape}".encode())
        content.update(np.ascontiguousarray(value).data)
    elif isinstance(value, torch.Tensor):
        token("tensor", f"{value.dtype}{tuple(value.shape)}".encode())
        content.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, (torch.device, torch.dtype)):
        token("torch", str(value).encode())
    elif isinstance(value, functools.partial):
        _feed(content, ("partial", value.func, value.args, value.keywords))
    elif isinstance(value, torch.nn.Module):
        token("module", f"{_qualified(type(value))}{value!r}".encode())
        _feed(content, dict(value.state_dict()))
        _feed_class(content, type(value))
    elif inspect.isroutine(value) or isinstance(value, type):
        token("code", code_fingerprint(value).encode())
    elif dataclasses.is_dataclass(value):
        token("dataclass", _qualified(type(value)).encode())
        for field in dataclasses.fields(value):
            _feed(content, (field.name, getattr(value, field.name)))
        _feed_class(content, type(value))
    elif hasattr(value, "fingerprint") and isinstance(value.fingerprint, str):
        token("named", f"{_qualified(type(value))}{value.fingerprint}".encode())
    elif (feed := _library_content(value)) is not None:
        token("library", _qualified(type(value)).encode())
        for piece in feed:
            content.update(piece)
    else:
        raise TypeError(
            f"a memoised step cannot tell the content of a {_qualified(type(value))}; pass plain "
            "values, arrays, datasets or modules, or give it a `fingerprint` string"
        )


def _library_content(value: Any) -> Iterator[bytes] | None:
    """Content of types from libraries that may not even be imported."""
    if (datasets := sys.modules.get("datasets")) and isinstance(value, datasets.Dataset):
        return _dataset_content(value)
    if (pandas := sys.modules.get("pandas")) and isinstance(
        value, (pandas.DataFrame, pandas.Series)
    ):
        hashes = pandas.util.hash_pandas_object(value, index=True).to_numpy()
        names = list(value.columns) if value.ndim == 2 else [value.name]
        return iter([repr(names).encode(), hashes.tobytes()])
    if hasattr(value, "get_params") and hasattr(value, "fit"):  # a scikit-learn estimator
        return iter([fingerprint(value.get_params(deep=False)).encode()])
    if hasattr(value, "backend_tokenizer"):
        state = json.loads(value.backend_tokenizer.to_str())
        of_last_call = ("truncation", "padding")  # set by every call, with its arguments
        own = {name: part for name, part in state.items() if name not in of_last_call}
        return iter([json.dumps([own, str(value.special_tokens_map)], sort_keys=True).encode()])
    if hasattr(value, "to_diff_dict"):  # a transformers configuration
        return iter([json.dumps(value.to_diff_dict(), sort_keys=True, default=str).encode()])
    return None


def _dataset_content(dataset: Any) -> Iterator[bytes]:
    yield repr(sorted(dataset.features.items())).encode()
    arrow = dataset.with_format("arrow")
    for start in range(0, len(dataset), 10_000):
        table = arrow[start : start + 10_000].combine_chunks().replace_schema_metadata(None)
        for batch in table.to_batches():
            yield batch.serialize().to_pybytes()


def _feed_class(content: xxhash.xxh3_128, kind: type) -> None:
    if _is_local(kind):
        content.update(code_fingerprint(kind).encode())


# ---------------------------------------------------------------------------------- code


@functools.cache
def code_fingerprint(thing: Callable[..., Any] | type) -> str:
    """Hash of the source of a function or class and of all the local code it uses.

    Local is generality and whatever is not installed: an upgraded torch does not invalidate a
    result, a changed loss does. Comments, docstrings and layout do not count; constants of the
    module do.
    """
    if not _is_local(thing):
        return _qualified(thing)
    pieces: list[tuple[str, str]] = []
    seen: dict[int, Any] = {}  # by identity: two lambdas of a module have one name
    waiting: list[Any] = [thing]
    while waiting:
        current = inspect.unwrap(waiting.pop())
        if id(current) in seen:
            continue
        seen[id(current)] = current
        name = _qualified(current)
        pieces.append((name, _source(current)))
        for label, reference in _references(current):
            for member in _members(reference):
                if isinstance(member, _CONSTANTS):
                    pieces.append((f"{name}:{label}", repr(member)))
                elif _is_local(member):
                    waiting.append(member)
        pieces += [(f"{name}:{label}", content) for label, content in _captured(current)]
    return xxhash.xxh3_128(repr(sorted(pieces)).encode()).hexdigest()


def _members(value: Any) -> Iterator[Any]:
    """A value itself, or what a table, list or set holds, in an order of its own."""
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)
    if not isinstance(value, (tuple, list)):
        yield value
        return
    for place, item in enumerate(value):
        yield place
        yield from _members(item)


def _captured(thing: Any) -> Iterator[tuple[str, str]]:
    """Arrays, modules and settings that a nested function has from around it."""
    for function in _functions(thing):
        for label, value in _nonlocals(function):
            if isinstance(value, (np.ndarray, torch.Tensor, torch.nn.Module, list, dict)):
                with contextlib.suppress(TypeError):  # what cannot be told does not count
                    yield label, fingerprint(value)


def _qualified(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _is_local(thing: Any) -> bool:
    """Whether this is a function or class of generality or of code that is not installed."""
    if not (inspect.isfunction(thing) or inspect.isclass(thing) or inspect.ismethod(thing)):
        return False
    return _is_local_module(str(thing.__module__))


def _is_local_module(name: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    if name.split(".")[0] == "generality" or name == "__main__":
        return True
    return not _is_installed(file)


def _is_installed(file: str | None) -> bool:
    if file is None or file.startswith(_STANDARD_LIBRARY):
        return True
    return bool({"site-packages", "dist-packages"} & set(Path(file).parts))


def _source(thing: Any) -> str:
    if thing.__name__ == "<lambda>":  # its lines may hold another lambda too
        return "".join(_bytecode(code) for code in _codes(thing))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except (OSError, TypeError, SyntaxError):  # typed into a prompt
        return "".join(_bytecode(code) for code in _codes(thing))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _bytecode(code: CodeType) -> str:
    plain = [
        sorted(value, key=repr) if isinstance(value, frozenset) else value
        for value in code.co_consts
        if not isinstance(value, CodeType)
    ]
    return f"{code.co_code.hex()}{code.co_names}{plain}"


def _functions(thing: Any) -> list[FunctionType]:
    if inspect.ismethod(thing):
        return [cast(FunctionType, thing.__func__)]
    if inspect.isfunction(thing):
        return [thing]
    members = (getattr(value, "fget", None) or getattr(value, "__func__", value)
               for value in vars(thing).values())  # fmt: skip
    unwrapped = [inspect.unwrap(member) for member in members if inspect.isfunction(member)]
    return [function for function in unwrapped if inspect.isfunction(function)]


def _codes(thing: Any) -> Iterator[CodeType]:
    waiting = [function.__code__ for function in _functions(thing)]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [value for value in code.co_consts if isinstance(value, CodeType)]


def _references(thing: Any) -> Iterator[tuple[str, Any]]:
    """Globals that a function or class names, those reached through a module included."""
    if inspect.isclass(thing):
        yield from ((base.__qualname__, base) for base in thing.__bases__)
    for function in _functions(thing):
        names = {name for code in _codes(function) for name in code.co_names}
        yield from _nonlocals(function)
        imported = {name for code in _codes(function) for name in _imports(code)}
        for name in names:
            value = _module(name) if name in imported else function.__globals__.get(name)
            if isinstance(value, ModuleType):
                if not _is_local_module(value.__name__):
                    continue  # what others keep in their modules is not our code
                has = {*vars(value), *dir(value)}  # names that are loaded when first used included
                found = [n for n in names if n in has and not n.startswith("__")]
                yield from ((f"{name}.{n}", getattr(value, n)) for n in found)
            elif value is not None:
                yield name, value


def _imports(code: CodeType) -> Iterator[str]:
    """Modules that a function imports when it runs."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            yield str(instruction.argval)


def _module(name: str) -> ModuleType | None:
    """A local module by name, imported now if need be: a key must not depend on what ran before."""
    if name in sys.modules:
        return sys.modules[name]
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or (name.split(".")[0] != "generality" and _is_installed(spec.origin)):
        return None
    return importlib.import_module(name)


def _nonlocals(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
