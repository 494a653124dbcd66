"""Runs on disk: one folder for one question, files that any tool can read.

    runs/<study>/<id>/config.json       what was asked
                      rows.parquet      the answer, row by row, as it becomes known
                      claims.json       verdicts
                      environment.json  machine, versions, threads, times, steps computed and reused
                      report.html       the page to look at

The id is made of the question (study, scale, seeds, configuration), so asking again comes back to
the same folder: a killed run is continued there, a finished one is confirmed.
"""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from fsspec.implementations.local import LocalFileSystem

from generality.claims import Row
from generality.errors import UserError, unknown
from generality.lab.fingerprint import fingerprint

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 0.5
_UNKNOWN_COLUMN = re.compile(r'Referenced column "([^"]+)"|does not have a column named "([^"]+)"')
COLUMNS = ("method", "seed", "score", "floor", "ceiling", "recovered")
"""Columns that come first in every run, present or not in every row."""


@dataclass(frozen=True)
class RunRecord:
    """A run as it lies on disk."""

    directory: Path
    config: dict[str, Any]
    rows: pd.DataFrame
    claims: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)


def run_directory(root: Path, config: dict[str, Any]) -> Path:
    """Where the run that answers `config` (study, scale, seeds, config) belongs."""
    scale = str(config.get("scale", "custom"))
    return root / str(config["study"]) / f"{scale}-{fingerprint(config)[:10]}"


class RunWriter:
    """Appends rows to a run; whatever happens, the file on disk is whole.

    Rows that a continued run brings again are recognised by their place and content, and not
    written twice; from the first one that differs, the old ones are replaced.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "rows.parquet"
        self._old = _read_rows(self.path)
        self._confirming = bool(self._old)
        self.rows: list[Row] = []
        self._written = 0.0

    def append(self, row: Row) -> None:
        """Add one row; it reaches the disk within half a second, or with `flush`."""
        row, place = _plain(row), len(self.rows)
        self.rows.append(row)
        if self._confirming and (place >= len(self._old) or not _same(row, self._old[place])):
            self._confirming = False
        if not self._confirming and time.monotonic() - self._written > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Bring every row to the disk; a shorter beginning of what is there changes nothing."""
        if self._confirming:
            return
        table = _table(self.rows)
        write_atomically(self.path, lambda path: pq.write_table(table, path))
        self._written = time.monotonic()

    def close(self) -> None:
        """Flush, and drop what an earlier version of the run had beyond these rows."""
        if len(self._old) > len(self.rows):
            self._confirming = False
        self.flush()


@contextmanager
def open_run(directory: Path, config: dict[str, Any]) -> Iterator[RunWriter]:
    """The run's folder, held by this process alone while the block lasts.

    A second process with the same question waits for the first; its steps are all there then.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The run's folder {directory} cannot be made ({error.strerror}); choose another "
            "with --out."
        ) from error
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("Another process is on this very run; waiting for it to finish.")
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"The run's folder {directory} cannot be written ({error.strerror}); choose another "
            "with --out."
        ) from error
    try:
        write_json(directory / "config.json", config)
        writer = RunWriter(directory)
        try:
            yield writer
        except BaseException:
            writer.flush()
            raise
        writer.close()
    finally:
        lock.release()


def read_run(directory: Path) -> RunRecord:
    """A run from its folder (or from a file inside it)."""
    folder = directory.parent if directory.is_file() else directory
    config_path = folder / "config.json"
    if not config_path.exists():
        raise UserError(f"{directory} is no run: it has no config.json.")
    rows = _read_rows(folder / "rows.parquet")
    frame = _table(rows).to_pandas() if rows else pd.DataFrame(columns=list(COLUMNS))
    return RunRecord(
        folder,
        _read_json(config_path, {}),
        frame,
        _read_json(folder / "claims.json", []),
        _read_json(folder / "environment.json", {}),
    )


def find_runs(root: Path, study: str = "*") -> list[Path]:
    """Folders of the runs below `root`, the latest first."""
    configs = [path for path in root.glob(f"{study}/*/config.json") if path.is_file()]
    return [path.parent for path in sorted(configs, key=lambda path: -path.stat().st_mtime)]


def query(sql: str, root: str) -> pd.DataFrame:
    """Answer SQL over every run below `root` (a path, or any fsspec address) with DuckDB.

    The table is called `rows` and has the columns of all runs, plus `study` and `run`.
    """
    try:
        filesystem, address = fsspec.core.url_to_fs(root)
        found = filesystem.glob(f"{glob.escape(address.rstrip('/'))}/*/*/rows.parquet")
    except (ValueError, ImportError, OSError) as error:
        raise UserError(f"The runs at {root} cannot be read: {error}") from error
    if not found:
        raise UserError(f"There are no runs below {root} yet; start one with `generality run`.")
    connection = duckdb.connect()
    if not isinstance(filesystem, LocalFileSystem):
        connection.register_filesystem(filesystem)
        found = [filesystem.unstrip_protocol(path) for path in found]
    try:
        connection.execute(
            "CREATE VIEW rows AS SELECT * EXCLUDE (filename), parse_path(filename)[-3] AS study, "
            "parse_path(filename)[-2] AS run FROM read_parquet("
            f"[{', '.join(map(_quoted, found))}], union_by_name=true, filename=true)"
        )
        return connection.execute(sql).df()
    except duckdb.Error as error:
        message = str(error).splitlines()[0]
        if column := _UNKNOWN_COLUMN.search(message):
            columns = connection.execute("DESCRIBE rows").df()["column_name"]
            raise unknown("column", column[1] or column[2], columns) from error
        raise UserError(f"The query failed: {message}") from error


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "''") + "'"


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one piece."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_atomically(path: Path, write: Any) -> None:
    """Let `write(temporary path)` make the file, bring it to the disk, then put it in place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "free space" if full else "name a place that can be written to"
        raise UserError(
            f"{path} could not be written ({error.strerror}). What was there is untouched and "
            f"finished steps are kept: {what} and run the same command again."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _read_json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except ValueError:
        log.warning("%s is damaged and left out", path)
        return default


def _read_rows(path: Path) -> list[Row]:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        return []
    except (pa.ArrowException, OSError):
        log.warning("%s is damaged; its rows are made again", path)
        return []
    return [dict(row) for row in table.to_pylist()]


def _plain(row: Row) -> Row:
    """Python's own types, and None where a number is not a number."""
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}
    return {name: None if value != value else value for name, value in plain.items()}


def _same(row: Row, old: Row) -> bool:
    """Whether a row says what one read back does; a file has one type a column, and all columns."""
    left, right = ({k: v for k, v in each.items() if v is not None} for each in (row, old))
    return left.keys() == right.keys() and all(
        left[name] == right[name] or str(left[name]) == right[name] for name in left
    )


def _table(rows: list[Row]) -> pa.Table:
    """Rows of any columns as one table.

    Integers become floats where a column mixes them, and everything text where it holds a text.
    """
    names = [*COLUMNS, *sorted({name for row in rows for name in row} - set(COLUMNS))]
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1:
            mixed = str if str in kinds else float if float in kinds else int
            values = [None if value is None else mixed(value) for value in values]
        kind = pa.float64() if name in COLUMNS[2:] else None
        columns[name] = pa.array(values, type=kind)
    return pa.table(columns)
