"""The same results wherever the work is done, and what becomes of workers."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import work
from generality.errors import UserError
from generality.lab import Lab
from generality.lab.executors import InProcess, OnRay, Processes, make_executor
from generality.lab.threads import available_cores, threads

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A real local cluster of two workers."""
    ray = pytest.importorskip("ray")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(HERE), "RAY_memory_monitor_refresh_ms": "0"}},
    )
    yield
    ray.shutdown()


RAY = pytest.param("ray", marks=pytest.mark.slow)
everywhere = pytest.mark.parametrize("on", ["in-process", "processes:2", RAY], indirect=True)
away = pytest.mark.parametrize("on", ["processes:2", RAY], indirect=True)


@pytest.fixture
def on(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    return str(request.param)


@everywhere
def test_results_come_in_order_and_exactly(on: str) -> None:
    executor = make_executor(on)
    assert list(executor.map(work.square, range(7), work.nothing)) == [n * n for n in range(7)]
    assert list(executor.map(work.square, [], work.nothing)) == []
    arrays = [np.random.default_rng(seed).normal(size=50) for seed in range(3)]
    for found, array in zip(executor.map(work.norm, arrays, work.nothing), arrays, strict=True):
        np.testing.assert_array_equal(found, work.norm(None, array))


@everywhere
def test_errors_arrive_as_they_are(on: str) -> None:
    executor = make_executor(on)
    results = executor.map(work.mistaken, range(3), work.nothing)
    assert next(results) == 0
    with pytest.raises(UserError, match="^Item 1 has no label; give it one.$"):
        next(results)
    with pytest.raises(ZeroDivisionError):
        list(executor.map(work.buggy, [1, 0], work.nothing))
    with pytest.raises(UserError, match="cannot be written"):
        list(executor.map(work.square, [1], work.no_context))


@away
def test_a_killed_worker_is_said(on: str) -> None:
    executor = make_executor(on)
    with pytest.raises(UserError, match="lack of memory.*kept.*fewer processes"):
        list(executor.map(work.killed, [1], work.nothing))


@everywhere
def test_steps_are_shared_through_one_home(on: str, tmp_path: Path) -> None:
    lab = Lab(on=on, home=tmp_path / "steps", device="cpu", progress=False)
    assert list(lab.map(work.nested, range(6))) == [10, 11] * 3
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "1"]
    assert (lab.steps.computed, lab.steps.reused) == (2, 4)
    here = Lab(home=tmp_path / "steps", device="cpu", progress=False)
    assert list(here.map(work.nested, range(2))) == [10, 11]
    assert here.steps.computed == 0


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generality.lab.executors.available_cores", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    found = list(Processes(2).map(work.threads, range(2), work.nothing))
    assert found == [(3, "3")] * 2
    assert os.environ["OMP_NUM_THREADS"] == "5", "ours is as it was"


def test_threads_are_put_back() -> None:
    import torch

    before = torch.get_num_threads()

    def fails() -> None:
        with threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert torch.get_num_threads() == before
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


PARENT = """
    import sys
    from pathlib import Path
    import work
    from generality.lab.executors import Processes

    if __name__ == "__main__":
        folder = Path(sys.argv[1])
        list(Processes(2).map(work.stays, [folder, folder], work.nothing))
"""


@pytest.mark.parametrize("signal_sent", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, signal_sent: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    pids = tmp_path / "pids"
    pids.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(pids)],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until(lambda: len(list(pids.iterdir())) == 2)
    if signal_sent == signal.SIGINT:
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to the whole group
    else:
        parent.send_signal(signal_sent)
    parent.wait(30)
    workers = [int(path.name) for path in pids.iterdir()]
    until(lambda: not any(psutil.pid_exists(pid) for pid in workers))


def until(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "on",
    ["process:2", "processes:0", "processes:-1", "processes:two", "processes:²", "processes:",
     "ray:", "ray:2", "ray://", "threads", ""],
)  # fmt: skip
def test_a_bad_place_is_said(on: str) -> None:
    with pytest.raises(UserError, match=f"^--on {on}: (choose in-process|write processes:N)"):
        make_executor(on)


def test_places_are_what_they_are_called() -> None:
    assert isinstance(make_executor("in-process"), InProcess)
    processes = make_executor("processes:3")
    assert isinstance(processes, Processes)
    assert processes.count == 3
    default = make_executor("processes")
    assert isinstance(default, Processes)
    assert default.count == available_cores()
    cluster = make_executor("ray://head:10001")
    assert isinstance(cluster, OnRay)
    assert cluster.address == "ray://head:10001"


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'generality\[ray\]'"):
        next(iter(OnRay().map(work.square, [1], work.nothing)))
