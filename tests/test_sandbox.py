"""Programs that fail in every way: each is told as what it is, and nothing gets out."""

import os
import time
from pathlib import Path

import pytest

from generality.lab import sandbox
from generality.lab.sandbox import MEBIBYTE, run, run_many


@pytest.fixture(params=[("namespaces", "landlock"), ()], ids=["walls", "hook alone"])
def walls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Also on a kernel that offers nothing."""
    monkeypatch.setattr(sandbox, "_WALLS", request.param)
    return tuple(request.param)


def test_a_program_runs_with_its_files_and_its_input() -> None:
    code = "import os\nprint(open('data/x.txt').read(), input(), sorted(os.listdir()))"
    result = run(code, files={"data/x.txt": "seven"}, stdin="eight\n")
    assert (result.ok, result.kind, result.error) == (True, "", "")
    assert result.stdout == "seven eight ['data']\n"


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("x = 1\n\nraise KeyError('no')", "exception", "KeyError: 'no' (line 3)"),
        ("def f():\n    return 1 / 0\nf()", "exception", "by zero (line 2)"),
        ("x = = 1", "exception", "SyntaxError"),
        ("f = lambda: f()\nf()", "exception", "RecursionError"),
        ("import sys\nsys.exit(0)", "exit", "SystemExit: 0"),
        ("import os\nos._exit(0)", "crash", "without a report"),
        ("import os\nos.abort()", "crash", "killed by SIG"),
        ("x = 'a' * (1 << 30)", "memory", "MemoryError"),
        ("x = []\nwhile True: x.append('a' * 1000000)", "memory", "MemoryError"),
        ("while True: print('x' * 10000)", "output", "File too large"),
        ("open('big', 'w').write('x' * 3000000)", "output", "File too large"),
        ("\ud800", "exception", "UnicodeEncodeError"),
    ],
)  # fmt: skip
def test_every_end_has_its_name(code: str, kind: str, words: str) -> None:
    result = run(code)
    assert (result.ok, result.kind) == (False, kind), result
    assert words in result.error


def test_what_was_printed_before_the_end_is_kept() -> None:
    result = run("print('before')\n1 / 0")
    assert (result.stdout, result.kind) == ("before\n", "exception")
    result = run("print('x' * 4000)", output=1000)
    assert (len(result.stdout), result.kind) == (1000, "output")


@pytest.mark.parametrize(
    "code",
    [
        "import socket\nsocket.create_connection(('127.0.0.1', 9))",
        "import socket\nsocket.socket().bind(('127.0.0.1', 0))",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
        "import os\nos.fork()",
        "import os\nos.kill(os.getppid(), 9)",
        "import os\nos.kill(-1, 9)",
        "import ctypes\nctypes.CDLL(None)",
    ],
)
def test_what_a_program_may_not_do(code: str, walls: tuple[str, ...]) -> None:
    result = run(code)
    assert result.kind == "exception"
    assert result.error.startswith("PermissionError"), result


def test_nothing_outside_its_folder_can_be_changed(tmp_path: Path, walls: tuple[str, ...]) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    attempts = [
        f"open({str(kept)!r}, 'w')",
        f"open({str(kept)!r}, 'a')",
        f"import os\nos.remove({str(kept)!r})",
        f"import os\nos.rename({str(kept)!r}, 'x')",
        f"import shutil\nshutil.rmtree({str(tmp_path)!r})",
        f"import os\nos.chdir({str(tmp_path)!r})\nopen('kept.txt', 'w')",
        f"import os\nos.open({str(tmp_path / 'new')!r}, os.O_CREAT | os.O_WRONLY)",
        f"import os\nos.symlink({str(tmp_path)!r}, 'out')\nopen('out/new', 'w')",
        "open('../0.report', 'w').write('[\"\", \"\"]')",
    ]
    assert all(not result.ok for result in run_many(attempts))
    assert kept.read_text() == "mine"
    assert os.listdir(tmp_path) == ["kept.txt"]


def test_time_is_up_for_the_whole_group_and_for_it_alone() -> None:
    started = time.monotonic()
    codes = ["while True: pass", "import time\ntime.sleep(60)", "print('after')"]
    results = run_many(codes, seconds=1)
    assert [result.kind for result in results] == ["timeout", "timeout", ""]
    assert results[0].error == "not over after 1 seconds"
    assert results[2].stdout == "after\n"
    assert time.monotonic() - started < 30


def test_the_environment_is_clean_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "s3cret")
    code = "import os\nprint(sorted(os.environ), os.getcwd() == os.environ['HOME'])"
    result = run(code)
    assert "SECRET" not in result.stdout
    assert result.stdout.endswith("True\n")
    shuffled = run_many(["print(list({str(i) for i in range(50)}))"] * 2)
    assert shuffled[0].stdout == shuffled[1].stdout
    assert run("import numpy").error.startswith("ModuleNotFoundError")
    assert run("import numpy", packages=True, memory=4096 * MEBIBYTE, seconds=30).ok


def test_programs_of_a_batch_know_nothing_of_each_other() -> None:
    leave = "open('left.txt', 'w').write('x')\nimport builtins\nbuiltins.left = 1"
    look = "import os\nprint(os.listdir(), hasattr(__builtins__, 'left'))"
    assert run_many([leave, look])[1].stdout == "[] False\n"
    assert run_many([]) == []


def test_mistakes_of_the_caller() -> None:
    for name in ("/etc/x", "../x", "a/../../x", ""):
        with pytest.raises(ValueError, match="lies in its folder"):
            run("", files={name: "x"})
    with pytest.raises(ValueError, match="are positive"):
        run("", seconds=0)
