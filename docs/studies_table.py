"""Write the tables of studies, verdicts and results into README.md and docs/studies/.

A table stands between two markers, `<!-- name -->` and `<!-- /name -->`, and is made from what is
committed: docs/claims/<study>.json (by `generality claims --write docs/claims`) and
docs/results/<study>.csv (the rows of that run; <study>-grid.csv, of further ones), as far as the
page has the markers. With --check nothing is written, and the exit code is 1 if a table is not what
the files say.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from generality.gap import recovered_interval
from generality.report.summary import setting_columns
from generality.report.verdicts import shown
from generality.studies import Study, find_studies

ROOT = Path(__file__).resolve().parents[1]
VERDICTS = ("holds", "fails", "inconclusive")
RESULTS = {"results": "", "grid": "-grid"}  # blocks that a page may have, and their files
MANY, UNITS = 8, 20  # methods of one setting that make a line each; that are but units of a claim
NO_RUN = "No run is recorded here yet."


def tables(root: Path) -> dict[Path, str]:
    """Every page with its tables made anew."""
    studies = find_studies()
    records = {study.name: read_record(root, study.name) for study in studies}
    pages = {
        root / "README.md": {"studies": studies_table(studies, records, "docs/studies/")},
        root / "docs/studies/index.md": {"studies": studies_table(studies, records, "")},
    }
    for study in studies:
        page = root / "docs/studies" / f"{study.name}.md"
        pages[page] = {"claims": claims_table(records[study.name])}
        for block, suffix in RESULTS.items():
            if f"<!-- {block} -->" in page.read_text(encoding="utf-8"):
                path = root / "docs/results" / f"{study.name}{suffix}.csv"
                pages[page][block] = results_tables(pd.read_csv(path)) if path.exists() else NO_RUN
    return {
        path: replaced(path.read_text(encoding="utf-8"), blocks, path)
        for path, blocks in pages.items()
    }


def read_record(root: Path, study: str) -> dict[str, Any] | None:
    """What `generality claims --write` recorded of a study, if it did."""
    path = root / "docs/claims" / f"{study}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def studies_table(
    studies: list[Study], records: Mapping[str, dict[str, Any] | None], folder: str
) -> str:
    """One line a study: its question, its paper, how many claims came out how; by family."""
    lines = ["| study | question | paper | verdicts |", "|---|---|---|---|"]
    sizes = Counter(study.family for study in studies)
    family = ""
    for study in sorted(studies, key=lambda study: (-sizes[study.family], study.family)):
        if study.family != family:
            family = study.family
            about = importlib.import_module(f"generality.studies.{family}").__doc__ or ""
            lines.append(f"| **{family}** | **{about.strip().rstrip('.')}** | | |")
        paper = f"[{study.paper.year}](https://arxiv.org/abs/{study.paper.arxiv})"
        name = f"[{study.name}]({folder}{study.name}.md)"
        lines.append(f"| {name} | {cell(study.title)} | {paper} | {tally(records[study.name])} |")
    return "\n".join(lines)


def tally(record: dict[str, Any] | None) -> str:
    """Verdicts in numbers, such as `3 hold, 1 fails, 2 inconclusive (small, 5 seeds)`."""
    if record is None:
        return "not recorded yet"
    counts = {word: sum(c["verdict"] == word for c in record["claims"]) for word in VERDICTS}
    words = {
        "holds": "holds" if counts["holds"] == 1 else "hold",
        "fails": "fails" if counts["fails"] == 1 else "fail",
        "inconclusive": "inconclusive",
    }
    said = ", ".join(f"{counts[word]} {words[word]}" for word in VERDICTS if counts[word])
    seeds = max((claim["seeds"] for claim in record["claims"]), default=0)
    return f"{said} ({record['scale']}, {seeds} seeds)"


def claims_table(record: dict[str, Any] | None) -> str:
    """Every claim with its verdict, effect, interval and corrected p."""
    if record is None:
        return NO_RUN
    lines = [
        "| verdict | claim | effect | 95 % interval | p (Holm) | seeds | should show at | note |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for claim in map(shown, record["claims"]):
        said = (
            f"{claim.symbol} {claim.verdict}", claim.statement, claim.effect, claim.interval,
            claim.p_holm, claim.seeds, claim.expected_at, claim.note,
        )  # fmt: skip
        lines.append("| " + " | ".join(map(cell, said)) + " |")
    torch = record.get("environment", {}).get("packages", {}).get("torch", "unknown")
    lines += ["", f"From {record['rows']} rows at scale `{record['scale']}`, torch {torch}."]
    return "\n".join(lines)


def results_tables(rows: pd.DataFrame) -> str:
    """A table a task and group of methods that meet: recovered shares beside floor and ceiling."""
    numbers = {"seed", "score", "floor", "ceiling", "recovered"}
    set_ = setting_columns(rows)
    factors = [
        name
        for name in rows
        if name not in {*numbers, "method", "task"} and rows[name].dtype != float
        and (name in set_ or rows[name].nunique(dropna=False) == 1)
    ]  # fmt: skip
    lines = []
    for task, part in rows.groupby("task", sort=False) if "task" in rows else [("", rows)]:
        if task:
            lines += [f"#### {task}", ""]
        settings = part.groupby(factors, sort=False, dropna=False) if factors else [((), part)]
        tables: list[dict[Any, pd.DataFrame]] = []  # settings that share a method are in one
        for setting, cells in settings:
            methods = set(cells["method"])
            alike = [t for t in tables if any(methods & set(c["method"]) for c in t.values())]
            tables = [each for each in tables if each not in alike]
            tables.append({k: c for each in alike for k, c in each.items()} | {setting: cells})
        for table in tables:
            lines += [*results_table(table, factors), ""]
    lines.append(
        "Recovered share with its 95 % interval over seeds, or the mean score where there is no "
        f"floor and ceiling, from {len(rows)} rows."
        if rows[["floor", "ceiling"]].isna().any(axis=None)
        else f"Recovered share with its 95 % interval over seeds, from {len(rows)} rows."
    )
    return "\n".join(lines)


def results_table(table: Mapping[Any, pd.DataFrame], factors: list[str]) -> list[str]:
    """A line a setting; a line a method instead, where one setting has many."""
    methods = list(dict.fromkeys(name for cells in table.values() for name in cells["method"]))
    found = []
    for setting, cells in table.items():
        values = setting if isinstance(setting, tuple) else (setting,)
        named = [f"{name} {cell(value)}" for name, value in zip(factors, values, strict=True)]
        of = {name: cells[cells["method"] == name] for name in methods}
        edges = [mean(cells, "floor"), mean(cells, "ceiling")]
        if len(methods) > UNITS:
            known = cells.groupby("method", sort=False)["score"].mean()
            found.append(
                f"- {', '.join(named)}: {len(known)} units, `{known.index[0]}` to "
                f"`{known.index[-1]}`; mean scores {known.min():.3f} to {known.max():.3f}."
            )
        elif len(table) == 1 and len(methods) > MANY:
            found += [", ".join([*named, f"floor {edges[0]}", f"ceiling {edges[1]}"]) + ":", ""]
            found += ["| method | score | recovered |", "|---|---|---|"]
            for name, rows in of.items():
                score, said = mean(rows, "score"), share(rows)
                said = "–" if said == score else said
                found.append(f"| {cell(name)} | {score} | {said} |")
        else:
            said = (*values, *edges, *map(share, of.values()))
            found.append("| " + " | ".join(map(cell, said)) + " |")
    if not found[-1].startswith("|") or (len(table) == 1 and len(methods) > MANY):
        return found
    header = [*factors, "floor", "ceiling", *methods]
    return ["| " + " | ".join(header) + " |", "|---" * len(header) + "|", *found]


def mean(rows: pd.DataFrame, name: str) -> str:
    """A mean, or a dash where there is none."""
    return f"{rows[name].mean():.3f}" if rows[name].notna().any() else "–"


def share(rows: pd.DataFrame) -> str:
    """The recovered share of one method in one setting; the score, where nothing bounds a gap."""
    if rows.empty:
        return "–"
    if rows[["floor", "ceiling"]].isna().all().any():
        return mean(rows, "score")
    found = recovered_interval(*(rows[name].to_numpy() for name in ("floor", "score", "ceiling")))
    return f"{found.estimate:.2f}" if found.gap and found.seeds < 3 else str(found)


def cell(value: Any) -> str:
    """Text that stays in its cell; a dash for what a row does not have."""
    return (
        "–"
        if pd.api.types.is_scalar(value) and pd.isna(value)
        else str(value).replace("|", "\\|").replace("\n", " ")
    )


def replaced(text: str, blocks: Mapping[str, str], path: Path) -> str:
    """The page with the text between each pair of markers replaced."""
    for name, block in blocks.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise SystemExit(f"{path} needs one {start} and one {end}.")
        between = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
        text = between.sub(lambda _, whole=f"{start}\n{block}\n{end}": whole, text)
    return text


def main() -> None:
    """Write the tables, or say which are out of date."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check = arguments.parse_args().check
    stale = {path: text for path, text in tables(ROOT).items() if path.read_text("utf-8") != text}
    for path, text in stale.items():
        if not check:
            path.write_text(text, encoding="utf-8")
        verb = "is out of date: run python docs/studies_table.py" if check else "written"
        print(f"{path.relative_to(ROOT)} {verb}")
    sys.exit(bool(check and stale))


if __name__ == "__main__":
    main()
