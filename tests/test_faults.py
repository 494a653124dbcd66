"""Bad luck, for real: kill -9 in the middle of the main study, and disks with no room left."""

import json
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tiny_study
from conftest import start
from generality.errors import UserError
from generality.lab import Lab, open_run, read_run
from generality.lab.steps import StepStore
from generality.studies import configure, find_study, run_study

MAIN = ["run", "weak-to-strong", "--scale", "smoke", "--json"]


def home_with(folder: Path, artifacts: Path) -> Path:
    folder.mkdir()
    (folder / "artifacts").symlink_to(artifacts)
    return folder


def entries(home: Path) -> dict[str, int]:
    """Kept results by key, with what tells one writing from another."""
    found = {}
    for manifest in home.glob("steps/[0-9a-f][0-9a-f]/*/manifest.json"):
        data = next(path for path in manifest.parent.iterdir() if path != manifest)
        found[manifest.parent.name] = data.stat().st_ino
    return found


@pytest.mark.slow
def test_the_main_study_survives_kills(tmp_path: Path, artifacts: Path) -> None:
    home = home_with(tmp_path / "home", artifacts)
    here = tmp_path / "here"
    here.mkdir()
    kept: dict[str, int] = {}
    for more in (3, 7):
        process = start(*MAIN, home=home, cwd=here)
        wanted = len(kept) + more
        until(lambda: len(entries(home)) >= wanted or process.poll() is not None)  # noqa: B023
        assert process.poll() is None, "it was to be killed on its way"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = entries(home)
        assert {key: now[key] for key in kept} == kept, "what was finished was not made again"
        assert StepStore(home / "steps").verify() == []
        kept = now
        for rows in here.glob("runs/*/*/rows.parquet"):
            pd.read_parquet(rows)  # whole, whenever the kill came

    process = start(*MAIN, home=home, cwd=here)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    final = entries(home)
    assert {key: final[key] for key in kept} == kept
    found = record(here)
    assert found.environment["steps"]["computed"] == len(final) - len(kept)
    assert found.environment["steps"]["reused"] >= len(kept)

    study = find_study("weak-to-strong")
    lab = Lab(home=tmp_path / "whole" / "steps", device="cpu", progress=False)
    expected = run_study(study, configure(study, "smoke"), lab, scale="smoke", root=tmp_path)
    assert expected.environment["steps"]["computed"] == len(final)
    assert set(entries(tmp_path / "whole")) == set(final), "the same steps, by name"
    pd.testing.assert_frame_equal(found.rows, expected.rows)
    assert found.claims == expected.claims
    assert Path(json.loads(out)["report"]).parent.name == expected.directory.name


def record(folder: Path):
    (config,) = folder.glob("runs/weak-to-strong/*/config.json")
    return read_run(config.parent)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# ------------------------------------------------------------------------- full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take every byte that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    assert os.statvfs(folder).f_bavail == 0
    return filler


def zeros(count: int) -> np.ndarray:
    return np.zeros(count)


def test_a_step_too_large_for_the_disk_is_computed_and_not_kept(small_disk: Path) -> None:
    store = StepStore(small_disk / "steps")
    assert store.compute(zeros, 10).shape == (10,)
    with pytest.warns(UserWarning, match=r"is full: results are not kept.*cache gc"):
        assert store.compute(zeros, 1_000_000).shape == (1_000_000,)
    assert len(store.entries()) == 1
    assert store.verify() == []
    assert list((store.root / "tmp").iterdir()) == []
    filler = fill(small_disk)
    with pytest.warns(UserWarning, match="is full"):
        assert store.compute(zeros, 11).shape == (11,)
    filler.unlink()
    store.compute(zeros, 11)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.compute(zeros, 11).shape == (11,)
    assert len(store.entries()) == 2


def test_features_too_large_for_the_disk_are_refused(small_disk: Path) -> None:
    lab = Lab(home=small_disk / "steps", device="cpu", progress=False)
    with pytest.raises(UserError, match=r"need \d MB and the disk.*No space left.*GENERALITY_HOME"):
        lab.embed("bag-of-words", [f"text {i}" for i in range(100)])
    assert not list(small_disk.rglob("*.npy"))
    assert lab.embed("bag-of-words", ["a text"]).shape[0] == 1
    fill(small_disk)
    with pytest.raises(UserError, match="GENERALITY_HOME"):
        lab.embed("bag-of-words", ["another text"] * 2)


def test_rows_on_a_full_disk_are_those_there_were(small_disk: Path) -> None:
    def write(count: int) -> None:
        with open_run(small_disk / "run", {"study": "toy"}) as writer:
            for seed in range(count):
                writer.append({"method": "naive", "seed": seed, "score": 0.5})

    write(2)
    filler = fill(small_disk)
    with pytest.raises(UserError, match="could not be written.*untouched.*free space"):
        write(3)
    assert read_run(small_disk / "run").rows["seed"].tolist() == [0, 1]
    filler.unlink()
    write(3)
    assert read_run(small_disk / "run").rows["seed"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("full", ["home", "runs"])
def test_a_run_on_a_full_disk_ends_in_a_sentence_and_goes_on_later(
    full: str, generality, small_disk: Path, tmp_path: Path, monkeypatch
) -> None:
    command = ["run", tiny_study.__file__, "--scale", "smoke", "--json"]
    if full == "home":
        monkeypatch.setenv("GENERALITY_HOME", str(small_disk))
    else:
        command += ["--out", str(small_disk / "runs")]
    filler = fill(small_disk)
    answer = generality(*command)
    assert "Traceback" not in answer.err
    if full == "home":  # nothing can be kept, but the rows are there
        assert answer.code in (0, 2)
        assert "full" in answer.err or "cannot be written" in answer.err
    else:
        assert (answer.code, answer.out) == (2, "")
        assert "free space" in answer.err or "--out" in answer.err
    filler.unlink()
    answer = generality(*command)
    assert answer.code == 0, answer.err
    assert len(json.loads(answer.out)["claims"]) == 2


@pytest.mark.slow
def test_the_main_study_on_a_small_disk(small_disk: Path, tmp_path: Path, artifacts: Path) -> None:
    home = home_with(tmp_path / "home", artifacts)
    (home / "steps").symlink_to(small_disk)
    process = start(*MAIN, home=home, cwd=tmp_path)
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out) == (2, "")
    assert "Error: The features need" in err
    assert "Traceback" not in err
