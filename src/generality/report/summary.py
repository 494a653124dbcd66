"""What a run found: one line per method and setting, and the answer in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite, isnan, nan
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from generality.gap import RecoveredShare, gap_recovered, recovered_interval
from generality.lab.runs import RunRecord

Kind = Literal[
    "recovered", "not recovered", "no gap", "no ceiling", "no floor", "no truth", "empty"
]

_FIXED = ("method", "seed", "score", "floor", "ceiling", "recovered", "lower_is_better")
_LEVELS = ["floor", "score", "ceiling"]
_NEEDED = {"no ceiling": ["score", "floor"], "no floor": ["score"]}  # of _LEVELS, to be compared
_REFERENCES = {
    "floor",
    "weak",
    "supervisor",
    "weak supervisor",
    "ceiling",
    "oracle",
    "strong ceiling",
}
_PAIRS = (("weak", "strong"), ("source", "target"))
_WIDE = 0.5  # an interval this wide, as a share of the gap, is called wide


@dataclass(frozen=True)
class Seed:
    """One seed of one line: its score, and the share of its own gap it recovered (NaN: no gap)."""

    seed: int
    score: float
    recovered: float


@dataclass(frozen=True)
class Line:
    """One method in one setting, over its seeds. Missing numbers are NaN.

    `score`, `floor` and `ceiling` are means over seeds in the study's own unit; `low` and `high`
    are the 95 % t interval of the mean score. `share` is None where floor or ceiling is unknown.
    `reference` marks the lines that are themselves the floor or the ceiling.
    """

    method: str
    group: str
    score: float
    low: float
    high: float
    floor: float
    ceiling: float
    share: RecoveredShare | None
    reference: bool
    seeds: tuple[Seed, ...]
    measures: dict[str, float]

    @property
    def gap(self) -> bool:
        """Whether there is something to recover."""
        return self.share is not None and self.share.gap

    @property
    def bounded(self) -> bool:
        """Whether the share has an interval worth the name; it takes three seeds."""
        return (
            self.gap
            and self.share is not None
            and (isfinite(self.share.low) or isfinite(self.share.high))
        )

    @property
    def recovered(self) -> str:
        """The share recovered in words: `59 % [41, 77]`, `no gap`, or a dash if unknown."""
        if self.share is None:
            return "–"
        return share(self) if self.gap else "no gap"


@dataclass(frozen=True)
class Summary:
    """All that the page and the terminal say about a run's rows.

    `lines` holds every method in every setting. `overall` holds one line per method that ran in
    all of `compared` settings, best mean first; its first line that is not a reference is the
    best method. Where a method was `chosen` beforehand, on rows that the scores do not come from,
    it leads instead. `answer` is the headline, `caveats` what has to be said with it.
    """

    kind: Kind
    answer: str
    caveats: tuple[str, ...]
    lines: tuple[Line, ...]
    overall: tuple[Line, ...]
    groups: tuple[str, ...]
    compared: tuple[str, ...]
    floor_name: str
    ceiling_name: str
    lower_is_better: bool
    chosen: str | None = None

    @property
    def best(self) -> Line | None:
        """The chosen method, or that with the best mean over all compared settings, if any."""
        return next((line for line in self.overall if not line.reference), None)


def summarise_run(run: RunRecord) -> Summary:
    """`summarise` with what the run's configuration says about its rows.

    Optional keys of `config.json`: `factors` (columns that were set), `floor_name`,
    `ceiling_name`, `lower_is_better`, `winner` (the method chosen on rows kept apart), `references`
    (the methods that are themselves the floor or the ceiling).
    """
    config = run.config
    return summarise(
        run.rows,
        factors=config.get("factors"),
        floor_name=config.get("floor_name"),
        ceiling_name=config.get("ceiling_name") or "full supervision",
        lower_is_better=bool(config.get("lower_is_better", False)),
        chosen=config.get("winner"),
        references=config.get("references"),
    )


def summarise(
    rows: pd.DataFrame,
    *,
    factors: Sequence[str] | None = None,
    floor_name: str | None = None,
    ceiling_name: str = "full supervision",
    lower_is_better: bool = False,
    chosen: str | None = None,
    references: Sequence[str] | None = None,
) -> Summary:
    """Say what share of the gap was recovered, by what, and how sure that is.

    The best method is the one with the best mean over all settings that the compared methods
    share: the largest block of the rows without holes, chosen without looking at a score. Settings
    without a gap are reported and left out of that mean.

    Args:
        rows: one row per method, seed and setting: columns `method`, `seed`, `score`, `floor`,
            `ceiling` and any others; nulls allowed everywhere but in `method` and `seed`.
        factors: the columns that were set rather than measured. By default those whose values
            come back from seed to seed, as in `generality.claims`.
        floor_name: what the floor is; by default the supervisor's name if there is only one.
        ceiling_name: what the ceiling is.
        lower_is_better: for losses and error rates; a column of that name says so too.
        chosen: the method that was chosen on rows kept apart; it leads, whatever came of it here.
        references: the methods that are themselves the floor or the ceiling. By default those
            whose every score is.

    >>> rows = pd.DataFrame({"method": ["naive"] * 3, "seed": [0, 1, 2],
    ...     "score": [0.76, 0.77, 0.78], "floor": [0.70, 0.71, 0.72], "ceiling": [0.8, 0.81, 0.82]})
    >>> print(summarise(rows).answer.replace(" of the", "\\nof the"))
    The one method tried, naive, recovered 60 % [60, 60]
    of the gap between the floor (0.710) and full supervision (0.810), over 3 seeds.
    """
    rows = _tidy(rows)
    if "lower_is_better" in rows and len(rows):
        lower_is_better = lower_is_better or bool(rows["lower_is_better"].eq(True).all())
    set_, own = _split(rows, factors)
    measured = [
        name
        for name in rows.columns
        if name not in (*_FIXED, *set_, *own)
        and pd.api.types.is_numeric_dtype(rows[name])
        and rows[name].notna().any()
    ]
    arms = [_arm(row, own) for row in rows[["method", *own]].to_dict("records")]
    labels = [_setting(row) for row in rows[set_].to_dict("records")] if set_ else [""] * len(rows)
    rows = rows.assign(_arm=arms, _group=labels)
    edges = _references(rows, references)
    cells = rows.groupby(["_group", "_arm", "seed"], sort=False)[[*_LEVELS, *measured]].mean()

    lines = _lines(cells, edges, lower_is_better)
    kind, groups = _comparable(lines)
    whole = cells.dropna(subset=_NEEDED.get(kind, _LEVELS)).reset_index()
    groups_in, seeds_in = _block(whole, groups, edges)
    inside = whole[whole["_group"].isin(groups_in) & whole["seed"].isin(seeds_in)]
    everywhere = inside.groupby("_arm")["seed"].transform("size").eq(len(groups_in) * len(seeds_in))
    means = inside[everywhere].drop(columns="_group").groupby(["_arm", "seed"], sort=False).mean()
    overall = _lines(pd.concat({"": means}, names=["_group"]), edges, lower_is_better)
    sign = 1 if lower_is_better else -1
    overall.sort(key=lambda each: (each.method != chosen, sign * each.score, each.method))
    if floor_name is None:
        weak = rows["weak"] if "weak" in rows else pd.Series(dtype=str)
        named = weak[rows["_group"].isin(groups_in)].dropna().unique()
        floor_name = str(named[0]) if len(named) == 1 else "the floor"
    summary = Summary(
        kind=kind,
        answer="",
        caveats=(),
        lines=tuple(lines),
        overall=tuple(overall),
        groups=tuple(dict.fromkeys(labels)),
        compared=tuple(groups_in),
        floor_name=floor_name,
        ceiling_name=ceiling_name,
        lower_is_better=lower_is_better,
        chosen=chosen if any(line.method == chosen for line in overall) else None,
    )
    return _answered(summary)


# Words for numbers, the same on the page, in the terminal and in the picture.


def score(value: float | None) -> str:
    """A score with as many digits as are worth reading; a dash if there is none.

    >>> score(0.71704), score(56.61), score(1234.5), score(None)
    ('0.717', '56.61', '1234', '–')
    """
    if value is None or not isfinite(value):
        return "–"
    return (f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}").replace("-", "−")


def percent(value: float) -> str:
    """A share as a whole number of percent, without the sign.

    >>> percent(0.587), percent(-0.2), percent(float("inf")), percent(float("nan"))
    ('59', '−20', '∞', '–')
    """
    if isnan(value):
        return "–"
    return (f"{100 * value:.0f}" if isfinite(value) else "∞" if value > 0 else "-∞").replace(
        "-", "−"
    )


def share(line: Line) -> str:
    """A line's recovered share: `59 % [41, 77]`, or `59 %` if the seeds do not bound it."""
    if line.share is None or not line.gap:
        return "–"
    text = f"{percent(line.share.estimate)} %"
    if line.bounded:
        text += f" [{percent(line.share.low)}, {percent(line.share.high)}]"
    return text


def count(number: int, noun: str) -> str:
    """A number and its noun.

    >>> count(1, "seed"), count(5, "seed")
    ('1 seed', '5 seeds')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# How the rows are read.


def setting_columns(rows: pd.DataFrame) -> list[str]:
    """The columns that were set and not measured: their values come back from seed to seed.

    >>> rows = pd.DataFrame({"method": ["a", "b"] * 2, "seed": [0, 0, 1, 1], "size": [1, 2, 1, 2],
    ...     "tokens": [90, 91, 92, 95], "score": 0.5, "floor": 0.4, "ceiling": 0.6})
    >>> setting_columns(rows)
    ['size']
    """
    shared, own = _split(_tidy(rows), None)
    return [name for name in rows if name in (*shared, *own)]


def _tidy(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows.rename(columns=str).reset_index(drop=True)
    missing = {name: nan for name in ("method", "seed", *_LEVELS) if name not in rows}
    rows = rows.assign(**missing)
    for name in _LEVELS:
        rows[name] = pd.to_numeric(rows[name], errors="coerce").astype(float)
    rows = rows.replace([np.inf, -np.inf], nan)
    rows["method"] = rows["method"].map(lambda name: "(unnamed)" if pd.isna(name) else str(name))
    rows["seed"] = pd.to_numeric(rows["seed"], errors="coerce").fillna(-1).astype(int)
    return rows


def _split(rows: pd.DataFrame, factors: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The columns that make a setting, and those that belong to single methods."""
    varying = [
        name for name in rows.columns if name not in _FIXED and rows[name].nunique(dropna=False) > 1
    ]
    if factors is not None:
        chosen = [name for name in varying if name in factors]
    else:
        numeric = [
            name
            for name in varying
            if pd.api.types.is_numeric_dtype(rows[name])
            and not pd.api.types.is_bool_dtype(rows[name])
        ]
        words = [name for name in varying if name not in numeric]
        words = [name for name in words if _recurs(rows, name, [])]
        chosen = words + [name for name in numeric if _recurs(rows, name, ["method", *words])]
    methods = rows["method"].nunique()
    own = [
        name for name in chosen if rows.loc[rows[name].notna(), "method"].nunique() <= methods / 2
    ]
    named = [name for pair in _PAIRS if set(pair) <= set(rows) for name in pair]  # even if constant
    return [name for name in rows.columns if name in (*chosen, *named) and name not in own], own


def _recurs(rows: pd.DataFrame, name: str, within: list[str]) -> bool:
    """Whether no seed shows a value that the fullest seed lacks: so settings do, not measurements.

    The rule of `generality.claims`, for numbers applied inside each cell of `within`, where a
    coarse measurement has few rows to recur by chance. One seed shows nothing; then fractions are
    settings if most of them come several times.
    """
    if rows["seed"].nunique() < 2:
        numbers = pd.to_numeric(rows[name], errors="coerce").dropna()
        return bool((numbers % 1 == 0).all() or rows[name].nunique() <= len(rows) / 2)
    for _, part in rows.groupby(within, dropna=False) if within else [("", rows)]:
        known = part[part[name].notna()]
        fullest = known[known["seed"].isin(known["seed"].mode()[:1])]
        if not set(known[name]) <= set(fullest[name]):
            return False
    return True


def _arm(row: dict[Any, Any], own: list[str]) -> str:
    settings = [f"{name}={_value(row[name])}" for name in own if not pd.isna(row[name])]
    return f"{row['method']} ({', '.join(settings)})" if settings else row["method"]


def _setting(row: dict[Any, Any]) -> str:
    known = {name: value for name, value in row.items() if not pd.isna(value)}
    parts = []
    for start, end in _PAIRS:
        if start in known and end in known:
            parts.append(f"{_value(known.pop(start))} → {_value(known.pop(end))}")
    for name, value in known.items():
        plain = isinstance(value, str) and not any(name in pair for pair in _PAIRS)
        parts.append(value if plain else f"{name} {_value(value)}")
    return " · ".join(parts)


def _value(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:g}"
    return str(value)


def _references(rows: pd.DataFrame, named: Sequence[str] | None) -> set[str]:
    """The arms named, or else those whose every score is the floor's, or the ceiling's."""
    found = set() if named is None else set(named) & set(rows["_arm"])
    for arm, part in rows.groupby("_arm", sort=False) if named is None else ():
        known = part[part["score"].notna()]
        sure = len(known) > 1 or str(arm).lower() in _REFERENCES
        same = (
            (known["score"] - known[name]).abs().le(1e-12).all() for name in ("floor", "ceiling")
        )
        if len(known) and sure and any(same):
            found.add(str(arm))
    return found if len(found) < rows["_arm"].nunique() else set()


def _lines(cells: pd.DataFrame, references: set[str], lower_is_better: bool) -> list[Line]:
    """One line per setting and arm, of cells indexed by setting, arm and seed."""
    names = [str(name) for name in cells.columns]
    values, every_seed = cells.to_numpy(dtype=float), cells.index.get_level_values("seed")
    places = cells.groupby(level=["_group", "_arm"], sort=False).indices
    lines = []
    for group, arm in dict.fromkeys(each[:2] for each in cells.index):
        place = sorted(places[group, arm], key=lambda each: every_seed[each])
        by_seed = dict(zip(names, values[place].T, strict=True))
        scored = np.isfinite(by_seed["score"])
        if scored.any():
            by_seed = {name: column[scored] for name, column in by_seed.items()}
        seeds = [int(every_seed[each]) for each, known in zip(place, scored, strict=True) if known]
        lines.append(_line(arm, group, seeds, by_seed, arm in references, lower_is_better))
    return lines


def _line(
    arm: str,
    group: str,
    seeds: list[int],
    by_seed: dict[str, NDArray[np.float64]],
    reference: bool,
    lower_is_better: bool,
) -> Line:
    floor, scores, ceiling = (by_seed[name] for name in _LEVELS)
    found = None
    if np.isfinite(floor + scores + ceiling).any():
        found = _share(*(tuple(by_seed[name].tolist()) for name in _LEVELS), lower_is_better)
    half = nan
    if len(seeds) > 1:
        half = stats.t.ppf(0.975, len(seeds) - 1) * scores.std(ddof=1) / len(seeds) ** 0.5
    shares = gap_recovered(floor, scores, ceiling, lower_is_better=lower_is_better)
    means = {
        name: float(column[np.isfinite(column)].mean()) if np.isfinite(column).any() else nan
        for name, column in by_seed.items()
    }
    return Line(
        method=arm,
        group=group,
        score=means["score"],
        low=means["score"] - float(half),
        high=means["score"] + float(half),
        floor=means["floor"],
        ceiling=means["ceiling"],
        share=found,
        reference=reference,
        seeds=tuple(
            Seed(*each) for each in zip(seeds, scores.tolist(), shares.tolist(), strict=False)
        ),
        measures={name: mean for name, mean in means.items() if name not in _LEVELS},
    )


@lru_cache(maxsize=10_000)  # the page, the tables and the picture ask for the same ones
def _share(
    floor: tuple[float, ...],
    scores: tuple[float, ...],
    ceiling: tuple[float, ...],
    lower_is_better: bool,
) -> RecoveredShare:
    return recovered_interval(floor, scores, ceiling, lower_is_better=lower_is_better)


def _comparable(lines: Iterable[Line]) -> tuple[Kind, list[str]]:
    """The settings the headline may speak of, and what it can say about them."""
    lines = list(lines)
    scored = [line for line in lines if line.seeds]
    if not lines:
        return "empty", []
    if not scored:
        return "no truth", []
    # Floor and ceiling are a setting's own: the line with the most seeds knows them best.
    most: dict[str, Line] = {}
    for line in scored:
        if line.group not in most or len(line.seeds) > len(most[line.group].seeds):
            most[line.group] = line
    whole = [group for group, line in most.items() if line.share is not None]
    gaps = [group for group in whole if most[group].gap]
    floors = [group for group, line in most.items() if isfinite(line.floor)]
    if gaps:
        return "recovered", gaps
    if whole:
        return "no gap", whole
    return ("no ceiling", floors) if floors else ("no floor", list(most))


def _block(
    cells: pd.DataFrame, groups: list[str], references: set[str]
) -> tuple[list[str], list[int]]:
    """Settings and seeds of the largest block of the cells without a hole, blind to the scores."""
    rows = cells[cells["_group"].isin(groups) & ~cells["_arm"].isin(references)]
    seeds: dict[str, dict[str, frozenset[int]]] = {}
    for (arm, group), part in rows.groupby(["_arm", "_group"], sort=False):
        seeds.setdefault(str(arm), {})[str(group)] = frozenset(part["seed"].tolist())
    best: tuple[int, list[str], list[int]] = (0, [], [])
    for wanted in dict.fromkeys(each for held in seeds.values() for each in held.values()):
        cover = {
            arm: frozenset(group for group, have in held.items() if have >= wanted)
            for arm, held in seeds.items()
        }
        for shared in dict.fromkeys(cover.values()):
            arms = sum(covered >= shared for covered in cover.values())
            volume = arms * len(shared) * len(wanted)
            if volume > best[0]:
                best = (volume, [group for group in groups if group in shared], sorted(wanted))
    return best[1:]


# What is said about them.


def _answered(summary: Summary) -> Summary:
    kind, answer, caveats = _say(summary)
    return replace(summary, kind=kind, answer=answer, caveats=tuple(caveats))


def _say(summary: Summary) -> tuple[Kind, str, list[str]]:
    if summary.kind == "empty":
        return "empty", "There is no result yet: the run has no rows.", []
    if summary.kind == "no truth":
        return (
            "no truth",
            "How much was recovered cannot be said: no row has a score.",
            ["A score, a floor and a ceiling all need true labels for some held-out examples."],
        )
    best = summary.best
    if best is None:
        return "empty", "There is no method to compare: every row is a floor or a ceiling.", []
    tried = sum(not line.reference for line in summary.overall)
    leader = "The one method tried" if tried == 1 else f"The best of {tried} methods tried"
    if summary.chosen == best.method and tried > 1:
        leader = f"The method chosen among {tried} on rows kept apart"
    over = f"over {count(len(best.seeds), 'seed')}"
    if len(summary.compared) > 1:
        over += f" and {len(summary.compared)} settings"
    floor = f"{summary.floor_name} ({score(best.floor)})"
    ceiling = f"{summary.ceiling_name} ({score(best.ceiling)})"
    caveats = _caveats(summary)
    if summary.kind == "no floor":
        return (
            "no floor",
            f"{leader}, {best.method}, scored {score(best.score)}, {over}. "
            "Without a floor and a ceiling there is no gap to speak of.",
            caveats,
        )
    gain = (best.floor - best.score) if summary.lower_is_better else (best.score - best.floor)
    if summary.kind == "no ceiling":
        side = "better than" if gain > 0 else "no better than"
        return (
            "no ceiling",
            f"{leader}, {best.method}, scored {score(best.score)}, {side} {floor}, {over}. "
            "Without a ceiling the share recovered is unknown.",
            caveats,
        )
    if summary.kind == "no gap" or best.share is None or not best.gap:
        return (
            "no gap",
            f"There is no gap to recover: {ceiling} is not reliably better than {floor}, {over}.",
            [
                f"{leader}, {best.method}, scored {score(best.score)}.",
                *caveats,
            ],
        )
    if best.share.estimate <= 0:
        who = "The one method tried did not" if tried == 1 else f"None of {tried} methods tried"
        return (
            "not recovered",
            f"{who} beat {floor}: the nearest, {best.method}, scored {score(best.score)} and "
            f"recovered {share(best)} of the gap to {ceiling}, {over}.",
            caveats,
        )
    return (
        "recovered",
        f"{leader}, {best.method}, recovered {share(best)} of the gap between {floor} and "
        f"{ceiling}, {over}.",
        caveats,
    )


def _caveats(summary: Summary) -> list[str]:
    best = summary.best
    said: list[str] = []
    if best is None:
        return said
    if summary.chosen and summary.chosen != best.method:
        said.append(
            f"{best.method} is the best by the very scores shown: the method chosen on rows kept "
            f"apart is {summary.chosen}, which is itself a reference."
        )
    found = best.share if best.gap else None
    if len(best.seeds) < 3:
        seeds = "One seed" if len(best.seeds) == 1 else "Two seeds"
        said.append(f"{seeds} cannot say how sure this is: repeat with --seeds 5.")
    elif found is not None:
        if found.low <= 0 < found.estimate:
            said.append("The interval includes zero: that anything was recovered is not shown.")
        if found.high - found.low > _WIDE:
            said.append("The interval is wide: more seeds or more test examples would narrow it.")
    if found is not None and found.estimate > 1:
        said.append(f"It came out above {summary.ceiling_name} as measured here.")
    without = [line for line in summary.lines if line.share is not None and not line.gap]
    flat = list(dict.fromkeys(each.group for each in without if each.group not in summary.compared))
    if flat and summary.kind == "recovered":
        said.append(
            f"No gap to recover in {len(flat)} of {count(len(summary.groups), 'setting')}, "
            f"left out of the mean: {_listed(flat)}."
        )
    inside = {line.method for line in summary.overall}
    partial = [line.method for line in summary.lines if line.method not in inside]
    if partial:
        said.append(
            "Not in the running, because they did not run in every setting and seed compared: "
            f"{_listed(list(dict.fromkeys(partial)))}."
        )
    return said


def _listed(names: list[str], most: int = 6) -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return "; ".join(names[:most] + more)
