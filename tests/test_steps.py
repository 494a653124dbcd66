import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from generality.lab import steps
from generality.lab.steps import StepStore

calls: list[int] = []


def double(x):
    calls.append(1)
    return {"twice": x * 2, "pair": (1, [None, "ü", True]), "nested": {"tensor": torch.ones(2)}}


@pytest.fixture
def store(tmp_path: Path) -> StepStore:
    calls.clear()
    return StepStore(tmp_path / "steps")


def test_a_step_is_computed_once(store: StepStore) -> None:
    first = store.compute(double, np.arange(3.0))
    second = StepStore(store.root).compute(double, np.arange(3.0))
    assert len(calls) == 1
    np.testing.assert_array_equal(first["twice"], second["twice"])
    assert first["twice"].dtype == second["twice"].dtype
    assert second["pair"] == (1, [None, "ü", True])
    assert torch.equal(second["nested"]["tensor"], torch.ones(2))
    store.compute(double, np.arange(4.0))
    assert len(calls) == 2


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner)
            | st.dictionaries(st.text(), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    arrays(np.float32, (2, 3), elements=st.floats(-1, 1, width=32)),
)
def test_results_come_back_as_they_were(tmp_path: Path, value: object, array: np.ndarray) -> None:
    store = StepStore(tmp_path / "steps")
    for _ in range(2):
        result = store.compute(give, value, array)
        assert result[0] == value
        assert type(result[0]) is type(value)
        np.testing.assert_array_equal(result[1], array)


def give(*values):
    return list(values)


def test_uncached_arguments_do_not_count(store: StepStore) -> None:
    store.compute(with_callback, 1, uncached={"callback": print})
    store.compute(with_callback, 1, uncached={"callback": None})
    assert (store.computed, store.reused) == (1, 1)


def with_callback(x, callback=None):
    return x


def test_an_unstorable_result_is_refused_by_name(store: StepStore) -> None:
    with pytest.raises(TypeError, match="set"):
        store.compute(give_set, 1)


def give_set(x):
    return {x}


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "manifest"])
def test_a_damaged_entry_is_noticed_and_computed_again(store: StepStore, damage: str) -> None:
    store.compute(double, np.arange(3.0))
    folder = store.entries()[0].folder
    target = folder / ("manifest.json" if damage == "manifest" else "arrays.safetensors")
    content = target.read_bytes()
    if damage == "truncate":
        target.write_bytes(content[:-1])
    elif damage == "flip":
        target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "delete":
        target.unlink()
    else:
        target.write_text("{")
    assert [entry.key for entry, _ in store.verify()] == [folder.name]
    with pytest.warns(UserWarning, match="computed again"):
        result = store.compute(double, np.arange(3.0))
    np.testing.assert_array_equal(result["twice"], [0, 2, 4])
    assert len(calls) == 2
    assert store.verify() == []


def test_a_full_disk_keeps_nothing_and_loses_nothing(store: StepStore, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(steps, "save_file", full)
    with pytest.warns(UserWarning, match="full"):
        result = store.compute(double, np.arange(3.0))
    np.testing.assert_array_equal(result["twice"], [0, 2, 4])
    monkeypatch.undo()
    assert store.entries() == []
    assert list((store.root / "tmp").iterdir()) == []
    store.compute(double, np.arange(3.0))
    assert len(store.entries()) == 1


def test_gc_removes_the_oldest_first(store: StepStore) -> None:
    for size in (10, 20, 30):
        store.compute(double, np.zeros(size))
        os.utime(store.entries()[0].folder / "manifest.json", (size, size))
    sizes = {entry.used: entry.size for entry in store.entries()}
    assert store.gc(max_bytes=sizes[30] + sizes[20]) == sizes[10]
    assert {entry.used for entry in store.entries()} == {20, 30}
    store.gc(older_than_days=1)
    assert store.entries() == []


WORKER = """
    import sys, time
    from pathlib import Path
    from generality.lab.steps import StepStore

    def slow(x):
        with open({log!r}, "a") as log:
            log.write("computed\\n")
        time.sleep({seconds})
        return [x] * 3

    print(StepStore(Path({root!r})).compute(slow, 7))
"""


def worker(tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    script = tmp_path / "worker.py"
    root, log = str(tmp_path / "steps"), str(tmp_path / "log")
    script.write_text(textwrap.dedent(WORKER).format(root=root, log=log, seconds=seconds))
    return subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)


def test_two_processes_compute_a_step_once(tmp_path: Path) -> None:
    workers = [worker(tmp_path, 0.5) for _ in range(2)]
    assert [process.communicate()[0] for process in workers] == ["[7, 7, 7]\n"] * 2
    assert (tmp_path / "log").read_text() == "computed\n"


def test_a_killed_process_leaves_no_lock_and_no_entry(tmp_path: Path) -> None:
    process = worker(tmp_path, 60)
    while not (tmp_path / "log").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = StepStore(tmp_path / "steps")
    assert store.entries() == []
    again = worker(tmp_path, 60.0)  # the same code, so the same key: it must get the lock
    deadline = time.monotonic() + 30
    while (tmp_path / "log").read_text().count("computed") < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    again.kill()
    assert (tmp_path / "log").read_text() == "computed\n" * 2


def test_a_kill_while_writing_leaves_no_torn_entry(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        import numpy as np
        from generality.lab import steps

        def big():
            return np.zeros(1000)

        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        steps._sync = die  # every file is written, the rename has not happened
        steps.StepStore(Path({str(tmp_path / "steps")!r})).compute(big)
    """)
    path = tmp_path / "die.py"
    path.write_text(script)
    assert subprocess.run([sys.executable, path]).returncode == -signal.SIGKILL
    store = StepStore(tmp_path / "steps")
    assert store.entries() == []
    assert len(list((store.root / "tmp").iterdir())) == 1
    yesterday = time.time() - 2 * 86_400
    for leftover in (store.root / "tmp").iterdir():
        os.utime(leftover, (yesterday, yesterday))
    store.gc()
    assert list((store.root / "tmp").iterdir()) == []


def test_the_manifest_says_what_made_the_result(store: StepStore) -> None:
    store.compute(double, np.arange(3.0))
    manifest = json.loads((store.entries()[0].folder / "manifest.json").read_text())
    assert manifest["step"].endswith("double")
    assert manifest["arguments"] == ["ndarray(3,)"]
    assert set(manifest["files"]) == {"arrays.safetensors", "result.json"}
