"""Running a study: rows to disk as they come, then the verdicts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from generality.claims import Row, judge
from generality.gap import gap_recovered
from generality.lab import Lab, RunRecord, open_run, read_run, run_directory, write_json
from generality.lab.sinks import Sink
from generality.studies.study import Study


def run_study(
    study: Study,
    config: Any,
    lab: Lab,
    *,
    scale: str = "custom",
    root: Path = Path("runs"),
    sink: Sink | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> RunRecord:
    """Run a study into its folder below `root`, test its claims, and return the record.

    Asked again, it goes through the same steps, which are all kept, and confirms the same rows.
    """
    asked = {
        "study": study.name,
        "title": study.title,
        "paper": dataclasses.asdict(study.paper),
        "scale": scale,
        "config": dataclasses.asdict(config),
        "factors": study.factors,
    }
    directory = run_directory(root, asked)
    with _tracked(sink, study.name, asked) as track, open_run(directory, asked) as writer:
        for row in study.run(config, lab):
            complete = with_recovered(row)
            writer.append(complete)
            track(complete)
            if on_row:
                on_row(complete)
    rows = read_run(directory).rows
    verdicts = judge(study.claims, rows, factors=study.factors)
    write_json(directory / "claims.json", [verdict.to_dict() for verdict in verdicts])
    write_json(directory / "environment.json", lab.environment())
    return read_run(directory)


@contextmanager
def _tracked(
    sink: Sink | None, study: str, asked: dict[str, Any]
) -> Iterator[Callable[[Row], None]]:
    """What takes a copy of each row; the tracker's run is closed however ours ends."""
    if sink is None:
        yield lambda row: None
        return
    sink.start(study, asked)
    try:
        yield sink.log
    finally:
        sink.finish()


def with_recovered(row: Row) -> Row:
    """The row with its recovered share, when it has what that takes."""
    parts = [row.get(name) for name in ("floor", "score", "ceiling")]
    if "recovered" in row or any(part is None for part in parts):
        return row
    share = float(gap_recovered(*parts, lower_is_better=bool(row.get("lower_is_better", False))))
    return {**row, "recovered": None if math.isnan(share) else share}
