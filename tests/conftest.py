import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent

# how long an example takes says how busy the machine is
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests run side by side on few cores, and the same sums come out on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Folder of the pinned artifacts that smoke runs need; fetched if this machine lacks them."""
    from generality.home import artifacts_home
    from generality.models import ARTIFACTS, fetch

    fonts = [name for name in ARTIFACTS if name.startswith("font-")]
    images = ("mnist-5k", "photographs", "matplotlib-fonts", *fonts)
    for name in ("minilm-l6", "vader-sentiment", "drug-reviews", "sms-spam", *images):
        fetch(name)
    return artifacts_home()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GENERALITY_HOME in which nothing is kept yet."""
    monkeypatch.setenv("GENERALITY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@dataclass(frozen=True)
class Answer:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def generality(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """The command line in this process (torch is imported already), in an empty folder."""
    from generality.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main sets its own

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["generality", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return call


def start(
    *arguments: object, home: Path, cwd: Path, stderr: Any = subprocess.PIPE, **variables: str
) -> subprocess.Popen[str]:
    """The command line in a process of its own, which can be killed."""
    environment = {
        **os.environ,
        "GENERALITY_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(HERE),
        **variables,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "generality", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
