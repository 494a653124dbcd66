"""Corpora of LLVM IR: functions with where they come from, what makes them copies, both levels."""

from __future__ import annotations

import gzip
import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from generality.benchmarks.ir_compilers import IRModule, NotCompiled, compile_package
from generality.benchmarks.licences import PERMISSIVE, licence_of, license_filter
from generality.benchmarks.llvm_ir import ir_functions, module_hash, normalize_ir, structural_hash
from generality.errors import UserError

_SAMPLE = Path(__file__).with_name("ir_sample.json.gz")
_LONGEST = 30_000  # characters of a function's normalised text


@dataclass(frozen=True)
class IRRecord:
    """One function.

    Attributes:
        language: "c", "c++" or "rust".
        package: whose it is.
        path: of its source file in the package.
        name: its symbol.
        ir: its text before optimisation, normalised.
        optimised: its text after, normalised; "" where nothing was left of it.
        key: structural hash of `ir`.
        optimised_key: of `optimised`; "" where that is.
    """

    language: str
    package: str
    path: str
    name: str
    ir: str
    optimised: str
    key: str
    optimised_key: str


def ir_records(modules: Iterable[IRModule]) -> list[IRRecord]:
    """Every function of these modules, but for giants (30,000 characters and more)."""
    records = []
    for module in modules:
        after = {f.name: f.text for f in ir_functions(module.optimised)}
        for function in ir_functions(module.ir):
            text = normalize_ir(function.text)
            late = after.get(function.name, "")
            if len(text) < _LONGEST:
                records.append(
                    IRRecord(
                        module.language, module.package, module.path, function.name, text,
                        normalize_ir(late) if late else "", structural_hash(function.text),
                        structural_hash(late) if late else "",
                    )
                )  # fmt: skip
    return records


def compiled_folders(folders: Sequence[str | Path], **options: Any) -> tuple[
    list[IRModule], list[NotCompiled]
]:  # fmt: skip
    """`compile_package` of each folder: what compiled, and what did not."""
    every = [result for folder in folders for result in compile_package(folder, **options)]
    return (
        [result for result in every if isinstance(result, IRModule)],
        [result for result in every if isinstance(result, NotCompiled)],
    )


@dataclass(frozen=True)
class LicenceReport:
    """What the licence of a package allows.

    Attributes:
        expression: declared in Cargo.toml or by the caller, else the licences of its files.
        detected: in its licence files, by their wording.
        files: those files.
        accepted: see `license_filter`.
    """

    expression: str
    detected: tuple[str, ...]
    files: tuple[str, ...]
    accepted: bool


def package_licence(
    folder: str | Path, *, expression: str = "", allowed: Iterable[str] = PERMISSIVE,
    strict: bool = True,
) -> LicenceReport:  # fmt: skip
    """The declared licence of a package and the licence files at its top, and whether they do.

    Where nothing is declared, in Cargo.toml or by the caller, the licences of its files stand as
    alternatives: check packages that carry other people's code.
    """
    root = Path(folder)
    files = sorted(
        path
        for path in root.glob("*")
        if path.is_file() and path.name.upper().startswith(("LICEN", "COPYING"))
    )
    detected = tuple(
        sorted({licence_of(path.read_text(errors="replace")) for path in files} - {""})
    )
    cargo = root / "Cargo.toml"
    if not expression and cargo.exists():
        try:
            said = tomllib.loads(cargo.read_text(errors="replace")).get("package", {})
        except tomllib.TOMLDecodeError:
            said = {}
        expression = said["license"] if isinstance(said.get("license"), str) else ""
    if not expression:
        expression = " OR ".join(detected)
    return LicenceReport(
        expression, detected, tuple(path.name for path in files),
        license_filter(expression, detected, allowed=list(allowed), strict=strict),
    )  # fmt: skip


def unique_modules(modules: Iterable[IRModule]) -> list[IRModule]:
    """The first module of each structural hash; those that define nothing are left out."""
    kept: dict[str, IRModule] = {}
    for module in modules:
        if key := module_hash(module.ir):
            kept.setdefault(key, module)
    return list(kept.values())


def write_corpus(
    modules: Sequence[IRModule], path: str | Path, licences: dict[str, LicenceReport]
) -> None:
    """One row a module, in the columns of the released data set, as Parquet.

    `content` is textual IR where theirs is bitcode, which only LLVM of the same age reads.

    Raises:
        UserError: there is nothing to write, or the file does not end in .parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from generality.lab.runs import write_atomically

    if not modules:
        raise UserError("Nothing is left to write: no source compiled, or no licence is allowed.")
    if Path(path).suffix != ".parquet":
        raise UserError(f"A corpus is written as .parquet, not as '{Path(path).name}'.")
    rows = [
        {
            "content": module.ir,
            "license_expression": licences[module.package].expression,
            "license_source": "declared",
            "license_files": list(licences[module.package].files),
            "package_source": module.package,
            "language": module.language,
            "path": module.path,
            "compiler": module.compiler,
        }
        for module in modules
    ]
    write_atomically(Path(path), lambda fresh: pq.write_table(pa.Table.from_pylist(rows), fresh))


def failures_by_reason(failures: Iterable[NotCompiled]) -> Counter[str]:
    """How often each reason was given, in the compiler's words."""
    return Counter(failure.why for failure in failures)


def sample_corpus() -> dict[str, list[dict[str, Any]]]:
    """A small corpus that comes with generality, for trying things where no compiler is.

    `code`: functions of lz4 (C), clipper (C++) and crates of orjson (Rust) as `IRRecord` fields.
    `programs`: generated functions (`worlds.algorithm_programs`, seed 0) in three languages. Made
    by `benchmarks/ir_sample.py` with clang 22 (zig 0.17.1) and rustc 1.95.
    """
    with gzip.open(_SAMPLE, "rt", encoding="utf-8") as file:
        sample: dict[str, list[dict[str, Any]]] = json.load(file)
    return sample


def plain(records: Iterable[IRRecord]) -> list[dict[str, str]]:
    """Records as dictionaries, which a kept step can hold."""
    return [asdict(record) for record in records]
