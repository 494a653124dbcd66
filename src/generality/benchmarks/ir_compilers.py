"""C, C++ and Rust sources to LLVM IR, before optimisation and after, within limits."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from generality.errors import UserError

LANGUAGES = {".c": "c", ".cc": "c++", ".cpp": "c++", ".cxx": "c++", ".rs": "rust"}
GIBIBYTE = 2**30

_C = ("-x", "c", "-std=gnu17")
_CXX = ("-x", "c++", "-std=c++17")
_EMIT = ("-S", "-emit-llvm", "-O3", "-g0", "-w", "-fno-stack-protector")
_UNOPTIMISED = ("-Xclang", "-disable-llvm-passes")
_ZIG = ("-target", "x86_64-linux-gnu", "-mcpu=x86_64", "-fno-sanitize=undefined")
_RUST = (
    "--crate-type=lib", "--emit=llvm-ir", "-Copt-level=3", "-Cdebuginfo=0", "-Ccodegen-units=1",
    "-Clink-dead-code=yes", "--cap-lints=allow",
)  # fmt: skip
_NOT_SOURCES = {"test", "tests", "testing", "bench", "benches", "examples", "fuzz", "contrib"}


@dataclass(frozen=True)
class Compiler:
    """One that emits LLVM IR.

    Attributes:
        command: how it is started.
        version: its first line about itself.
    """

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class IRModule:
    """One translation unit, compiled.

    Attributes:
        package: whose it is.
        path: of the source in the package.
        language: "c", "c++" or "rust".
        source: the source file's text.
        ir: textual IR as the front end of a release build emits it, before any LLVM pass.
        optimised: the same after the compiler's -O3.
        compiler: its version.
    """

    package: str
    path: str
    language: str
    source: str
    ir: str
    optimised: str
    compiler: str


@dataclass(frozen=True)
class NotCompiled:
    """A source that did not compile, and the first words of why."""

    package: str
    path: str
    language: str
    why: str


@cache
def find_compilers() -> dict[str, Compiler]:
    """The compilers found here: clang, or that in the package `ziglang`, and rustc.

    ziglang comes first, since its version and target are the same on every machine.
    """
    found: dict[str, Compiler] = {}
    spec = importlib.util.find_spec("ziglang")
    if spec is not None and spec.submodule_search_locations:
        zig = Path(spec.submodule_search_locations[0]) / "zig"
        if version := _says(str(zig), "version"):
            for language, word, flags in (("c", "cc", _C), ("c++", "c++", _CXX)):
                found[language] = Compiler((str(zig), word, *_ZIG, *flags), f"zig {version}")
    elif clang := shutil.which("clang"):
        version = _says(clang, "--version")
        for language, flags in (("c", _C), ("c++", _CXX)):
            found[language] = Compiler((clang, *flags), version)
    if rustc := shutil.which("rustc"):  # the one behind rustup's, which would need its home
        real = Path(_says(rustc, "--print", "sysroot")) / "bin" / "rustc"
        rustc = str(real) if real.exists() else rustc
        found["rust"] = Compiler((rustc,), _says(rustc, "--version"))
    return found


def _says(*command: str) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (answer.stdout.splitlines() or [""])[0]


def need_compilers(languages: Sequence[str]) -> dict[str, Compiler]:
    """`find_compilers` for these languages.

    Raises:
        UserError: one is not here; the sentence says what to install.
    """
    found = find_compilers()
    for language in languages:
        if language not in found:
            what = "rustc" if language == "rust" else "clang, or `pip install 'generality[ir]'`"
            raise UserError(f"There is no compiler for {language} here: install {what}.")
    return {language: found[language] for language in languages}


def compile_package(
    folder: str | Path,
    *,
    package: str = "",
    languages: Sequence[str] | None = None,
    seconds: float = 60.0,
    memory: int = 8 * GIBIBYTE,
) -> Iterator[IRModule | NotCompiled]:
    """Compile every source below a folder by itself, and say how each came out.

    C and C++ files see every folder of the package that holds a header. Rust files are crates: the
    `src/lib.rs` beside a `Cargo.toml`, whose edition and default features are taken, or a file
    without one above it; crates that need another crate do not compile. Folders of tests, examples
    and benchmarks are passed over. No build script and no macro crate of the package is run: a
    compiler reads and writes, in a process of its own with a clean environment and limits.

    Args:
        folder: the package's sources.
        package: its name; by default the folder's.
        languages: of "c", "c++" and "rust"; None: those for which a compiler is here.
        seconds: of processor time for each file and level.
        memory: bytes of address space of a compiler.

    Raises:
        UserError: no such folder, or no compiler for a language.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"There is no folder '{folder}' with sources.")
    compilers = need_compilers([*find_compilers()] if languages is None else languages)
    if not compilers:
        raise UserError("There is no compiler here: install clang, or `generality[ir]`, or rustc.")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    headers = {path.parent for path in files if path.suffix in (".h", ".hpp", ".hh")}
    includes = [f"-I{place.resolve()}" for place in (root, *sorted(headers - {root}))]
    for path in files:
        language = LANGUAGES.get(path.suffix, "")
        inside = path.relative_to(root)
        if language not in compilers or _NOT_SOURCES & {part.lower() for part in inside.parts[:-1]}:
            continue
        options: Sequence[str] = includes
        if language == "rust":
            crate = _crate(path, root)
            if crate is None:
                continue
            options = crate
        name = package or root.resolve().name
        texts = []
        why = ""
        for level in (False, True):
            text, why = emit_ir(
                compilers[language], language, path, options=options, optimised=level,
                seconds=seconds, memory=memory,
            )  # fmt: skip
            if why:
                break
            texts.append(text)
        if why:
            yield NotCompiled(name, str(inside), language, why)
            continue
        source = path.read_text(errors="replace")
        version = compilers[language].version
        yield IRModule(name, str(inside), language, source, texts[0], texts[1], version)


def emit_ir(
    compiler: Compiler,
    language: str,
    path: Path,
    *,
    options: Sequence[str] = (),
    optimised: bool = False,
    seconds: float = 60.0,
    memory: int = 8 * GIBIBYTE,
) -> tuple[str, str]:
    """The IR of one source, or "" and the first words of why there is none."""
    with tempfile.TemporaryDirectory(prefix="generality-ir-") as name:
        out = Path(name) / "out.ll"
        if language == "rust":
            level = [] if optimised else ["-Cno-prepopulate-passes"]
            command = [*compiler.command, *_RUST, *level, *options, str(path.resolve()), "-o"]
        else:
            level = [] if optimised else list(_UNOPTIMISED)
            command = [*compiler.command, *_EMIT, *level, *options, str(path.resolve()), "-o"]
        code, said = run_limited([*command, str(out)], Path(name), seconds=seconds, memory=memory)
        if code == 0 and out.exists():
            return out.read_text(errors="replace"), ""
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        known = number in set(signal.Signals)
        return "", f"killed by {signal.Signals(number).name if known else number}"
    problem = re.search(r"(?:fatal )?error(?:\[\w+\])?: .*", said)
    return "", (problem[0] if problem else f"exit code {code}: {said.strip()[:80]}")[:160]


def run_limited(
    command: Sequence[str], folder: Path, *, seconds: float, memory: int
) -> tuple[int, str]:
    """Run a program that reads what strangers wrote: its exit code and what it said.

    It has a clean environment, `folder` as home and working directory, `seconds` of processor time
    and thrice that of wall time, `memory` bytes of address space, and may not write a file of more
    than 256 MiB. When its time is up its whole process group is killed.
    """
    limits = {"t": max(1, round(seconds)), "v": memory >> 10, "f": 2**28 >> 9}
    # one limit a call: not every sh takes several
    shell = "; ".join(f"ulimit -{name} {value}" for name, value in limits.items())
    clean: Mapping[str, str] = {
        "PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8",
        "ZIG_GLOBAL_CACHE_DIR": str(folder), "ZIG_LOCAL_CACHE_DIR": str(folder),
    }  # fmt: skip
    process = subprocess.Popen(
        ["/bin/sh", "-c", f'{shell}; exec "$@"', "sh", *command], cwd=folder, env=dict(clean),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=3 * seconds)
    except subprocess.TimeoutExpired:
        _kill(process)
        process.communicate()
        return -signal.SIGKILL, "not over in time"
    finally:
        _kill(process)
    return process.returncode, said


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _crate(path: Path, root: Path) -> list[str] | None:
    """How to compile this file as a crate; None where it is a part of another."""
    above = [folder for folder in path.parents if folder.is_relative_to(root)]
    manifest = next((f / "Cargo.toml" for f in above if (f / "Cargo.toml").exists()), None)
    if manifest is None:
        return ["--edition=2021", "--crate-name=alone"]
    if path != manifest.parent / "src" / "lib.rs":
        return None
    try:
        said: dict[str, Any] = tomllib.loads(manifest.read_text(errors="replace"))
    except tomllib.TOMLDecodeError:
        said = {}
    about = said.get("package", {})
    edition, name = about.get("edition", "2015"), str(about.get("name", "alone"))
    options = [f"--edition={edition}", f"--crate-name={re.sub(r'[^A-Za-z0-9_]', '_', name)}"]
    features, wanted = said.get("features", {}), ["default"]
    for feature in wanted:  # it grows as features name others
        wanted += [other for other in features.get(feature, []) if other not in wanted]
    for feature in wanted:
        if re.fullmatch(r"[\w-]+", feature):
            options += ["--cfg", f'feature="{feature}"']
    return options


if sys.platform == "win32":  # pragma: no cover

    def find_compilers() -> dict[str, Compiler]:
        """None: the limits are those of POSIX systems."""
        return {}
