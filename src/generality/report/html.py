"""A run as one self-contained HTML page: the answer first, then everything it rests on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from generality.lab.runs import RunRecord, read_run, write_atomically
from generality.report.further_tables import further_tables
from generality.report.summary import (
    Line,
    Summary,
    count,
    percent,
    score,
    summarise_run,
)
from generality.report.verdicts import Shown, shown

_OPEN_GROUPS = 6  # plots shown at once; more are folded
_OPEN_METHODS = 12
_MEASURES = 4
_KEY_FACTS = ("started", "finished", "seconds", "steps.computed", "steps.reused", "threads")


def write_report(run_directory: Path | str, *, out: Path | str | None = None) -> Path:
    """Write a run's page and return where it is.

    The page depends on the run's files alone: the same files give the same bytes. It needs no
    network and no JavaScript, and everything it shows from the files is escaped.

    Args:
        run_directory: a folder with `config.json` and, as far as the run got, `rows.parquet`,
            `claims.json` and `environment.json`.
        out: the file to write; `report.html` in the run's folder by default.

    Raises:
        UserError: if the folder is no run, or the page cannot be written.
    """
    run = read_run(Path(run_directory))
    path = Path(out) if out is not None else run.directory / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    page = render(run).encode("utf-8", "backslashreplace")
    write_atomically(path, lambda temporary: temporary.write_bytes(page))
    return path


def render(run: RunRecord) -> str:
    """The page's HTML."""
    summary = summarise_run(run)
    environment = Environment(
        loader=PackageLoader("generality.report", "."),
        autoescape=True,  # by extension would miss .jinja
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(score=score, percent=percent)
    facts = list(_flat(run.environment))
    tables = _tables(summary)
    page = environment.get_template("report.html.jinja").render(
        title=str(run.config.get("title") or run.config.get("study") or "A run"),
        subtitle=_subtitle(run.config, summary),
        paper=_paper(run.config.get("paper")),
        conclusions=[str(each) for each in run.config.get("conclusions") or []],
        summary=summary,
        best=summary.best,
        hero=_hero(summary),
        scenes=_scenes(summary),
        open_groups=_OPEN_GROUPS,
        open_methods=_OPEN_METHODS,
        claims=[shown(claim) for claim in run.claims],
        tally=_tally(shown(claim) for claim in run.claims),
        tables=tables,
        further=further_tables(run),
        measures=_measures(summary),
        hidden_measures=max(0, len(_all_measures(summary)) - _MEASURES),
        command=command(run),
        settings=list(_flat({key: run.config[key] for key in ("config",) if key in run.config})),
        key_facts=[(name, value) for name, value in facts if name in _KEY_FACTS],
        other_facts=[(name, value) for name, value in facts if name not in _KEY_FACTS],
        code_version=str(run.config.get("code_version") or ""),
    )
    return re.sub(r"\n\s*\n+", "\n", page) + "\n"


def command(run: RunRecord) -> str:
    """What to type to get these rows again: the `command` on record, or one made of the question.

    >>> asked = {"study": "weak-to-strong", "scale": "small", "seeds": 5}
    >>> command(RunRecord(Path("runs/x"), asked, rows=None))
    'generality run weak-to-strong --scale small --seeds 5'
    """
    given = run.environment.get("command") or run.config.get("command")
    if given:
        return shlex.join(map(str, given)) if isinstance(given, list) else str(given)
    seeds = run.config.get("seeds")
    words = ["generality", "run", str(run.config.get("study", ""))]
    if run.config.get("scale") is not None:
        words += ["--scale", str(run.config["scale"])]
    if seeds is not None:
        words += ["--seeds", str(len(seeds) if isinstance(seeds, list) else seeds)]
    return shlex.join(words)


# The plots: positions in percent of a track's width, so that a track stretches to any screen.


@dataclass(frozen=True)
class Mark:
    """One method on its track; positions in percent, None where unknown."""

    line: Line
    best: bool
    at: float | None
    low: float | None
    high: float | None
    seeds: tuple[tuple[float, str], ...]
    label: str


@dataclass(frozen=True)
class Scene:
    """One setting: floor, methods and ceiling on a common scale."""

    name: str
    floor: float | None
    ceiling: float | None
    floor_text: str
    ceiling_text: str
    stacked: bool
    note: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Scale:
    """A linear map from scores to percent of a track."""

    start: float
    stop: float

    def at(self, value: float) -> float | None:
        """Where a score lies, kept on the track; None for no score."""
        if isnan(value):
            return None
        inside = min(max(value, self.start), self.stop)
        return round(100 * (inside - self.start) / (self.stop - self.start), 2)


def interval(line: Line) -> tuple[float, float]:
    """The interval that is drawn, in score units: of the share where there is one."""
    if line.gap and line.share is not None:
        if not line.bounded:
            return nan, nan
        gap = line.ceiling - line.floor
        ends = line.floor + line.share.low * gap, line.floor + line.share.high * gap
        return min(ends), max(ends)
    return line.low, line.high


def scale(lines: Iterable[Line]) -> Scale:
    """A scale that holds every score; intervals may run off it by a third at either side."""
    lines = list(lines)
    points = [
        value
        for line in lines
        for value in (line.floor, line.ceiling, *(seed.score for seed in line.seeds))
        if isfinite(value)
    ]
    if not points:
        return Scale(0.0, 1.0)
    start, stop = min(points), max(points)
    room = (stop - start) / 3
    ends = [end for line in lines for end in interval(line) if not isnan(end)]
    start = min([start, *(max(end, start - room) for end in ends)])
    stop = max([stop, *(min(end, stop + room) for end in ends)])
    pad = 0.05 * (stop - start) or 0.05 * abs(stop) or 0.5
    return Scale(start - pad, stop + pad)


def _scenes(summary: Summary) -> list[Scene]:
    rank = {line.method: place for place, line in enumerate(summary.overall)}
    scenes = []
    if len(summary.compared) > 1:
        name = f"Mean over {len(summary.compared)} settings"
        scenes.append(_scene(name, list(summary.overall), summary))
    for group in summary.groups:
        lines = [line for line in summary.lines if line.group == group]
        lines.sort(key=lambda line: rank.get(line.method, len(rank)))
        scenes.append(_scene(group, lines, summary))
    return [each for each in scenes if each.marks]


def _scene(name: str, lines: list[Line], summary: Summary) -> Scene:
    methods = [line for line in lines if line.seeds and not line.reference]
    methods = methods or [line for line in lines if line.seeds]
    on = scale(lines)
    known = max(lines, key=lambda line: len(line.seeds), default=None)
    floor, ceiling = (known.floor, known.ceiling) if known else (nan, nan)
    low, high = on.at(floor), on.at(ceiling)
    apart = None if low is None or high is None else abs(high - low)
    best = summary.best.method if summary.best else None
    return Scene(
        name=name,
        floor=low,
        ceiling=high,
        floor_text=f"floor {score(floor)}",
        ceiling_text=f"ceiling {score(ceiling)}",
        stacked=apart is not None and (apart < 45 or (low < 50) == (high < 50)),  # type: ignore[operator]
        note=_scene_note(methods),
        marks=tuple(
            Mark(
                line=line,
                best=line.method == best,
                at=on.at(line.score),
                low=on.at(interval(line)[0]),
                high=on.at(interval(line)[1]),
                seeds=tuple(
                    (on.at(seed.score) or 0.0, f"seed {seed.seed}: {score(seed.score)}")
                    for seed in line.seeds
                ),
                label=(
                    f"{line.method}: {score(line.score)}, floor {score(floor)}, "
                    f"ceiling {score(ceiling)}, recovered {line.recovered}, "
                    f"{count(len(line.seeds), 'seed')}"
                ),
            )
            for line in methods
        ),
    )


def _scene_note(lines: list[Line]) -> str:
    if all(line.share is None for line in lines):
        floors = any(isfinite(line.floor) for line in lines)
        return "no ceiling: mean score" if floors else "no floor and ceiling: mean score"
    return "" if any(line.gap for line in lines) else "no gap to recover"


def _hero(summary: Summary) -> dict[str, Any] | None:
    """The one picture at the top: how far the best method got from floor to ceiling."""
    best = summary.best
    if best is None or best.share is None or not best.gap:
        return None
    low, at, high = best.share.low, best.share.estimate, best.share.high
    known = best.bounded
    ends = [0.0, 1.0, at] + ([max(low, -0.5), min(high, 1.5)] if known else [])
    on = Scale(min(ends) - 0.02, max(ends) + 0.02)
    return {
        "floor": on.at(0.0),
        "ceiling": on.at(1.0),
        "at": on.at(at),
        "low": on.at(low) if known else None,
        "high": on.at(high) if known else None,
        "figure": percent(at),
        "interval": f"95 % interval {percent(low)} to {percent(high)} %" if known else "",
    }


# The tables.


def _tables(summary: Summary) -> list[tuple[str, list[Line]]]:
    rank = {line.method: place for place, line in enumerate(summary.overall)}
    tables = []
    if len(summary.compared) > 1:
        tables.append((f"Mean over {len(summary.compared)} settings", list(summary.overall)))
    for group in summary.groups:
        lines = [line for line in summary.lines if line.group == group]
        lines.sort(key=lambda line: rank.get(line.method, len(rank)))
        tables.append((group, lines))
    return tables


def _all_measures(summary: Summary) -> list[str]:
    return list(dict.fromkeys(name for line in summary.lines for name in line.measures))


def _measures(summary: Summary) -> list[str]:
    return _all_measures(summary)[:_MEASURES]


def _tally(claims: Iterable[Shown]) -> str:
    verdicts = [claim.verdict for claim in claims]
    words = {"holds": ("holds", "hold"), "fails": ("fails", "fail")}
    parts = []
    for verdict in dict.fromkeys(("holds", "fails", "inconclusive", *verdicts)):
        if number := verdicts.count(verdict):
            one, many = words.get(verdict, (verdict, verdict))
            parts.append(f"{number} {one if number == 1 else many}")
    return ", ".join(parts)


def _subtitle(config: dict[str, Any], summary: Summary) -> str:
    seeds = len({seed.seed for line in summary.lines for seed in line.seeds})
    parts = [str(config.get("study") or "")]
    if config.get("scale") is not None:
        parts.append(f"{config['scale']} scale")
    if seeds:
        parts.append(count(seeds, "seed"))
    return " · ".join(part for part in parts if part)


def _paper(paper: Any) -> tuple[str, str]:
    """What the paper is called and where it is; no address unless it is one of the web's."""
    if isinstance(paper, dict):
        year = f" ({paper['year']})" if paper.get("year") else ""
        address = f"https://arxiv.org/abs/{paper['arxiv']}" if paper.get("arxiv") else ""
        return f"{paper.get('title') or address}{year}", address
    text = str(paper or "")
    return text, text if text.startswith("https://") else ""


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names and text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(each, dict) for each in value):
        for place, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{place}]")
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(str, value))
    else:
        yield name, "–" if value is None else str(value)
