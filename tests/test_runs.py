"""Runs on disk: rows that survive kills, continued runs, two processes, damage, queries."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generality.errors import UserError
from generality.lab import find_runs, open_run, query, read_run, run_directory, runs

ASKED = {"study": "toy", "scale": "smoke", "config": {"seeds": 2}}


def rows_of(count: int, **more: object) -> list[dict]:
    levels = {"method": "naive", "floor": 0.25, "ceiling": 1.0}
    return [{**levels, "seed": seed, "score": 0.5 + seed / 8, **more} for seed in range(count)]


def write(directory: Path, rows: list[dict], asked: dict = ASKED) -> None:
    with open_run(directory, asked) as writer:
        for row in rows:
            writer.append(row)


def stamp(directory: Path) -> tuple[int, int]:
    status = (directory / "rows.parquet").stat()
    return status.st_ino, status.st_mtime_ns


def test_rows_come_back_in_any_tool(tmp_path: Path) -> None:
    write(tmp_path, rows_of(3))
    record = read_run(tmp_path)
    assert record.config == ASKED
    assert record.rows["score"].tolist() == [0.5, 0.625, 0.75]
    assert list(record.rows.columns)[:6] == list(runs.COLUMNS)
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == 3
    assert read_run(tmp_path / "rows.parquet").rows.equals(record.rows), "or by a file inside"


def test_the_same_question_has_the_same_folder(tmp_path: Path) -> None:
    assert run_directory(tmp_path, ASKED) == run_directory(tmp_path, dict(reversed(ASKED.items())))
    other = {**ASKED, "config": {"seeds": 3}}
    assert run_directory(tmp_path, ASKED) != run_directory(tmp_path, other)
    assert run_directory(tmp_path, ASKED).name.startswith("smoke-")


def test_columns_may_differ_and_numbers_mix(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            {"method": "a", "seed": 0, "score": 1, "epochs": 2, "layer": "last"},
            {"method": "b", "seed": np.int64(1), "score": float("nan"), "epochs": 2.5, "layer": 3},
            {"method": "c", "seed": 2, "score": np.float32(0.5), "deep": True},
        ],
    )
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [row["score"] for row in rows] == [1.0, None, 0.5]
    assert [row["epochs"] for row in rows] == [2.0, 2.5, None]
    assert [row["layer"] for row in rows] == ["last", "3", None]
    assert [row["deep"] for row in rows] == [None, None, True]
    assert [row["seed"] for row in rows] == [0, 1, 2]


values = st.none() | st.integers(-9, 9) | st.floats(-1, 1) | st.booleans() | st.sampled_from("xyz")
some_rows = st.lists(
    st.fixed_dictionaries(
        {"method": st.sampled_from("ab"), "seed": st.integers(0, 3)},
        optional={"score": st.floats(0, 1), "one": values, "two": values},
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(some_rows)
def test_a_repeated_run_confirms_its_rows_without_writing(tmp_path_factory, rows) -> None:
    directory = tmp_path_factory.mktemp("run")
    write(directory, rows)
    before, content = stamp(directory), read_run(directory).rows
    write(directory, rows)
    assert stamp(directory) == before
    pd.testing.assert_frame_equal(read_run(directory).rows, content)


def test_a_continued_run_keeps_what_it_has_and_adds_the_rest(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runs, "_FLUSH_SECONDS", 0)
    rows = [*rows_of(3), *rows_of(3, tuning="full", epochs=1.5)]
    write(tmp_path, rows[:4])
    before = stamp(tmp_path)
    with open_run(tmp_path, ASKED) as writer:
        for place, row in enumerate(rows):
            writer.append(row)
            on_disk = pq.read_table(tmp_path / "rows.parquet").num_rows
            assert on_disk == max(4, place + 1)
            assert (stamp(tmp_path) == before) == (place < 4)
    assert len(read_run(tmp_path).rows) == 6


def test_from_the_first_row_that_differs_the_old_ones_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, rows_of(4))
    changed = [*rows_of(2), {**rows_of(3)[2], "score": 0.0}]
    write(tmp_path, changed)
    assert read_run(tmp_path).rows["score"].tolist() == [0.5, 0.625, 0.0]


def test_rows_beyond_the_end_are_dropped(tmp_path: Path) -> None:
    write(tmp_path, rows_of(4))
    write(tmp_path, rows_of(2))
    assert len(read_run(tmp_path).rows) == 2


def test_an_error_on_the_way_keeps_the_rows_so_far(tmp_path: Path) -> None:
    def run(count: int) -> None:
        with open_run(tmp_path, ASKED) as writer:
            for row in rows_of(count):
                writer.append(row)
            raise KeyboardInterrupt

    for count, kept in ((3, 3), (1, 3), (5, 5)):
        with pytest.raises(KeyboardInterrupt):
            run(count)
        assert len(read_run(tmp_path).rows) == kept


def test_a_kill_while_rows_are_written_leaves_the_file_whole(tmp_path: Path) -> None:
    script = tmp_path / "die.py"
    script.write_text(
        textwrap.dedent(f"""
            import os, signal, sys
            from pathlib import Path
            from generality.lab import open_run, runs

            runs._FLUSH_SECONDS = 0
            replace = os.replace

            def last(source, target):
                rows = runs.pq.read_table(source).num_rows if str(target).endswith("parquet") else 0
                if rows == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                replace(source, target)

            os.replace = last
            with open_run(Path({str(tmp_path / "run")!r}), {ASKED!r}) as writer:
                for seed in range(5):
                    writer.append({{"method": "naive", "seed": seed, "score": 0.5}})
        """)
    )
    assert subprocess.run([sys.executable, script]).returncode == -signal.SIGKILL
    assert read_run(tmp_path / "run").rows["seed"].tolist() == [0, 1]
    write(tmp_path / "run", rows_of(5))
    assert read_run(tmp_path / "run").rows["seed"].tolist() == [0, 1, 2, 3, 4]


def test_the_same_run_at_once_waits(tmp_path: Path, caplog) -> None:
    inside, order = threading.Event(), []

    def second() -> None:
        inside.wait()
        with open_run(tmp_path, ASKED) as writer:
            order.append("second")
            for row in rows_of(3):
                writer.append(row)

    thread = threading.Thread(target=second)
    thread.start()
    with open_run(tmp_path, ASKED) as writer:
        inside.set()
        for row in rows_of(3):
            writer.append(row)
        while "waiting" not in caplog.text:
            inside.wait(0.01)
        order.append("first")
    before = stamp(tmp_path)
    thread.join()
    assert order == ["first", "second"]
    assert stamp(tmp_path) == before


@pytest.mark.parametrize("damage", [b"", b"PAR1 and nothing more", None])
def test_damaged_rows_are_said_and_made_again(tmp_path: Path, caplog, damage: bytes | None) -> None:
    write(tmp_path, rows_of(3))
    path = tmp_path / "rows.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-20] if damage is None else damage)
    assert read_run(tmp_path).rows.empty
    assert "rows.parquet is damaged" in caplog.text
    write(tmp_path, rows_of(3))
    assert len(read_run(tmp_path).rows) == 3


@pytest.mark.parametrize("name", ["claims.json", "environment.json"])
def test_damaged_json_is_said_and_left_out(tmp_path: Path, caplog, name: str) -> None:
    write(tmp_path, rows_of(1))
    (tmp_path / name).write_bytes(b'[{"claim": "\xff')
    record = read_run(tmp_path)
    assert not getattr(record, name.removesuffix(".json"))
    assert f"{name} is damaged" in caplog.text


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no run: it has no config\.json"):
        read_run(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be made \(Not a directory\).*--out"):
        write(tmp_path / "file" / "run", [])
    (tmp_path / "run" / ".lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot be written .*--out"):
        write(tmp_path / "run", [])


def test_a_full_disk_leaves_the_rows_there_were(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, rows_of(2))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.pq, "write_table", full)
    with pytest.raises(UserError, match=r"rows\.parquet could not be written \(No space"):
        write(tmp_path, rows_of(4))
    assert len(read_run(tmp_path).rows) == 2
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_latest_run_comes_first(tmp_path: Path) -> None:
    for place, scale in enumerate(("small", "smoke", "full")):
        asked = {**ASKED, "scale": scale}
        directory = run_directory(tmp_path, asked)
        write(directory, rows_of(1), asked)
        os.utime(directory / "config.json", (place, place))
    found = find_runs(tmp_path, "toy")
    assert [json.loads((each / "config.json").read_text())["scale"] for each in found] == [
        "full", "smoke", "small",
    ]  # fmt: skip
    assert find_runs(tmp_path / "nowhere") == []


# --------------------------------------------------------------------------------- queries


@pytest.fixture
def two_studies(tmp_path: Path) -> Path:
    root = tmp_path / "my [runs]'s"
    write(root / "toy" / "smoke-1", rows_of(3))
    write(root / "toy" / "smoke-2", rows_of(2, weak="bag-of-words"))
    write(root / "other" / "small-1", rows_of(1, epochs=3))
    write(root / "other" / "small-2", [])
    return root


def test_sql_sees_every_run_with_its_columns(two_studies: Path) -> None:
    counts = query(
        "SELECT study, run, count(*) AS n FROM rows GROUP BY ALL ORDER BY ALL", str(two_studies)
    )
    assert counts.to_numpy().tolist() == [
        ["other", "small-1", 1], ["toy", "smoke-1", 3], ["toy", "smoke-2", 2],
    ]  # fmt: skip
    found = query(
        "SELECT weak, epochs FROM rows WHERE weak IS NOT NULL OR epochs > 2", str(two_studies)
    )
    assert sorted(found["weak"].dropna()) == ["bag-of-words", "bag-of-words"]
    assert found["epochs"].dropna().tolist() == [3]


@pytest.mark.parametrize("column", ["scor", "rows.scor"])
def test_a_mistyped_column_is_suggested(two_studies: Path, column: str) -> None:
    with pytest.raises(UserError, match="no column 'scor'. Did you mean 'score'?"):
        query(f"SELECT {column} FROM rows", str(two_studies))


@pytest.mark.parametrize(
    "sql", ["SELEC 1", "SELECT * FROM nothing", "SELECT score +", "SELECT 'a'::INT"]
)
def test_bad_sql_is_said(two_studies: Path, sql: str) -> None:
    with pytest.raises(UserError, match="The query failed: "):
        query(sql, str(two_studies))


def test_no_runs_and_no_such_address_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs below"):
        query("SELECT 1", str(tmp_path))
    with pytest.raises(UserError, match="cannot be read"):
        query("SELECT 1", "nosuchprotocol://runs")


def test_a_damaged_run_fails_in_one_sentence(two_studies: Path) -> None:
    (two_studies / "toy" / "smoke-1" / "rows.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(UserError, match="The query failed: .*smoke-1"):
        query("SELECT 1 FROM rows", str(two_studies))


def test_runs_may_lie_at_any_address(two_studies: Path) -> None:
    remote = fsspec.filesystem("memory")
    for path in two_studies.glob("*/*/rows.parquet"):
        remote.pipe(f"/bucket/runs/{path.relative_to(two_studies)}", path.read_bytes())
    sql = "SELECT study, run, seed, score, weak FROM rows ORDER BY ALL"
    expected = query(sql, str(two_studies))
    pd.testing.assert_frame_equal(query(sql, "memory://bucket/runs/"), expected)
    pd.testing.assert_frame_equal(query(sql, f"file://{two_studies}"), expected)
    remote.rm("/bucket", recursive=True)
