"""Running programs that a model wrote."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from generality.errors import UserError

MEBIBYTE = 2**20
Kind = Literal["", "exception", "exit", "timeout", "memory", "output", "crash"]

_WORKER = Path(__file__).with_name("sandbox_worker.py")
_WALLS = ("namespaces", "landlock")  # what to ask the kernel for; tests do without
_SLACK = 30.0  # seconds that a worker may take beside its programs
_KINDS = ("", "exception", "exit", "memory", "output", "crash")


@dataclass(frozen=True)
class SandboxResult:
    """How a program ended.

    Attributes:
        ok: it ran to its last statement.
        stdout: what it printed (errors included), as far as the limit on output goes.
        error: "" or the last words: "ZeroDivisionError: division by zero (line 3)".
        kind: "" or what kind of end: "exception" (also what the sandbox refused, as a
            PermissionError), "exit" (it called `sys.exit`, whatever the code: tests after that
            never ran), "timeout", "memory", "output" (printed or wrote too much), "crash" (killed
            by a signal, or gone without a word).
        seconds: wall time.
        isolated: whether it ran in namespaces of its own; see `run`.
    """

    ok: bool
    stdout: str
    error: str
    kind: Kind
    seconds: float
    isolated: bool


def run(
    code: str,
    *,
    seconds: float = 5.0,
    memory: int = 256 * MEBIBYTE,
    output: int = MEBIBYTE,
    files: Mapping[str, str] | None = None,
    stdin: str = "",
    packages: bool = False,
) -> SandboxResult:
    """Run one Python program in a process of its own, and say how it ended.

    The program has a clean environment, a temporary folder as its working directory and home, the
    standard library, one fixed hash seed, and no more than the given time, memory and output. It
    may not start processes, send signals to others, use sockets, or write outside its folder. When
    its time is up its whole process group is killed.

    How far that goes depends on the kernel. On Linux that lets users make namespaces (`isolated` is
    then True) there is no network device and no other process to be seen, and all that was started
    dies with the program. Landlock (Linux 5.13 and later) lets it read Python and its libraries
    only and change its own folder only. Elsewhere, in many containers and on macOS, what is left is
    an audit hook inside Python and the resource limits: enough for mistakes and for the programs
    that models write, no wall against someone who means harm, who could also forge the report of
    how his own program ended. The limit on processes does not bind root. Not for Windows.

    Args:
        code: the program, run as `__main__`.
        seconds: of wall time, and (rounded up, plus one) of processor time.
        memory: bytes of address space; Python itself takes about 30 MiB of it.
        output: bytes that it may print, and the size of any one file that it may write.
        files: relative path in the folder → content.
        stdin: what it can read.
        packages: let it import the packages installed beside generality.

    Raises:
        UserError: on a system without resource limits (Windows).
        ValueError: a file outside the folder, or a limit that is not positive.

    >>> run("print(6 * 7)").stdout
    '42\\n'
    >>> run("n = 0\\nprint(1 // n)").error
    'ZeroDivisionError: integer division or modulo by zero (line 2)'
    >>> run("while True: pass", seconds=0.2).kind
    'timeout'
    """
    return run_many(
        [code], seconds=seconds, memory=memory, output=output, files=files, stdin=stdin,
        packages=packages,
    )[0]  # fmt: skip


def run_many(
    codes: Sequence[str],
    *,
    seconds: float = 5.0,
    memory: int = 256 * MEBIBYTE,
    output: int = MEBIBYTE,
    files: Mapping[str, str] | None = None,
    stdin: str = "",
    packages: bool = False,
) -> list[SandboxResult]:
    """As `run`, for many programs in one worker: several times faster than one at a time.

    The programs run one after another, each in a fresh folder and a fork of its own; limits,
    files and stdin are for each. A program that brings down the worker itself is reported as a
    crash, and the ones after it run in a new worker.

    >>> [result.stdout for result in run_many(["print(1)", "1 / 0", "print(3)"])]
    ['1\\n', '', '3\\n']
    """
    if os.name != "posix":
        raise UserError("Running generated programs needs Linux or macOS; use WSL on Windows.")
    if min(seconds, memory, output) <= 0:
        raise ValueError("seconds, memory and output are positive")
    files = files or {}
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not name:
            raise ValueError(f"a file of a program lies in its folder, and '{name}' does not")
    results: list[SandboxResult] = []
    while len(results) < len(codes):
        rest = codes[len(results) :]
        results += _work(rest, seconds, memory, output, files, stdin, packages)
    return results


def _work(
    codes: Sequence[str], seconds: float, memory: int, output: int, files: Mapping[str, str],
    stdin: str, packages: bool,
) -> list[SandboxResult]:  # fmt: skip
    """Results of as many programs as one worker finished, at least one."""
    with tempfile.TemporaryDirectory(prefix="generality-sandbox-") as name:
        root = Path(name)
        asked = {
            "jobs": len(codes), "seconds": seconds, "memory": memory, "output": output,
            "path": site.getsitepackages() if packages else [], "walls": _WALLS,
        }  # fmt: skip
        (root / "jobs.json").write_text(json.dumps(asked))
        for number, code in enumerate(codes):
            (root / f"{number}.code").write_text(code, errors="surrogatepass")
            (root / f"{number}.in").write_text(stdin, errors="surrogatepass")
            (root / str(number)).mkdir()
            for path, content in files.items():
                place = root / str(number) / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(content, errors="surrogatepass")
        lines = _worker(root, len(codes) * (seconds + 1) + _SLACK)
        ended = [_result(root, number, seconds, *line) for number, line in enumerate(lines)]
        if not ended:
            ended = [SandboxResult(False, "", "the worker died", "crash", 0.0, False)]
        return ended


def _worker(root: Path, seconds: float) -> list[tuple[int | None, float, bool]]:
    """What the worker said of each program before it ended: exit code, seconds, isolated."""
    # -I would also ignore PYTHONHASHSEED: -s -P with this environment is the rest of it.
    worker = subprocess.Popen(
        [sys.executable, "-S", "-s", "-P", "-B", str(_WORKER), str(root)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        cwd=root, start_new_session=True,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
    )  # fmt: skip
    try:
        said, _ = worker.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(worker.pid, signal.SIGKILL)
        said, _ = worker.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
    return [tuple(json.loads(line)) for line in said.splitlines() if line.endswith("]")]


def _result(
    root: Path, number: int, limit: float, code: int | None, seconds: float, isolated: bool
) -> SandboxResult:
    def read(name: str) -> str:
        path = root / f"{number}.{name}"
        return path.read_bytes().decode(errors="replace") if path.exists() else ""

    kind: Kind = "crash"
    error = f"ended without a report (exit code {code})"
    try:
        said = json.loads(read("report"))
        if said[0] in _KINDS and isinstance(said[1], str):
            kind, error = said
    except (ValueError, IndexError, TypeError):
        sent = -code if code and code < 0 else (code or 0) - 128
        if sent in set(signal.Signals):
            error = f"killed by {signal.Signals(sent).name}"
            kind = "timeout" if sent == signal.SIGXCPU else "crash"
    if code is None:
        kind, error = "timeout", f"not over after {limit:g} seconds"
    return SandboxResult(kind == "", read("out"), error, kind, seconds, isolated)
