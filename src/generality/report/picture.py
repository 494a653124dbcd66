"""One picture of a run for a README or a paper: floor, methods, ceiling, share recovered."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from generality.errors import UserError
from generality.lab.runs import RunRecord, read_run, write_atomically
from generality.report.summary import Summary, percent, score, summarise_run

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 800, 270, 660, 34, 96
_METHODS = 10


def write_picture(run_directory: Path | str, out: Path | str) -> Path:
    """Write the picture of a run as a standalone SVG, readable on light and dark pages.

    It shows the mean over all compared settings, best method first. The same rows give the same
    bytes; no font, script or image is fetched.

    Raises:
        UserError: if the folder is no run, or there is no gap and so no share to draw.
    """
    run = read_run(Path(run_directory))
    image = draw(run).encode("utf-8", "backslashreplace")
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_bytes(image))
    return path


def draw(run: RunRecord) -> str:
    """The picture's SVG."""
    summary = summarise_run(run)
    best = summary.best
    methods = [line for line in summary.overall if not line.reference and line.share is not None]
    if best is None or not best.gap or not methods:
        raise UserError(f"There is no recovered share to draw: {summary.answer}")
    shown = [line for line in methods[:_METHODS] if line.share is not None]
    ends = [0.0, 1.0]
    for line in shown:
        if line.share is not None:
            ends.append(line.share.estimate)
            ends += [
                min(max(e, -0.5), 1.5) for e in (line.share.low, line.share.high) if line.bounded
            ]
    start, stop = min(ends), max(ends)

    def at(value: float) -> float:
        inside = min(max(value, start), stop)
        return round(_LEFT + (_RIGHT - _LEFT) * (inside - start) / (stop - start), 1)

    rows = [
        {
            "y": _TOP + 28 + _ROW * place,
            "name": _short(line.method, 32),
            "best": place == 0,
            "at": at(line.share.estimate),
            "low": at(line.share.low) if line.bounded else None,
            "high": at(line.share.high) if line.bounded else None,
            "share": f"{percent(line.share.estimate)} %",
        }
        for place, line in enumerate(shown)
        if line.share is not None
    ]
    environment = Environment(
        loader=PackageLoader("generality.report", "."), autoescape=True, undefined=StrictUndefined
    )
    bottom = _TOP + 28 + _ROW * len(rows)
    return environment.get_template("picture.svg.jinja").render(
        width=_WIDTH,
        height=bottom + 48,
        bottom=bottom - 8,
        top=_TOP,
        floor=at(0.0),
        ceiling=at(1.0),
        floor_anchor="start" if at(0.0) - _LEFT < 60 else "middle",
        ceiling_anchor="end" if _RIGHT - at(1.0) < 60 else "middle",
        floor_name=_short(summary.floor_name),
        ceiling_name=_short(summary.ceiling_name),
        floor_score=score(best.floor),
        ceiling_score=score(best.ceiling),
        rows=rows,
        left=_LEFT,
        right=_RIGHT,
        answer=summary.answer,
        title=_short(str(run.config.get("title") or run.config.get("study") or ""), 70),
        footer=_footer(summary, len(methods)),
    )


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _footer(summary: Summary, methods: int) -> str:
    best = summary.best
    seeds = len(best.seeds) if best else 0
    parts = ["mean and 95 % interval", f"{seeds} seeds" if seeds != 1 else "1 seed"]
    if len(summary.compared) > 1:
        parts.append(f"{len(summary.compared)} settings")
    if methods > _METHODS:
        parts.append(f"the best {_METHODS} of {methods} methods")
    return " · ".join(parts)
