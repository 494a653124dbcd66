"""The other side of `generality.lab.sandbox`: a process that runs programs one after another.

It is started as a script of its own, without site-packages, imports the standard library only and
forks once per program, so that a program costs a fork and not the start of an interpreter. Its
first argument is a folder with `jobs.json`; for job i it leaves `i.out` (what was printed) and
`i.report` (how it ended) there, and prints one line when the job is over.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

_NEW_USER, _NEW_NET, _NEW_PID, _NEW_IPC = 0x10000000, 0x40000000, 0x20000000, 0x08000000
_PDEATHSIG, _NO_NEW_PRIVS = 1, 38  # of prctl
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # of Landlock, on every architecture
_RIGHTS = (13, 14, 15, 15, 16)  # how many rights on files each version of Landlock knows
_READ, _WRITE, _ON_FILES = 0b1101, 1 << 14 | 0b10, 1 << 14 | 0b111  # run, write, read, list
_READABLE = (
    sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), "/usr/lib", "/usr/lib64", "/lib",
    "/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime",
    "/dev/urandom",
)  # fmt: skip
_REFUSED = (
    "socket.", "os.kill", "os.fork", "os.posix_spawn", "os.spawn", "os.exec", "os.system",
    "subprocess.", "pty.", "ctypes.", "signal.pthread_kill",
)  # fmt: skip
_CHANGE_PATHS = {  # audit events that change files, with the number of paths they begin with
    "os.chmod": 1, "os.chown": 1, "os.link": 2, "os.mkdir": 1, "os.remove": 1, "os.rename": 2,
    "os.rmdir": 1, "os.symlink": 2, "os.truncate": 1, "os.utime": 1, "shutil.rmtree": 1,
}  # fmt: skip
_OPEN_TO_CHANGE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main(root: Path) -> None:
    """Run every job of `root`, each for at most its seconds."""
    asked = json.loads((root / "jobs.json").read_text())
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    alone = False
    if libc is not None and "namespaces" in asked["walls"]:
        alone = libc.unshare(_NEW_USER | _NEW_NET | _NEW_IPC) == 0
    if libc is not None:
        libc.prctl(_PDEATHSIG, signal.SIGKILL)
    for number in range(asked["jobs"]):
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _enter(libc, root, number, asked, alone)
        code = _wait(child, asked["seconds"])
        print(json.dumps([code, round(time.monotonic() - started, 4), alone]), flush=True)


def _wait(child: int, seconds: float) -> int | None:
    """The exit code of a child (−n: killed by signal n); None when its time was up."""
    deadline, pause = time.monotonic() + seconds, 0.0005
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    with contextlib.suppress(ProcessLookupError):  # it may not lead its group yet
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _enter(
    libc: ctypes.CDLL | None, root: Path, number: int, asked: dict[str, Any], alone: bool
) -> NoReturn:
    """In the child: a process namespace where there can be one, then the program."""
    os.setsid()
    if libc is not None:
        libc.prctl(_PDEATHSIG, signal.SIGKILL)
    if libc is not None and alone and libc.unshare(_NEW_PID) == 0:
        inner = os.fork()  # the first process of a namespace takes all others with it
        if inner:
            code = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
            os._exit(128 - code if code < 0 else code)
        libc.prctl(_PDEATHSIG, signal.SIGKILL)
    report = os.open(root / f"{number}.report", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        ended = _run(libc, root, number, asked)
    except BaseException:  # noqa: BLE001 - whatever went wrong before the program began
        ended = ["crash", traceback.format_exc(limit=-1)]
    os.write(report, json.dumps(ended).encode())
    os._exit(0)


def _run(libc: ctypes.CDLL | None, root: Path, number: int, asked: dict[str, Any]) -> list[str]:
    """Shut the doors, then run the program: how it ended, and its last words."""
    code = (root / f"{number}.code").read_text(errors="surrogatepass")
    folder = os.path.realpath(root / str(number))
    os.chdir(folder)
    os.environ |= {"HOME": folder, "TMPDIR": folder}
    for stream, name, flags in ((0, "in", os.O_RDONLY), (1, "out", os.O_WRONLY | os.O_CREAT)):
        os.dup2(os.open(root / f"{number}.{name}", flags, 0o600), stream)
    os.dup2(1, 2)
    sys.path[:] = [folder, *sys.path, *asked["path"]]
    if libc is not None and "landlock" in asked["walls"]:
        _restrict_files(libc, folder, asked["path"])
    _limit(asked)
    sys.addaudithook(_guard(folder))
    return _execute(code)


def _execute(code: str) -> list[str]:
    scope = {"__name__": "__main__", "__builtins__": __builtins__}
    ended = ["", ""]
    try:
        exec(compile(code, "<program>", "exec"), scope)
        sys.stdout.flush()
    except SystemExit as leaving:
        ended = ["exit", f"SystemExit: {leaving.code}"]
    except MemoryError:
        scope.clear()
        ended = ["memory", "MemoryError"]
    except BaseException as error:  # noqa: BLE001 - a program may raise anything
        last = traceback.format_exception_only(error)[-1].strip()[:2000]
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == "<program>"]
        too_much = isinstance(error, OSError) and error.errno == errno.EFBIG
        where = f" (line {lines[-1]})" if lines else ""
        ended = ["output" if too_much else "exception", last + where]
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    return ended


def _limit(asked: dict[str, Any]) -> None:
    """Limits of the kernel; one that this system does not know is left out."""
    seconds = int(asked["seconds"]) + 1
    for name, most in (
        ("CPU", seconds), ("AS", asked["memory"]), ("FSIZE", asked["output"]), ("CORE", 0),
        ("NOFILE", 64), ("NPROC", 64),
    ):  # fmt: skip
        with contextlib.suppress(ValueError, OSError, AttributeError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))


def _guard(folder: str) -> Any:
    """Refuse sockets, other processes and changes outside the folder, wherever Python asks."""

    def inside(path: Any) -> bool:
        if isinstance(path, int):
            return True
        real = os.path.realpath(os.fsdecode(path))
        return real == folder or real.startswith(folder + os.sep) or real == os.devnull

    def guard(event: str, args: tuple[Any, ...]) -> None:
        changes = args[: _CHANGE_PATHS.get(event, 0)]
        if event == "open" and isinstance(args[2], int) and args[2] & _OPEN_TO_CHANGE:
            changes = args[:1]
        if event.startswith(_REFUSED) or not all(inside(path) for path in changes):
            raise PermissionError(f"the sandbox does not allow {event}")

    return guard


def _restrict_files(libc: ctypes.CDLL, folder: str, path: list[str]) -> None:
    """With Landlock: reading is for Python and its libraries, everything else for the folder.

    Source: the kernel's Documentation/userspace-api/landlock.rst. Older kernels leave it out.
    """

    def call(number: int, *args: Any) -> int:
        return int(libc.syscall(ctypes.c_long(number), *args))

    version = call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return
    every = (1 << _RIGHTS[min(version, len(_RIGHTS)) - 1]) - 1
    attributes = struct.pack("Q", every)
    rules = call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    allowed = [(name, _READ) for name in (*_READABLE, *path)]
    for name, rights in (*allowed, (os.devnull, _READ | _WRITE), (folder, every)):
        with contextlib.suppress(OSError):
            place = os.open(name, os.O_PATH | os.O_CLOEXEC)
            rights &= every if os.path.isdir(name) else every & _ON_FILES
            call(_ADD_RULE, rules, 1, struct.pack("=Qi", rights, place), ctypes.c_uint32(0))
            os.close(place)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    call(_RESTRICT_SELF, rules, ctypes.c_uint32(0))
    os.close(rules)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
